"""What a user may hand over as an image or a mask, and how the engine holds it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import torch
from torch import Tensor

from fewstep import pictures
from fewstep.checks import as_tensor
from fewstep.errors import ArgumentError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

Given: TypeAlias = "Tensor | np.ndarray[Any, Any] | PILImage | Sequence[Tensor | np.ndarray[Any, Any] | PILImage]"
IMAGES: Final = "floats in [-1, 1], uint8 or uint16 from black to white, bools, or PIL images"
MASKS: Final = (
    "1 where the sample is generated, 0 where it is kept: floats, bools, integers 0 and 1, or uint8 up to 255"
)
WHITE: Final = {torch.bool: 1, torch.uint8: 255, torch.uint16: 65535}


def as_images(argument: str, value: Given, count: int, shape: tuple[int, int, int]) -> Tensor:
    """Images as the engine holds them: [count, C, H, W] in [-1, 1], float64 where it was given so, else float32.

    Args:
        argument: the name used in an error.
        value: PIL images, which mean what `pictures` says, in the model's channels; floats in [-1, 1], or uint8, uint16
            or bools from black to white, as arrays or tensors [C, H, W] or [H, W, C], also several, [B, ...]. [H, W] is
            gray, and bytes of 1, 3 or 4 channels mean what a picture of theirs does.
        count: samples; one image serves all of them.
        shape: (C, H, W) the model works at. Nothing is resized. Where it cannot tell [C, H, W] from [H, W, C], numpy's
            integers are [H, W, C], all else is [C, H, W].

    Raises:
        ArgumentError: another shape, dtype or range.
    """
    images = _together(argument, [_image(argument, each, shape) for each in _listed(argument, value)])
    if tuple(images.shape[1:]) != shape or images.shape[0] not in (1, count):
        allowed = f"{shape} for all samples or [{count}, {shape[0]}, {shape[1]}, {shape[2]}]"
        raise ArgumentError(argument, f"shape {tuple(images.shape)}", allowed)
    low, high = float(images.min()), float(images.max())
    if not (low >= -1.001 and high <= 1.001):
        raise ArgumentError(argument, f"values from {low:.3g} to {high:.3g}", "finite values in [-1, 1]")
    return images.to(torch.promote_types(images.dtype, torch.float32)).expand(count, *shape)


def as_latents(argument: str, value: object, count: int, shape: tuple[int, int, int]) -> Tensor | None:
    """Latents [count, C, H, W] as they are given, where `value` is floats of that shape, or of one; else None.

    Raises:
        ArgumentError: latents that are not finite, or of another number of samples.
    """
    given = as_tensor(value)
    if not isinstance(given, Tensor) or not given.is_floating_point() or tuple(given.shape[-3:]) != shape:
        return None
    latents = given.detach().reshape(-1, *shape)
    if given.ndim > 4 or len(latents) not in (1, count):
        raise ArgumentError(argument, f"latents {list(given.shape)}", f"{list(shape)}, or {[count, *shape]}")
    if not bool(torch.isfinite(latents).all()):
        raise ArgumentError(argument, "latents with NaN or infinity", "finite ones")
    return latents.to(torch.promote_types(latents.dtype, torch.float32)).expand(count, *shape)


def as_mask(argument: str, value: Given, count: int, shape: tuple[int, int, int]) -> Tensor:
    """A mask as the engine holds it: [count, 1, H, W] floats in [0, 1]; 1 (white) is generated, 0 (black) is kept.

    Args:
        argument: the name used in an error.
        value: as for `as_images`, of one channel: floats in [0, 1], bools, integers 0 and 1, or uint8 and uint16 from
            black to white; no values but 0 and 1 are 0 and 1. PIL images are black and white.
        count: samples; one mask serves all of them.
        shape: (C, H, W) the model works at.

    Raises:
        ArgumentError: another shape, dtype or range.
    """
    one_channel = (1, *shape[1:])
    mask = _together(argument, [_mask(argument, each, one_channel) for each in _listed(argument, value)])
    if tuple(mask.shape[1:]) != one_channel or mask.shape[0] not in (1, count):
        allowed = f"[{shape[1]}, {shape[2]}] for all samples or [{count}, 1, {shape[1]}, {shape[2]}]"
        raise ArgumentError(argument, f"shape {tuple(mask.shape)}", allowed)
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ArgumentError(argument, "values outside [0, 1]", MASKS)
    return mask.to(torch.promote_types(mask.dtype, torch.float32)).expand(count, *one_channel)


def _image(argument: str, value: Any, shape: tuple[int, int, int]) -> Tensor:
    """[B, C, H, W] in [-1, 1]."""
    if _is_picture(value):
        return _of_picture(argument, value, shape[0])
    given = _tensor(argument, value, shape, IMAGES)
    if given.is_floating_point():
        return given
    if given.dtype not in WHITE:
        raise ArgumentError(argument, f"a tensor of {given.dtype}", IMAGES)
    levels = given.to(torch.float32)
    if given.dtype != torch.bool and 0 < float(levels.max()) <= 1:
        allowed = f"{WHITE[given.dtype]} for white; 0 and 1 alone are black and nearly black, or bools"
        raise ArgumentError(argument, f"no values of {given.dtype} but 0 and 1", allowed)
    if given.dtype == torch.uint8 and given.shape[1] != shape[0] and given.shape[1] in (1, 3, 4) and shape[0] < 5:
        from PIL import Image

        of = [Image.fromarray(each.permute(1, 2, 0).squeeze(2).numpy()) for each in given]
        return torch.cat([_of_picture(argument, each, shape[0]) for each in of])
    if levels.shape[1] == 1:
        levels = levels.expand(-1, shape[0], -1, -1)
    return levels * (2 / WHITE[given.dtype]) - 1


def _of_picture(argument: str, picture: "PILImage", channels: int) -> Tensor:
    """[1, C, H, W] in [-1, 1]."""
    if channels not in (1, 3, 4):
        raise ArgumentError(
            argument, "a picture", f"a tensor: the model has {channels} channels and pictures 1, 3 or 4"
        )
    if channels == 4:
        shades = np.asarray(pictures.with_alpha(argument, picture), dtype=np.float32)
    else:
        shades = pictures.values(pictures.plain(argument, picture), channels)
    return torch.from_numpy(np.array(shades)).permute(2, 0, 1)[None] / 127.5 - 1


def _mask(argument: str, value: Any, shape: tuple[int, int, int]) -> Tensor:
    """[B, 1, H, W] in [0, 1]."""
    if _is_picture(value):
        return torch.from_numpy(pictures.values(pictures.plain_mask(argument, value), 1) / 255)[None, None, :, :, 0]
    given = _tensor(argument, value, shape, MASKS)
    levels = given if given.is_floating_point() else given.to(torch.float64)
    if given.dtype in WHITE and float(levels.max()) > 1:
        return levels / WHITE[given.dtype]
    return levels


def _is_picture(value: Any) -> bool:
    return hasattr(value, "convert") and hasattr(value, "getbands")


def _listed(argument: str, value: Any) -> list[Any]:
    parts = list(value) if isinstance(value, list | tuple) else [value]
    if not parts:
        raise ArgumentError(argument, "an empty list", "at least one image")
    return parts


def _together(argument: str, parts: list[Tensor]) -> Tensor:
    if len({part.shape[1:] for part in parts}) != 1:
        sizes = ", ".join(dict.fromkeys(str(list(part.shape[1:])) for part in parts))
        raise ArgumentError(argument, f"shapes {sizes}", "images of one shape")
    return torch.cat([part.to(torch.float64 if part.dtype == torch.float64 else torch.float32) for part in parts])


def _tensor(argument: str, value: Any, shape: tuple[int, int, int], allowed: str) -> Tensor:
    """An array or a tensor on the CPU as [B, C, H, W], whatever its order was; of any dtype but complex."""
    if isinstance(value, Tensor):
        given, last = value.detach().cpu(), False
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        given, last = as_tensor(value), value.dtype.kind != "f"
    else:
        what = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
        raise ArgumentError(argument, what, allowed)
    if given.is_complex() or given.numel() == 0:
        raise ArgumentError(argument, f"a tensor of {given.dtype} {tuple(given.shape)}", allowed)
    if given.ndim == 2:
        given = given[None]
    if given.ndim == 3:
        given = given[None]
    if given.ndim != 4:
        raise ArgumentError(argument, f"shape {tuple(given.shape)}", "[C, H, W] or [H, W, C], or several of them")
    size = shape[1:]
    first_fits, last_fits = tuple(given.shape[2:]) == size, tuple(given.shape[1:3]) == size
    return given.permute(0, 3, 1, 2) if last_fits and (last or not first_fits) else given
