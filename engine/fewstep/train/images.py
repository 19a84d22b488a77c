"""Reading images that a user brings: bounds are checked on headers, before memory is taken."""

import zipfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fewstep.errors import ArgumentError
from fewstep.models.net.config import MAX_CLASSES

Pixels = npt.NDArray[np.uint8]  # [N, H, W, C]
Labels = npt.NDArray[np.int64]  # [N]

MAX_IMAGES: Final = 10_000_000
MAX_SIDE: Final = 2048
MAX_BYTES: Final = 8 << 30  # of pixels


def read_npz(path: Path) -> tuple[Pixels, Labels | None]:
    """`images` [N, H, W, C] and `labels` [N] of an .npz file. ArgumentError names the file, the array and the bound."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            if "images.npy" not in names:
                raise _wrong(path, "no array `images`", "an .npz with `images` and perhaps `labels`")
            _check_images(path, *_header(archive, path, "images"))
            if "labels.npy" in names:
                _check_labels(path, *_header(archive, path, "labels"))
        with np.load(path, allow_pickle=False) as arrays:
            images = np.asarray(arrays["images"])
            labels = np.asarray(arrays["labels"]) if "labels" in arrays else None
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        if isinstance(error, ArgumentError):
            raise
        raise _wrong(path, _reason(error), "an .npz file that can be read") from None
    if images.ndim == 3:
        images = images[..., None]
    if labels is not None:
        labels = _classes(path, labels, len(images))
    return np.ascontiguousarray(images), labels


def _header(archive: zipfile.ZipFile, path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype that an array claims, before a byte of it is decompressed."""
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise _wrong(path, f"{name} of npy version {version}", "1.0 or 2.0")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    return shape, dtype


def _check_images(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    channels = shape[3] if len(shape) == 4 else 1
    fits = len(shape) in (3, 4) and 1 <= shape[0] <= MAX_IMAGES and max(shape[1:3]) <= MAX_SIDE and min(shape) > 0
    if dtype != np.uint8 or not fits or channels not in (1, 3):
        allowed = f"images uint8 [N, H, W] or [N, H, W, C], C 1 or 3, at most {MAX_SIDE} a side"
        raise _wrong(path, f"images {dtype} {list(shape)}", allowed)
    size = shape[0] * shape[1] * shape[2] * channels
    if size > MAX_BYTES:
        raise _wrong(path, f"{size:,} bytes of pixels", f"at most {MAX_BYTES:,}")


def _check_labels(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "iu" or len(shape) != 1 or shape[0] > MAX_IMAGES:
        raise _wrong(path, f"labels {dtype} {list(shape)}", "integers [N], one an image")


def _classes(path: Path, labels: npt.NDArray[Any], count: int) -> Labels:
    if len(labels) != count:
        raise _wrong(path, f"{len(labels)} labels", f"{count}, one an image")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= MAX_CLASSES:
        raise _wrong(path, f"labels from {low} to {high}", f"classes from 0 to {MAX_CLASSES - 1}")
    return labels.astype(np.int64)


def _wrong(path: Path, found: str, allowed: str) -> ArgumentError:
    return ArgumentError("data", f"{path}: {found}", allowed)


def _reason(error: BaseException) -> str:
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__).split("\n", 1)[0]
    return "it cannot be read: " + " ".join(text.split())[:120]
