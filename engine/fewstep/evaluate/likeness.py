"""A student beside its teacher: the same seeds and labels, and how like the pictures are."""

import math
import statistics
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from fewstep.errors import ArgumentError

RANGE: Final = 2.0  # of pixels in [-1, 1]


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """10 log10(RANGE^2 / mean (a - b)^2) in dB for each pair of images [N, C, H, W] in [-1, 1]: [N] float64.

    inf where the two are equal.

    Raises:
        ArgumentError: images that are not as many, or not of one shape.
    """
    if a.shape != b.shape or a.ndim < 2:
        raise ArgumentError("b", list(b.shape), f"images like those of a, {list(a.shape)}")
    squared = (a.to(torch.float64) - b.to(torch.float64)).square().flatten(1).mean(1)
    return 10 * torch.log10(RANGE**2 / squared)


@dataclass(frozen=True)
class Likeness:
    """PSNR of a student's pictures to its teacher's, seed by seed."""

    each: tuple[float, ...]  # dB; inf where the two pictures are equal

    @classmethod
    def of(cls, student: Tensor, teacher: Tensor) -> "Likeness":
        """Of images [N, C, H, W] in [-1, 1] of the same seeds."""
        return cls(tuple(psnr(student, teacher).tolist()))

    @property
    def median(self) -> float:
        """Half of the seeds are more like their teacher's."""
        return statistics.median(self.each)

    @property
    def quartiles(self) -> tuple[float, float]:
        """A quarter of the seeds is less like their teacher's than the first, and more than the second; by rank."""
        ranked, last = sorted(self.each), len(self.each) - 1
        return ranked[round(last / 4)], ranked[round(3 * last / 4)]

    @property
    def equal(self) -> int:
        """How many pictures are the teacher's own, to the last bit of their bytes."""
        return sum(map(math.isinf, self.each))

    def to_dict(self) -> dict[str, Any]:
        """As JSON stores it: null where two pictures are equal, whose PSNR is no number."""
        return {
            "psnr_median": _finite(self.median),
            "psnr_quartiles": [_finite(value) for value in self.quartiles],
            "psnr_equal": self.equal,
            "psnr": [_finite(value) for value in self.each],
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
