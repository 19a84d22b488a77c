"""Reading images that a user brings: bounds are checked on headers, before memory is taken."""

import warnings
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
MAX_PICTURE_PIXELS: Final = 64 << 20  # of one PNG before it is scaled


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


def read_folder(folder: Path, size: int | None = None) -> tuple[Pixels, Labels | None]:
    """The PNGs of a folder, in the order of their names; of its subfolders, one class each, if it has PNGs only there.

    With `size` each is cut to its middle and scaled to size x size; without, all must have one size. They are gray if
    all are, else RGB.
    """
    classes = [folder] if _pngs(folder) else sorted(path for path in folder.iterdir() if path.is_dir() and _pngs(path))
    files = [(path, label) for label, place in enumerate(classes) for path in _pngs(place)]
    if not 1 <= len(files) <= MAX_IMAGES:
        raise _wrong(
            folder, f"{len(files)} PNGs", f"1 to {MAX_IMAGES:,} files *.png in it, or in one subfolder a class"
        )
    if len(classes) > MAX_CLASSES:
        raise _wrong(folder, f"{len(classes)} subfolders", f"at most {MAX_CLASSES:,} classes")
    pictures: list[Pixels] = []
    for path, _ in files:
        picture = _read_png(path, size)
        if pictures and picture.shape[:2] != pictures[0].shape[:2]:
            first, own = pictures[0].shape, picture.shape
            shape = f"{own[1]}x{own[0]} pixels"
            raise _wrong(path, shape, f"{first[1]}x{first[0]}, as the others, or --size to scale them all")
        pictures.append(picture)
        if len(pictures) * picture.nbytes > MAX_BYTES:
            raise _wrong(folder, f"more than {MAX_BYTES:,} bytes of pixels", f"at most {MAX_BYTES:,}")
    channels = max(picture.shape[2] for picture in pictures)
    images = np.stack([np.broadcast_to(picture, (*picture.shape[:2], channels)) for picture in pictures])
    labels = None if classes == [folder] else np.array([label for _, label in files], dtype=np.int64)
    return images, labels


def _pngs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() == ".png" and path.is_file())


def _read_png(path: Path, size: int | None) -> Pixels:
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the bound below is tighter
            picture = Image.open(path, formats=["PNG"])
        with picture:
            too_large = picture.width * picture.height > MAX_PICTURE_PIXELS
            if too_large or (size is None and max(picture.size) > MAX_SIDE):
                bound = f"at most {MAX_SIDE} a side, or --size to scale larger ones"
                raise _wrong(path, f"{picture.width}x{picture.height} pixels", bound)
            if picture.mode.startswith(("I", "F")):
                raise _wrong(path, f"pixels of mode {picture.mode}", "8 bits a channel")
            picture.load()
            plain: Image.Image = picture.convert("L" if picture.mode in ("1", "L", "LA") else "RGB")
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise _wrong(path, _reason(error), "a PNG that can be read") from None
    if size is not None and plain.size != (size, size):
        plain = ImageOps.fit(plain, (size, size), Image.Resampling.LANCZOS)
    pixels = np.asarray(plain, dtype=np.uint8)
    return pixels if pixels.ndim == 3 else pixels[..., None]


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
