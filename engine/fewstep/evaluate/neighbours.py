"""How far samples are from the nearest image the model was trained on: a model that memorises comes too near."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.evaluate.distances import squared_distance_blocks

NEAR = 0.01  # the share of unseen real images that counts as near a training image


def nearest(queries: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Euclidean distance [M] from each of queries [M, D] to the nearest of points [N, D], and which that is [M].

    The search is in the tensors' dtype; the distance to the point found is exact, 0 for a copy.
    """
    centre = points.mean(0)
    points_centred, found = points - centre, []
    for _, block in squared_distance_blocks(queries - centre, points_centred):
        found.append(block.argmin(dim=1))
    index = torch.cat(found)
    return (queries - points[index]).to(torch.float64).square().sum(1).sqrt(), index


@dataclass(frozen=True)
class Nearness:
    """Distances to the nearest training image, in a few numbers."""

    median: float
    share_near: float  # closer than all but NEAR of the unseen real images are; NEAR if the model does not memorise

    @classmethod
    def of(cls, distances: Tensor, unseen: Tensor) -> "Nearness":
        """Of samples' distances [M], beside those of real images that the model was not trained on [K]."""
        limit = torch.quantile(unseen, NEAR)
        return cls(float(distances.median()), float((distances < limit).to(torch.float64).mean()))
