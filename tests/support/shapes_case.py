"""Coloured shapes on a dark ground: images of somebody's own, in three classes, as an .npz or a folder of PNGs."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = ("circle", "square", "triangle")


def shapes(count: int = 60, side: int = 16, seed: int = 0) -> tuple[Any, Any]:
    """uint8 [count, side, side, 3] and their classes [count]."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    images, labels = [], np.arange(count) % len(NAMES)
    for label in labels:
        colour, ground = random.integers(90, 256, 3), random.integers(0, 40, 3)
        down, right = random.uniform(0.38 * side, 0.62 * side, 2)
        radius = random.uniform(0.2 * side, 0.34 * side)
        inside = {
            0: (y - down) ** 2 + (x - right) ** 2 <= radius**2,
            1: np.maximum(abs(y - down), abs(x - right)) <= 0.85 * radius,
            2: (y - down <= 0.8 * radius) & (y - down >= 2 * abs(x - right) - radius),
        }[int(label)]
        images.append(np.where(inside[..., None], colour, ground).astype(np.uint8))
    return np.stack(images), labels


def shapes_file(folder: Path, count: int = 60, *, labelled: bool = True, side: int = 16, seed: int = 0) -> Path:
    """An .npz of them."""
    images, labels = shapes(count, side, seed)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"shapes-{count}-{side}-{seed}{'' if labelled else '-plain'}.npz"
    np.savez(path, **({"images": images, "labels": labels} if labelled else {"images": images}))
    return path


def shapes_folder(folder: Path, count: int = 60, side: int = 16) -> Path:
    """A folder of PNGs, in one subfolder a class."""
    for index, (image, label) in enumerate(zip(*shapes(count, side), strict=True)):
        place = folder / NAMES[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{index:03d}.png")
    return folder
