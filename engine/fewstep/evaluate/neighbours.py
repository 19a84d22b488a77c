"""How far samples are from the nearest image the model was trained on: a model that memorises comes too near."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.evaluate.distances import squared_distance_blocks

FEWEST = 100  # 1 / NEAR
NEAR = 0.01  # the share of unseen real images that counts as near a training image


def nearest(queries: Tensor, points: Tensor, itself: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Euclidean distance [M] from each of queries [M, D] to the nearest of points [N, D], and which that is [M].

    The search is in the tensors' dtype; the distance to the point found is exact, 0 for a copy.

    Args:
        itself: int64 [M], the point that each query is, which is then no neighbour of its own.
    """
    centre = points.mean(0)
    points_centred, found = points - centre, []
    for rows, block in squared_distance_blocks(queries - centre, points_centred):
        if itself is not None:
            block.scatter_(1, itself[rows, None], torch.inf)
        found.append(block.argmin(dim=1))
    index = torch.cat(found)
    return (queries - points[index]).to(torch.float64).square().sum(1).sqrt(), index


@dataclass(frozen=True)
class Nearness:
    """Distances to the nearest training image, in a few numbers."""

    median: float
    share_near: (
        float | None
    )  # closer than all but NEAR of the other real images are; NEAR for a model that does not memorise

    @classmethod
    def of(cls, distances: Tensor, unseen: Tensor) -> "Nearness":
        """Of samples' distances [M], beside those of real images to other images than themselves [K].

        Of fewer than 1 / NEAR real images none is the one in a hundred: then there is no share.
        """
        median = float(distances.median())
        if len(unseen) < FEWEST:
            return cls(median, None)
        limit = torch.quantile(unseen, NEAR)
        return cls(median, float((distances < limit).to(torch.float64).mean()))
