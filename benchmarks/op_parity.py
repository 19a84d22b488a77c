"""Whether a result is as near to float64 as torch's own in the same dtype allows."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from measure import relative_error
from op_work import Call, Tensors, Work
from torch import Tensor


@dataclass(frozen=True)
class Errors:
    """How far results are from float64: of all values together, and of the worst one as a share of the largest."""

    difference: float  # |found - exact| / |exact|, L2
    worst: float  # max |found - exact| / max |exact|

    @classmethod
    def of(cls, found: Sequence[Tensor], exact: Sequence[Tensor]) -> "Errors":
        """The largest of each over the results; nan where one is not finite, or has another shape."""
        pairs = list(zip(found, exact, strict=True))
        if any(mine.shape != wanted.shape for mine, wanted in pairs):
            return cls(float("nan"), float("nan"))
        return cls(
            _largest([relative_error(mine, wanted) for mine, wanted in pairs]),
            _largest([_worst(mine, wanted) for mine, wanted in pairs]),
        )

    def within(self, allowed: "Errors") -> bool:
        """Whether neither is larger; nan is."""
        return self.difference <= allowed.difference and self.worst <= allowed.worst


def _largest(values: list[float]) -> float:
    return max(values, key=lambda value: (value != value, value))


def _worst(found: Tensor, exact: Tensor) -> float:
    wide = exact.double()
    tiny = torch.finfo(torch.float64).tiny
    return float((found.double() - wide).abs().max() / wide.abs().max().clamp(min=tiny))


@dataclass(frozen=True)
class Parity:
    """What a case's contenders are compared with.

    Attributes:
        exact: the results in float64.
        own: how far torch's own are from them.
        allowed: twice as far, and one eps of the coarsest result's dtype.
        dtypes: of the results.
    """

    exact: Tensors
    own: Errors
    allowed: Errors
    dtypes: tuple[torch.dtype, ...]

    @classmethod
    def of(cls, work: Work) -> "Parity":
        """Ask float64 and torch."""
        exact = work.exact()
        work.reset()
        found = (work.own or work.eager)()
        eps = max(torch.finfo(each.dtype).eps for each in found)
        own = Errors.of(found, exact)
        allowed = Errors(2 * own.difference + eps, 2 * own.worst + eps)
        return cls(exact, own, allowed, tuple(each.dtype for each in found))

    def errors(self, work: Work, call: Call) -> Errors:
        """How far this one is, once what it may change is back where it was."""
        for each, dtype in zip(self.exact, self.dtypes, strict=True):
            torch.full_like(each, float("nan"), dtype=dtype)  # the next tensor of this size is given its memory
        work.reset()
        return Errors.of(call(), self.exact)

    def why_not(self, errors: Errors) -> str:
        """Why it is not to be timed, "" if it may be."""
        if errors.within(self.allowed):
            return ""
        allowed = f"allowed {self.allowed.difference:.1e} and {self.allowed.worst:.1e}"
        return f"off by {errors.difference:.1e}, its worst value by {errors.worst:.1e} of the largest; {allowed}"
