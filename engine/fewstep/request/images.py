"""What a user may hand over as an image or a mask, and how the engine holds it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fewstep.errors import ArgumentError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


def as_images(
    argument: str,
    value: "Tensor | np.ndarray[Any, Any] | PILImage | Sequence[PILImage]",
    count: int,
    shape: tuple[int, int, int],
) -> Tensor:
    """Images as the engine holds them: [count, C, H, W] float32 in [-1, 1].

    Args:
        argument: the name used in an error.
        value: a float tensor [C, H, W] or [B, C, H, W] in [-1, 1]; a uint8 array [H, W], [H, W, C] or
            [B, H, W, C]; or PIL images.
        count: samples; one image serves all of them.
        shape: (C, H, W) the model works at. Nothing is resized.

    Raises:
        ArgumentError: another shape, dtype or range.
    """
    images = value if isinstance(value, Tensor) else _from_bytes(argument, value, shape[0])
    if not images.is_floating_point():
        raise ArgumentError(
            argument, f"a tensor of {images.dtype}", "a float tensor in [-1, 1], a uint8 array or PIL images"
        )
    images = images[None] if images.ndim == 3 else images
    if images.ndim != 4 or tuple(images.shape[1:]) != shape or images.shape[0] not in (1, count):
        allowed = f"{shape} for all samples or [{count}, {shape[0]}, {shape[1]}, {shape[2]}]"
        raise ArgumentError(argument, f"shape {tuple(images.shape)}", allowed)
    low, high = float(images.min()), float(images.max())
    if not (low >= -1.001 and high <= 1.001):
        raise ArgumentError(argument, f"values from {low:.3g} to {high:.3g}", "finite values in [-1, 1]")
    return images.to(torch.float32).expand(count, *shape)


def as_mask(
    argument: str, value: "Tensor | np.ndarray[Any, Any] | PILImage", count: int, shape: tuple[int, int, int]
) -> Tensor:
    """A mask as the engine holds it: [count, 1, H, W] float32 in [0, 1]; 1 (white) is generated, 0 (black) is kept.

    Raises:
        ArgumentError: another shape or range.
    """
    one_channel = (1, *shape[1:])
    if isinstance(value, Tensor):
        mask = value.to(torch.float32)
        while mask.ndim < 4:
            mask = mask[None]
    else:
        mask = (_from_bytes(argument, value, 1) + 1) / 2
    if mask.ndim != 4 or tuple(mask.shape[1:]) != one_channel or mask.shape[0] not in (1, count):
        allowed = f"[{shape[1]}, {shape[2]}] for all samples or [{count}, 1, {shape[1]}, {shape[2]}]"
        raise ArgumentError(argument, f"shape {tuple(mask.shape)}", allowed)
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ArgumentError(argument, "values outside [0, 1]", "1 where the sample is generated, 0 where it is known")
    return mask.expand(count, *one_channel)


def _from_bytes(argument: str, value: Any, channels: int) -> Tensor:
    mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(channels)
    pictures = list(value) if isinstance(value, (list, tuple)) else [value]
    if not pictures:
        raise ArgumentError(argument, "an empty list", "at least one image")
    arrays = [
        np.asarray(picture.convert(mode) if hasattr(picture, "convert") and mode else picture) for picture in pictures
    ]
    if any(array.dtype != np.uint8 for array in arrays) or len({array.shape for array in arrays}) != 1:
        raise ArgumentError(
            argument, "not 8-bit images of one size", "a float tensor in [-1, 1], a uint8 array or PIL images"
        )
    stacked = arrays[0] if len(arrays) == 1 and arrays[0].ndim == 4 else np.stack(arrays)
    stacked = stacked[..., None] if stacked.ndim == 3 else stacked
    return torch.from_numpy(stacked.astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1
