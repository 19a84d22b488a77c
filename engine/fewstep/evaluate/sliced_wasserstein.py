"""Sliced Wasserstein distance: the mean 1-D distance over directions.

Bonneel et al., Sliced and Radon Wasserstein Barycenters of Measures (2015); here with the 1-Wasserstein distance.
"""

import torch
from torch import Tensor

from fewstep.errors import ArgumentError

PROJECTIONS = 256


def sliced_wasserstein(a: Tensor, b: Tensor, projections: int = PROJECTIONS, seed: int = 0) -> float:
    """mean over u of W_1(u.a, u.b), u uniform on the sphere, for points a [N, D] and b [M, D].

    The directions depend on `seed` and D alone. In float64; N and M may differ. In units of the points: two sets
    of one distribution are about 1/sqrt(N) apart, so compare with what real sets of the same sizes give.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not len(a) or not len(b):
        raise ArgumentError("b", list(b.shape), f"points [M, D] like a, which is {list(a.shape)}")
    u = directions(projections, a.shape[1], seed)
    total = 0.0
    for part in u.split(64):
        total += float(wasserstein_1d(part @ a.to(torch.float64).T, part @ b.to(torch.float64).T).sum())
    return total / projections


def directions(count: int, dimensions: int, seed: int) -> Tensor:
    """[count, dimensions] float64 unit vectors, uniform on the sphere."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(count, dimensions, generator=generator, dtype=torch.float64)
    unit: Tensor = z / z.norm(dim=1, keepdim=True)
    return unit


def wasserstein_1d(a: Tensor, b: Tensor) -> Tensor:
    """W_1 = integral over u in (0, 1) of |F_a^-1(u) - F_b^-1(u)|, for a [..., N] and b [..., M] -> [...].

    Exact: the quantile functions are constant between the multiples of 1/N and of 1/M.
    """
    N, M = a.shape[-1], b.shape[-1]
    # In units of 1 / (N M), so that equal breakpoints are equal integers.
    breaks = torch.cat([torch.arange(1, N + 1) * M, torch.arange(1, M + 1) * N]).unique()
    widths = breaks.diff(prepend=breaks.new_zeros(1)).to(a.dtype) / (N * M)
    in_a, in_b = (breaks - 1) // M, (breaks - 1) // N
    gaps = a.sort(dim=-1).values[..., in_a] - b.sort(dim=-1).values[..., in_b]
    distance: Tensor = (gaps.abs() * widths).sum(-1)
    return distance
