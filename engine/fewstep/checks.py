"""Checks of single arguments: the value in its own type, or an ArgumentError that says what is allowed.

A number is Python's, numpy's or torch's, one that has no axis. True and text are no numbers, and a float is no integer,
2.0 neither: floats do not tell large integers apart.
"""

import math
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence, ValuesView
from difflib import get_close_matches
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from fewstep.errors import ArgumentError

PLAIN: Final = frozenset({type(None), bool, int, float, str})  # most of what is typed; the rest takes 2 us to tell


def _scalar(value: Any) -> Any:
    """A scalar of numpy or torch as Python's own; anything else as it is."""
    if type(value) in PLAIN:
        return value
    if isinstance(value, Tensor | np.ndarray):
        return value.item() if value.ndim == 0 else value
    kinds = ((np.bool_, bool), (np.integer, int), (np.floating, float), (np.str_, str))
    return next((python(value) for numpys, python in kinds if isinstance(value, numpys)), value)


def entries(value: Any) -> list[Any] | None:
    """What a sequence, an iterator, a view of a dict, or an array or tensor with axes holds, each as Python's own.

    None where it is one thing, or has no order, as a set.
    """
    if type(value) in PLAIN or isinstance(value, str | bytes | Mapping):
        return None
    if isinstance(value, Tensor):
        return None if value.ndim == 0 else value.tolist()
    if isinstance(value, Sequence | Iterator | KeysView | ValuesView | ItemsView):
        return [_scalar(each) for each in value]
    if not hasattr(value, "__array__"):
        return None
    array = np.asarray(value)  # also of pandas and others
    return None if array.ndim == 0 else [_scalar(each) for each in array.tolist()]


def as_python(value: Any) -> Any:
    """A number of numpy or torch as Python's own, and several, also those of an iterator, as a list of such."""
    listed = entries(value)
    return _scalar(value) if listed is None else listed


def as_tensor(value: Any) -> Any:
    """An array of numbers as a tensor, whatever its byte order and strides; anything else as it is.

    Floats of more than 64 bits, which torch lacks, are rounded to 64.
    """
    if isinstance(value, Tensor) or not hasattr(value, "__array__"):
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        return value
    wide = array.dtype.kind == "f" and array.dtype.itemsize > 8
    return torch.from_numpy(np.array(array, dtype=np.float64 if wide else array.dtype.newbyteorder("=")))


def whole(value: object) -> int | None:
    """The integer that a value is; None where it is none."""
    value = _scalar(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def real(value: object) -> float | None:
    """The float that a number is, which may not be finite; None where it is none."""
    value = _scalar(value)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def integer(name: str, value: object, low: int, high: int, why: str = "") -> int:
    """`value` if it is a whole number from low to high; else ArgumentError."""
    found = whole(value)
    if found is None or not low <= found <= high:
        allowed = f"an integer from {low} to {high}" if low < high else str(low)
        raise ArgumentError(name, value, allowed + why)
    return found


def number(
    name: str, value: object, low: float, high: float, *, open_low: bool = False, open_high: bool = False
) -> float:
    """`value` as a float if it lies from low to high (ends excluded where open); else ArgumentError."""
    found = real(value)
    at_end = (open_low and found == low) or (open_high and found == high)
    if found is not None and low <= found <= high and not at_end:
        return found
    brackets = "(" if open_low else "[", ")" if open_high else "]"
    raise ArgumentError(name, value, f"a number in {brackets[0]}{exact(low)}, {exact(high)}{brackets[1]}")


def exact(value: float) -> str:
    """`value` in as few digits as say it exactly, so that a bound can be typed as it was read: 80, 1e+06, 0.0022742."""
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value))


def numbers(name: str, values: object, allowed: str) -> list[float]:
    """Several finite numbers as floats; else ArgumentError with `allowed`."""
    listed = entries(values)
    found = [] if listed is None else [real(value) for value in listed]
    if listed is None or any(value is None or not math.isfinite(value) for value in found):
        raise ArgumentError(name, values, allowed)
    return [value for value in found if value is not None]


def flag(name: str, value: object) -> bool:
    """`value` if it is True or False; else ArgumentError."""
    found = _scalar(value)
    if not isinstance(found, bool):
        raise ArgumentError(name, value, "true or false")
    return found


def one_of(value: object, allowed: Iterable[str]) -> bool:
    """Whether a value is one of some words; an array, which compares entry by entry, is none."""
    return isinstance(value, str) and value in tuple(allowed)


def nearest(allowed: Iterable[str], name: object) -> str | None:
    """The allowed name that a name may have been meant for."""
    return next(iter(get_close_matches(str(name).lower(), list(allowed), n=1)), None)


def named(allowed: Iterable[str], name: object) -> str:
    """The allowed names in words, and the one that a name may have been meant for."""
    names = list(allowed)
    near = nearest(names, name)
    return ", ".join(names) + ("" if near is None else f"; did you mean {near!r}?")


def only(name: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """ArgumentError for the first of the given names that is not allowed; `name` says of what."""
    names = list(allowed)
    for each in given:
        if each not in names:
            raise ArgumentError(name, each, named(names, each) if names else "nothing")
