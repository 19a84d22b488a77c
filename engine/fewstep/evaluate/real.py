"""The real digits, and the halves that they are compared in."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from fewstep.errors import ArgumentError
from fewstep.train.data import Dataset, digits

SPLITS: Final = 5


@dataclass(frozen=True)
class Part:
    """Images and what they show."""

    images: Tensor  # [N, 1, 32, 32] float32 in [-1, 1]
    labels: Tensor  # [N] int64


@dataclass(frozen=True)
class Digits:
    """All digits, in two parts: models and the classifier are trained on the first alone."""

    train: Part
    held_out: Part
    digest: str = ""  # of the training digits, so that a classifier can say what it was trained on

    @property
    def all(self) -> Part:
        """The training digits, then those held out."""
        images = torch.cat([self.train.images, self.held_out.images])
        return Part(images, torch.cat([self.train.labels, self.held_out.labels]))


def load_digits() -> Digits:
    """The bundled digits: the 8,000 that models are trained on, and the 2,000 held out."""
    train, held_out = digits()
    return Digits(_part(train), _part(held_out), train.digest()[:16])


def _part(data: Dataset) -> Part:
    if data.labels is None:
        raise ArgumentError("digits", data.name, "digits with labels")
    return Part(data.x_0(), data.labels)


@dataclass(frozen=True)
class Split:
    """Two halves of the real digits that share no image, as indices into `Digits.all`."""

    reference: Tensor  # what samples are compared with
    floor: Tensor  # what is compared with it in the samples' place; its first n, for any n, have about its classes


def split_halves(digits: Digits, seed: int) -> Split:
    """Halves with the same number of each class, from training and held-out images alike, to within one."""
    generator = torch.Generator().manual_seed(seed)
    labels = digits.all.labels
    held_out = torch.arange(len(labels)) >= len(digits.train.labels)
    groups = 2 * labels + held_out
    order = torch.randperm(len(labels), generator=generator)
    order = order[groups[order].argsort(stable=True)]
    reference, floor = order[0::2], order[1::2]
    return Split(reference, floor[spread_out(groups[floor], generator)])


def spread_out(groups: Tensor, generator: torch.Generator) -> Tensor:
    """A random order of groups [N] int64 in which every group is spread evenly: the first n have its share, about.

    The r-th of the c members of a group is placed at (r + u) / c, u uniform in (0, 1).
    """
    order = torch.randperm(len(groups), generator=generator)
    order = order[groups[order].argsort(stable=True)]
    counts = groups.bincount()
    members = groups[order]
    rank = torch.arange(len(order)) - (counts.cumsum(0) - counts)[members]
    place = (rank + torch.rand(len(order), generator=generator)) / counts[members]
    return order[place.argsort(stable=True)]


def first_of_each(part: Part, count: int) -> Part:
    """`count` images of a part, of each class its share."""
    chosen = spread_out(part.labels, torch.Generator().manual_seed(0))[:count]
    return Part(part.images[chosen], part.labels[chosen])
