"""The real images that a model is measured by, and the halves that they are compared in."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor

from fewstep.errors import ArgumentError
from fewstep.train.data import DIGITS, DIGITS_SIZE, HELD_OUT, Dataset, digits, load_data, load_like, stratified

SPLITS: Final = 5
MIN_IMAGES: Final = 20  # two halves of the fewest samples that are scored
MAX_SEEN: Final = 0.01  # of the images held out; two sets of photographs may well share a few
MAX_ELEMENTS: Final = 1 << 29  # of all images, 2 GiB as float32


@dataclass(frozen=True)
class Part:
    """Images and what they show."""

    images: Tensor  # [N, C, H, W] float32 in [-1, 1]
    labels: Tensor | None  # [N] int64; None where they have no classes

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Real:
    """All real images, in two parts: the classifier is trained on the first alone."""

    train: Part
    held_out: Part
    name: str
    digest: str = ""  # of the images that the parts were taken from, so that a classifier can say what it has seen
    classes: int | None = None
    boxed: bool = False  # the digits in the box
    unseen: bool = True  # models have not seen those held out either; else they may have been trained on all
    of: int | None = None  # so many there were, if these are a part of them
    names: tuple[str, ...] = ()  # of the classes, where they have names
    left_out: tuple[str, ...] = ()  # lines that name what the source holds and was not read

    @cached_property
    def all(self) -> Part:
        """The first part, then the images held out."""
        images = torch.cat([self.train.images, self.held_out.images])
        if self.train.labels is None or self.held_out.labels is None:
            return Part(images, None)
        return Part(images, torch.cat([self.train.labels, self.held_out.labels]))

    @property
    def taught(self) -> Part:
        """What models may have been trained on."""
        return self.train if self.unseen else self.all

    @property
    def shape(self) -> tuple[int, int, int]:
        """C, H, W."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def to_dict(self) -> dict[str, object]:
        """As JSON stores it."""
        return {
            "name": self.name,
            "images": len(self.train) + len(self.held_out),
            "of": self.of,
            "shape": list(self.shape),
            "classes": self.classes,
            "names": list(self.names),
            "left_out": list(self.left_out),
            "held_out": len(self.held_out),
            "held_out_from_models": self.unseen,
            "digest": self.digest,
        }


def load_real(
    source: str,
    size: int | None = None,
    held_out: str | None = None,
    shape: tuple[int, int, int] | None = None,
) -> Real:
    """What a model is compared with, as `load_data` reads it; pictures at the size of the model, if its shape is given.

    Of images of one's own a fifth is kept from the classifier, of each class its share. Models were trained on all of
    them, unless `held_out` names others of the same kind: then those are what neither has seen.

    Raises:
        ArgumentError: data that cannot be read, fewer than MIN_IMAGES, or a `held_out` of another kind.
    """
    if source == DIGITS:
        if held_out is not None:
            raise ArgumentError("held_out", held_out, "nothing beside the digits, of which 2,000 are held out")
        if size not in (None, DIGITS_SIZE):
            raise ArgumentError("size", size, f"{DIGITS_SIZE} for the digits")
        return load_digits()
    data = load_data(source, size) if shape is None else load_like(source, size, shape)
    if len(data) < MIN_IMAGES:
        raise ArgumentError("data", f"{source} of {len(data)} images", f"at least {MIN_IMAGES}: they are halved")
    about: dict[str, Any] = {
        "name": data.name,
        "digest": data.digest()[:16],
        "classes": data.classes,
        "names": data.names,
        "left_out": data.left_out,
    }
    bounded = _bounded(data)
    about["of"] = len(data) if len(data) > len(bounded) else None
    if held_out is None:
        apart = stratified(bounded, HELD_OUT)
        train, kept = (_part(bounded.subset(torch.nonzero(chosen)[:, 0])) for chosen in (~apart, apart))
        return Real(train, kept, unseen=False, **about)
    other = load_like(held_out, size, data.shape)
    if (other.shape, other.labels is None) != (data.shape, data.labels is None):
        raise ArgumentError("held_out", _words(other), f"images like those of data, {_words(data)}")
    if other.names != data.names and (other.names and data.names):
        raise ArgumentError("held_out", f"classes {', '.join(other.names)}", f"those of data, {', '.join(data.names)}")
    if other.classes is not None and other.classes > (data.classes or 0):
        raise ArgumentError("held_out", f"{other.classes} classes", f"the {data.classes} of data")
    seen = _shared(data, other)
    if seen > len(other) * MAX_SEEN:
        raise ArgumentError("held_out", f"{seen} images that are in data too", "images that the model has not seen")
    return Real(_part(bounded), _part(_bounded(other)), unseen=True, **about)


def load_digits() -> Real:
    """The bundled digits: the 8,000 that models are trained on, and the 2,000 held out."""
    train, held_out = digits()
    return Real(_part(train), _part(held_out), DIGITS, train.digest()[:16], train.classes, boxed=True)


def _part(data: Dataset) -> Part:
    return Part(data.x_0(), data.labels)


def _shared(data: Dataset, other: Dataset) -> int:
    """How many of the other images are, to the byte, among these."""
    known = {image.numpy().tobytes() for image in data.images}
    return sum(image.numpy().tobytes() in known for image in other.images)


def _bounded(data: Dataset) -> Dataset:
    """As many of the images as fit, of each class its share."""
    most = max(MIN_IMAGES, MAX_ELEMENTS // data.images[0].numel())
    if len(data) <= most:
        return data
    return data.subset(share_of_each(data.labels, len(data), most))


def _words(data: Dataset) -> str:
    channels, height, width = data.shape
    classed = "without classes" if data.labels is None else "with classes"
    return f"{width}x{height}x{channels} {classed}"


@dataclass(frozen=True)
class Split:
    """Two halves of the real images that share none, as indices into `Real.all`."""

    reference: Tensor  # what samples are compared with
    floor: Tensor  # what is compared with it in the samples' place; its first n, for any n, have about its classes


def split_halves(real: Real, seed: int) -> Split:
    """Halves with the same number of each class, from both parts alike, to within one."""
    generator = torch.Generator().manual_seed(seed)
    count = len(real.train) + len(real.held_out)
    held_out = (torch.arange(count) >= len(real.train)).to(torch.int64)
    groups = held_out if real.all.labels is None else 2 * real.all.labels + held_out
    order = torch.randperm(count, generator=generator)
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


def share_of_each(labels: Tensor | None, total: int, count: int) -> Tensor:
    """Which `count` of `total` images to take, of each class its share: always the same ones.

    Args:
        labels: [total] int64; None where they have no classes.
    """
    groups = torch.zeros(total, dtype=torch.int64) if labels is None else labels
    return spread_out(groups, torch.Generator().manual_seed(0))[:count]


def first_of_each(part: Part, count: int) -> Part:
    """`count` images of a part, of each class its share."""
    chosen = share_of_each(part.labels, len(part), count)
    return Part(part.images[chosen], None if part.labels is None else part.labels[chosen])
