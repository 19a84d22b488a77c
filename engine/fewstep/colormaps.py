"""How numbers become colours: the colormaps of pictures with one channel."""

import difflib
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fewstep.errors import ArgumentError

# The atlas colours of the "terrain" colormap: water, shore, lowland, hills, mountains, rock, snow.
HEIGHTS = (-1.0, -0.8, -0.6, -0.35, -0.1, 0.15, 0.4, 0.7, 1.0)
TINTS = (
    (44, 96, 132),
    (84, 150, 150),
    (80, 136, 78),
    (140, 166, 92),
    (200, 186, 124),
    (176, 132, 90),
    (138, 106, 90),
    (184, 178, 174),
    (250, 250, 250),
)
RELIEF = 14.0  # pixels of height from 0 to 1: how steep the light makes a slope look


def check_colormap(name: str) -> None:
    """ArgumentError unless `name` is a colormap that can be used here."""
    if name != "gray":
        painter(name)


def painter(name: str) -> Callable[[NDArray[np.float32]], NDArray[np.uint8]]:
    """What maps heights [H, W] in [-1, 1] to colours, uint8 [H, W, 3]."""
    if name == "terrain":
        return _paint_terrain
    try:
        from matplotlib import colormaps
    except ImportError as error:
        allowed = "gray or terrain; others need: pip install 'fewstep[plot]'"
        raise ArgumentError("colormap", name, allowed) from error
    if name not in colormaps:
        near = difflib.get_close_matches(name, ["gray", "terrain", *colormaps], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ArgumentError("colormap", name, f"gray, terrain or a matplotlib name{hint}")
    paint = colormaps[name]
    return lambda heights: np.ascontiguousarray(paint((heights + 1.0) / 2.0, bytes=True)[:, :, :3])


def _paint_terrain(heights: NDArray[np.float32]) -> NDArray[np.uint8]:
    tint = np.stack([np.interp(heights, HEIGHTS, channel) for channel in zip(*TINTS, strict=True)], axis=-1)
    # Light from the upper left: the cosine between it and the surface normal (-dh/dx, -dh/dy, 1).
    down, right = np.gradient(RELIEF * heights) if min(heights.shape) > 1 else (0.0 * heights, 0.0 * heights)
    light = (0.5 * right + 0.5 * down + math.sqrt(0.5)) / np.sqrt(right**2 + down**2 + 1.0)
    shaded = tint * (0.45 + 0.78 * light.clip(0.0, 1.0))[:, :, None]
    return shaded.round().clip(0, 255).astype(np.uint8)
