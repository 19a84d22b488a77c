"""What a user may give as labels: one number per sample, or, where classes have names, one name."""

import math
from collections.abc import Sequence

from torch import Tensor

from fewstep.errors import ArgumentError

Labels = Sequence[float | str] | Tensor


def as_list(labels: Labels, allowed: str = "finite numbers") -> list[float]:
    """Labels as plain numbers.

    Raises:
        ArgumentError: one that is no finite number.
    """
    values: list[float] = []
    for value in labels.flatten().tolist() if isinstance(labels, Tensor) else list(labels):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ArgumentError("labels", value, allowed if isinstance(value, str) else "finite numbers")
        values.append(value)
    return values


def plain(value: float) -> float | int:
    """A whole number without its point, for a message."""
    return int(value) if value == int(value) else value
