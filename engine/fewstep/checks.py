"""Checks of single arguments: the value in its own type, or an ArgumentError that says what is allowed."""

import numpy as np

from fewstep.errors import ArgumentError


def integer(name: str, value: object, low: int, high: int, why: str = "") -> int:
    """`value` if it is a whole number from low to high; else ArgumentError. A bool is not a number here."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or not low <= value <= high:
        whole = f"an integer from {low} to {high}" if low < high else str(low)
        raise ArgumentError(name, value, whole + why)
    return int(value)


def number(
    name: str, value: object, low: float, high: float, *, open_low: bool = False, open_high: bool = False
) -> float:
    """`value` as a float if it lies from low to high (ends excluded where open); else ArgumentError."""
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        real = float(value)
        if low <= real <= high and not (open_low and real == low) and not (open_high and real == high):
            return real
    brackets = "(" if open_low else "[", ")" if open_high else "]"
    raise ArgumentError(name, value, f"a number in {brackets[0]}{exact(low)}, {exact(high)}{brackets[1]}")


def exact(value: float) -> str:
    """`value` in as few digits as say it exactly, so that a bound can be typed as it was read: 80, 1e+06, 0.0022742."""
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value))
