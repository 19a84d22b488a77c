"""What a user may give as labels: one number per sample, or, where classes have names, one name."""

import math
from collections.abc import Sequence

from torch import Tensor

from fewstep.errors import ArgumentError

Labels = float | str | Sequence[float | str] | Tensor
"""One per sample, or one for all."""


def as_list(labels: Sequence[float | str], allowed: str = "finite numbers") -> list[float]:
    """Labels as plain numbers.

    Raises:
        ArgumentError: one that is no finite number.
    """
    values: list[float] = []
    for value in labels:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ArgumentError("labels", value, allowed if isinstance(value, str) else "finite numbers")
        values.append(value)
    return values


def listed(labels: Labels, samples: int) -> list[float | str]:
    """One label per sample."""
    values = labels.tolist() if isinstance(labels, Tensor) else labels
    return [values] * samples if isinstance(values, int | float | str) else list(values)


def plain(value: float) -> float | int:
    """A whole number without its point, for a message."""
    return int(value) if value == int(value) else value
