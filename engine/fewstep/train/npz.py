"""An .npz of images that a user brings: bounds are checked on headers, before memory is taken."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fewstep.archives import Archive, BadArchiveError
from fewstep.errors import ArgumentError, printable, some_of
from fewstep.memory import check_memory
from fewstep.mistaken import head_of, mistaken
from fewstep.models.net.config import MAX_CLASSES

Pixels = npt.NDArray[np.uint8]  # [N, H, W, C]
Labels = npt.NDArray[np.int64]  # [N]

MAX_IMAGES: Final = 10_000_000
MAX_SIDE: Final = 2048
MAX_BYTES: Final = 8 << 30  # of pixels
ARRAYS: Final = ("images", "labels")  # that are read
SHOWN: Final = 5  # names in a line


def read_npz(path: Path) -> tuple[Pixels, Labels | None, tuple[str, ...]]:
    """`images` [N, H, W, C] and `labels` [N] of an .npz file, and the lines that name what else it holds.

    Raises:
        ArgumentError: naming the file, the array and the bound. Where there are no `labels` and an array is called
            almost so, such as `label`, it is refused: the images would lose their classes.
    """
    try:
        with Archive(path) as archive:
            if "images.npy" not in archive:
                holds = f"; it holds {_listed(archive.names)}" if archive.names else ""
                raise wrong(path, f"no array `images`{holds}", "an .npz with `images` and perhaps `labels`")
            others = [name for name in archive.names if name.removesuffix(".npy") not in ARRAYS]
            if "labels.npy" not in archive:
                _check_near(path, others)
            stored = archive.array("images")
            _check_images(path, stored.shape, stored.dtype)
            stored_labels = archive.array("labels") if "labels.npy" in archive else None
            if stored_labels is not None:
                _check_labels(path, stored_labels.shape, stored_labels.dtype, stored.shape[0])
            images = stored.read()
            labels = None if stored_labels is None else _classes(path, stored_labels.read())
    except BadArchiveError as error:
        why = _instead(path) or str(error)
        raise wrong(path, f"it cannot be read: {why}", "an .npz file that can be read") from None
    plural = "s" * (len(others) > 1)
    left_out = (f"left out: {len(others):,} array{plural} not named images or labels: {_listed(others)}",)
    whole = np.ascontiguousarray(images[..., None] if images.ndim == 3 else images)
    return whole, labels, left_out if others else ()


def _check_near(path: Path, others: Sequence[str]) -> None:
    """ArgumentError for a name that is almost `labels`."""
    for name in others:
        if get_close_matches(name.removesuffix(".npy").lower(), ["labels"]):
            raise wrong(path, f"an array {_listed([name])} and no `labels`", "the classes under the name `labels`")


def _listed(names: Sequence[str]) -> str:
    return some_of([printable(name.removesuffix(".npy")[:80]) for name in names], SHOWN)


def _instead(path: Path) -> str | None:
    """What a file is that is no zip archive, in words; None where that cannot be told."""
    head = head_of(path)
    what = None if head is None or head.startswith(b"PK") else mistaken(head)
    return f"it is {what}" if what else None


def _check_images(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    channels = shape[3] if len(shape) == 4 else 1
    fits = len(shape) in (3, 4) and 1 <= shape[0] <= MAX_IMAGES and max(shape[1:3]) <= MAX_SIDE and min(shape) > 0
    if dtype != np.uint8 or not fits or channels not in (1, 3):
        allowed = f"images uint8 [N, H, W] or [N, H, W, C], C 1 or 3, at most {MAX_SIDE} a side"
        raise wrong(path, f"images {dtype} {list(shape)}", allowed)
    size = shape[0] * shape[1] * shape[2] * channels
    if size > MAX_BYTES:
        raise wrong(path, f"{size:,} bytes of pixels", f"at most {MAX_BYTES:,}")
    check_memory("data", f"{path}: images {dtype} {list(shape)}", size, "what it holds")


def _check_labels(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], count: int) -> None:
    if dtype.kind not in "iu" or len(shape) != 1:
        raise wrong(path, f"labels {dtype} {list(shape)}", "integers [N], one an image")
    if shape[0] != count:
        raise wrong(path, f"{shape[0]} labels", f"{count}, one an image")


def _classes(path: Path, labels: npt.NDArray[Any]) -> Labels:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= MAX_CLASSES:
        raise wrong(path, f"labels from {low} to {high}", f"classes from 0 to {MAX_CLASSES - 1}")
    return labels.astype(np.int64)


def wrong(path: Path, found: str, allowed: str) -> ArgumentError:
    """What is wrong with a file or folder of images."""
    return ArgumentError("data", f"{path}: {found}", allowed)
