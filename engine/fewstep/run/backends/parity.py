"""How far a program's answer is from the module's."""

from typing import Final

import torch
from torch import Tensor

# |program - module| / |module|, each over all values
BOUNDS: Final = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


def distance(answer: Tensor, expected: Tensor, x: Tensor | None = None) -> float:
    """|answer - expected| / |expected|, each over all values; of a network's answers to x, if it is given.

    Where |expected| is next to nothing, as of a new U-Net whose last layer is zero, that would compare rounding with
    rounding: so an error as large as the rounding of x is at most the bound, however small the answer is.

    Infinite for another shape, and where one of the two is not finite and the other is, or is so otherwise.
    """
    if answer.shape != expected.shape:
        return float("inf")
    ours, theirs = answer.double(), expected.double()
    finite = theirs.isfinite()
    if not torch.equal(finite, ours.isfinite()):
        return float("inf")
    if not finite.all():
        if not torch.allclose(ours[~finite], theirs[~finite], equal_nan=True):
            return float("inf")
        ours, theirs = ours[finite], theirs[finite]
    seen = theirs[:0] if x is None else x.double()
    rounding = torch.finfo(expected.dtype).eps * float(seen[seen.isfinite()].norm())
    size = max(float(theirs.norm()), rounding / BOUNDS.get(expected.dtype, 1.0), torch.finfo(torch.float64).tiny)
    return float((ours - theirs).norm()) / size
