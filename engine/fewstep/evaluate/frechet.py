"""Frechet distance between two sets of features, each taken for a Gaussian.

Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium (1706.08500).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.errors import ArgumentError


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of a set of points, in float64."""

    mean: Tensor  # [D]
    covariance: Tensor  # [D, D]

    @classmethod
    def of(cls, points: Tensor) -> "Moments":
        """mean = sum_i x_i / N and covariance = sum_i (x_i - mean)(x_i - mean)^T / (N - 1) of points [N, D]."""
        if points.ndim != 2 or len(points) < 2:
            raise ArgumentError("points", list(points.shape), "[N, D], at least two points")
        if not bool(torch.isfinite(points).all()):
            raise ArgumentError("points", "values that are not finite", "finite numbers")
        points = points.to(torch.float64)
        mean = points.mean(0)
        centred = points - mean
        return cls(mean, centred.T @ centred / (len(points) - 1))


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a^(1/2) cov_b cov_a^(1/2))^(1/2)).

    The square of the 2-Wasserstein distance between the two Gaussians. With R = cov_a^(1/2) cov_b^(1/2), the last
    trace is that of (R R^T)^(1/2): the sum of R's singular values. No eigenvalue is squared and rooted again, so a
    set is 0 from itself to rounding, also one without full rank. The roots come from symmetric eigen-decompositions.

    Finite sets of the same distribution are about tr(cov) (1/N_a + 1/N_b) / 2 and more apart, so compare with what
    real sets of the same sizes give. At least 0.
    """
    if a.mean.shape != b.mean.shape:
        raise ArgumentError("b", list(b.mean.shape), f"as many features as a has, {list(a.mean.shape)}")
    cross = torch.linalg.svdvals(square_root(a.covariance) @ square_root(b.covariance)).sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross
    return max(0.0, float(distance))


def square_root(matrix: Tensor) -> Tensor:
    """V diag(sqrt(values)) V^T of a symmetric positive semi-definite matrix V diag(values) V^T.

    Eigenvalues that rounding made negative count as 0.
    """
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp(min=0.0).sqrt()) @ vectors.T
    return root
