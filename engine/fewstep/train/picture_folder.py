"""A folder of pictures to train on: which of its files are read, of which class, and what is left out by name."""

import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from fewstep import pictures
from fewstep.errors import printable, some_of
from fewstep.memory import check_memory
from fewstep.models.net.config import MAX_CLASSES
from fewstep.request.conditions.classes import check_name
from fewstep.train.npz import MAX_BYTES, MAX_IMAGES, MAX_SIDE, SHOWN, Labels, Pixels, wrong

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp")
QUIET: Final = ("thumbs.db", "desktop.ini", "__macosx", "@eadir")  # what systems leave behind, beside hidden files
LAYOUT: Final = "pictures in it, or in its subfolders, one a class, but not in both and not deeper"


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Attributes:
        files: in order, each with its class.
        names: of the classes; empty where the pictures lie in the folder itself.
        left_out: lines that name what is not read.
    """

    files: Sequence[tuple[Path, int]]
    names: tuple[str, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class _Listing:
    pictures: list[Path]
    folders: list[Path]
    others: list[Path]
    circles: list[Path]  # links to a folder that they lie in


def read_folder(folder: Path, size: int | None = None) -> tuple[Pixels, Labels | None, Found]:
    """The pictures of a folder in the order of their names; of its subfolders, one class each, if it has them there.

    With `size` each is cut to its middle and scaled to size x size; without, all must have one size. They are gray if
    all are, else RGB. What a picture means is in `fewstep.pictures`.

    Raises:
        ArgumentError: naming the file, what is wrong with it and what is allowed.
    """
    found = survey(folder)
    images: list[Pixels] = []
    for path, _ in found.files:
        picture = pictures.read_picture("data", path, None if size is not None else MAX_SIDE)
        image = pictures.pixels(picture if size is None else pictures.fitted(picture, size, size))
        if images and image.shape[:2] != images[0].shape[:2]:
            first, own = images[0].shape, image.shape
            found_size, allowed = f"{own[1]}x{own[0]} pixels", f"{first[1]}x{first[0]}, as the others"
            raise wrong(path, found_size, f"{allowed}, or a size to which all are scaled")
        if not images:  # they are there twice when they are put together
            numbers = len(found.files) * image.shape[0] * image.shape[1]
            said = f"{folder}: {len(found.files):,} pictures of {image.shape[1]}x{image.shape[0]}"
            check_memory("data", said, 2 * numbers, "what they hold")
        images.append(image)
        if len(images) * image.nbytes > MAX_BYTES:
            raise wrong(folder, f"more than {MAX_BYTES:,} bytes of pixels", f"at most {MAX_BYTES:,}")
    channels = max(image.shape[2] for image in images)
    stacked = np.stack([np.broadcast_to(image, (*image.shape[:2], channels)) for image in images])
    labels = np.array([label for _, label in found.files], dtype=np.int64) if found.names else None
    return stacked, labels, found


def survey(folder: Path) -> Found:
    """What a folder holds, before a picture is opened. ArgumentError where its layout can mean two things."""
    top = _listed(folder)
    filled = [(each, _listed(each)) for each in top.folders]
    classes = [(each, inside) for each, inside in filled if inside.pictures]
    for each, inside in filled if not top.pictures else []:
        deeper = next(_below(inside.folders), None)
        if deeper is not None:
            raise wrong(deeper, "a picture two folders down", f"{LAYOUT}; {each} may be such a folder")
    if top.pictures:
        stray = next(_below(top.folders), None)
        if stray is not None:
            one, other = _relative(folder, top.pictures[0]), _relative(folder, stray)
            raise wrong(folder, f"pictures beside folders of pictures: {one} and {other}", LAYOUT)
        classes = []
    files = [(path, label) for label, (_, inside) in enumerate(classes) for path in inside.pictures]
    files = files or [(path, 0) for path in top.pictures]
    others = [*top.others, *(path for _, inside in filled for path in inside.others)]
    taken = {each for each, _ in classes}
    empty = [each for each, _ in filled if each not in taken]
    empty += [each for _, inside in classes for each in inside.folders]
    circles = [*top.circles, *(path for _, inside in filled for path in inside.circles)]
    left_out = (
        *_line(folder, others, "not named PNG, JPEG or WebP"),
        *_line(folder, empty, "without pictures", "folder"),
        *_line(folder, circles, "to a folder above", "link"),
    )
    if not 1 <= len(files) <= MAX_IMAGES:
        said = "; ".join([f"{len(files)} pictures", *left_out])
        raise wrong(folder, said, f"1 to {MAX_IMAGES:,} PNG, JPEG or WebP {LAYOUT}")
    return Found(files, _names([each for each, _ in classes]), left_out)


def _listed(folder: Path) -> _Listing:
    """Of a folder, in the order of names. ArgumentError for a picture that is a link to nothing, or no file."""
    listing = _Listing([], [], [], [])
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise wrong(folder, f"it cannot be read: {error.strerror}", "a folder that can be") from None
    for path in paths:
        if path.name.startswith(".") or path.name.lower() in QUIET:
            continue
        if path.is_symlink() and Path(os.path.realpath(path)) in _above(path):
            listing.circles.append(path)
        elif path.is_dir():
            listing.folders.append(path)
        elif path.suffix.lower() not in SUFFIXES:
            listing.others.append(path)
        elif path.is_file():
            listing.pictures.append(path)
        else:
            raise wrong(path, "a link to nothing, or no file", "a PNG, JPEG or WebP file")
    return listing


def _above(path: Path) -> list[Path]:
    """The folders that a path lies in."""
    folder = Path(os.path.realpath(path.parent))
    return [folder, *folder.parents]


def _below(folders: Sequence[Path]) -> Iterator[Path]:
    """The pictures in some folders, which may be links, and all below them, where links to folders are not followed."""
    for folder in folders:
        for place, inner, names in os.walk(folder):
            inner[:] = sorted(name for name in inner if not name.startswith(".") and name.lower() not in QUIET)
            for name in sorted(names):
                if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                    yield Path(place) / name


def _names(folders: Sequence[Path]) -> tuple[str, ...]:
    """The classes' names, composed as a keyboard types them (NFC). ArgumentError for one that JSON cannot hold."""
    if len(folders) > MAX_CLASSES:
        raise wrong(folders[0].parent, f"{len(folders)} subfolders", f"at most {MAX_CLASSES:,} classes")
    names: dict[str, Path] = {}
    for folder in folders:
        name = unicodedata.normalize("NFC", folder.name)
        problem = check_name(name)
        if problem is not None:
            raise wrong(folder, f"a class by that name: {problem}", "printable text")
        if name in names:
            raise wrong(folder, f"the same name as {names[name]}", "a name of its own for each class")
        names[name] = folder
    return tuple(names)


def _line(folder: Path, paths: Sequence[Path], why: str, kind: str = "file") -> Iterator[str]:
    if paths:
        names = some_of([_relative(folder, path) for path in paths], SHOWN)
        yield f"left out: {len(paths):,} {kind}{'s' * (len(paths) > 1)} {why}: {names}"


def _relative(folder: Path, path: Path) -> str:
    return printable(str(path.relative_to(folder)))
