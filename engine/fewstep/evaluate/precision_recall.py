"""Improved precision and recall: how many samples look real, and how much of what is real is covered.

Kynkäänniemi et al., Improved Precision and Recall Metric for Assessing Generative Models (1904.06991).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.checks import integer
from fewstep.evaluate.distances import squared_distance_blocks

NEIGHBOURS = 3  # k, as in the paper


@dataclass(frozen=True)
class Manifold:
    """An estimate of where a set's distribution lies: a ball around each point, as far as its k-th nearest other."""

    points: Tensor  # [N, D] float64, relative to `centre`
    centre: Tensor  # [D]
    squared_radii: Tensor  # [N]

    @classmethod
    def of(cls, points: Tensor, k: int = NEIGHBOURS) -> "Manifold":
        """The balls of points [N, D]; ArgumentError unless N > k."""
        integer("k", k, 1, len(points) - 1, " (fewer than there are points)")
        points = points.to(torch.float64)
        centre = points.mean(0)
        points = points - centre
        radii = []
        for rows, block in squared_distance_blocks(points, points):
            inside = torch.arange(rows.start, rows.stop)
            block[inside - rows.start, inside] = torch.inf  # a point is no neighbour of its own
            radii.append(block.kthvalue(k, dim=1).values)
        return cls(points, centre, torch.cat(radii))

    def share_inside(self, queries: Tensor) -> float:
        """Of queries [M, D], the share that lies in at least one ball."""
        queries = queries.to(torch.float64) - self.centre
        inside = 0
        for _, block in squared_distance_blocks(queries, self.points):
            inside += int((block <= self.squared_radii).any(dim=1).sum())
        return inside / len(queries)


def precision(real: Manifold, samples: Tensor) -> float:
    """The share of samples [M, D] within a ball of the real points: how many look real. Equation 2."""
    return real.share_inside(samples)


def recall(samples: Manifold, real: Tensor) -> float:
    """The share of real points [N, D] within a ball of the samples: how much of what is real is covered."""
    return samples.share_inside(real)
