"""What a user may give as labels: one number per sample, or, where classes have names, one name."""

import math
from collections.abc import Sequence

from torch import Tensor

from fewstep import checks
from fewstep.errors import ArgumentError

Labels = float | str | Sequence[float | str] | Tensor
"""One per sample, or one for all."""


def as_list(labels: Sequence[float | str], allowed: str) -> list[float]:
    """Labels as Python's numbers, integers as such.

    Raises:
        ArgumentError: one that is no finite number, with what is `allowed`.
    """
    values: list[float] = []
    for value in labels:
        number = checks.real(value)
        if number is None or not math.isfinite(number):
            raise ArgumentError("labels", value, allowed)
        integer = checks.whole(value)
        values.append(number if integer is None else integer)
    return values


def listed(labels: Labels, samples: int) -> list[float | str]:
    """One label per sample."""
    values = checks.entries(labels)
    return [checks.as_python(labels)] * samples if values is None else values


def name_of(label: float, names: Sequence[str]) -> str | None:
    """The name of a class; None for a label that is none of those with names, such as the one for no condition."""
    return names[label] if isinstance(label, int) and 0 <= label < len(names) else None
