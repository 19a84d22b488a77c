"""Euclidean distances between two sets of points, a block of rows at a time so that they need little memory."""

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK_ELEMENTS = 1 << 24  # of the matrix of distances that is in memory at once


def squared_distance_blocks(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """|a_i - b_j|^2 = |a_i|^2 + |b_j|^2 - 2 a_i.b_j for a [N, D], b [M, D]: slices of rows and their block [rows, M].

    In the tensors' own dtype; rounding is relative to |a_i|^2 + |b_j|^2, so centre what lies far from the origin.
    """
    rows = max(1, BLOCK_ELEMENTS // max(1, len(b)))
    b_norms = b.square().sum(1)
    for start in range(0, len(a), rows):
        part = slice(start, min(start + rows, len(a)))
        block = torch.addmm(b_norms, a[part], b.T, alpha=-2.0).add_(a[part].square().sum(1, keepdim=True))
        yield part, block.clamp_(min=0.0)
