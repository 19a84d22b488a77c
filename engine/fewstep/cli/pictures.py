"""Pictures that a user hands in, at the model's size: what `fewstep.pictures` reads, cut and scaled."""

from pathlib import Path
from typing import TYPE_CHECKING

from fewstep import pictures
from fewstep.errors import ArgumentError

if TYPE_CHECKING:
    from torch import Tensor


def read_picture(argument: str, path: Path, shape: tuple[int, ...]) -> "Tensor":
    """The middle of a picture at `shape`, [C, H, W] in [-1, 1].

    Raises:
        ArgumentError: as `pictures.read_picture`, or a model of other channels than a picture has.
    """
    import torch

    channels, height, width = shape
    if channels not in (1, 3):
        raise ArgumentError(argument, str(path), f"nothing: the model has {channels} channels and pictures 1 or 3")
    picture = pictures.fitted(pictures.read_picture(argument, path), width, height)
    return torch.tensor(pictures.values(picture, channels)).permute(2, 0, 1) / 127.5 - 1


def read_mask(argument: str, path: Path, shape: tuple[int, ...], image: Path) -> "Tensor":
    """The middle of a mask for a picture, [H, W] in [0, 1]: white is 1.

    Raises:
        ArgumentError: as `pictures.read_mask`, or a mask of other proportions than the picture, so that the middle of
            one does not lie on the middle of the other.
    """
    import torch

    _, height, width = shape
    mask, beside = pictures.read_mask(argument, path), pictures.read_picture("image", image)
    across, along = mask.width * beside.height, mask.height * beside.width
    if mask.size != (width, height) and abs(across - along) > max(*mask.size, *beside.size):
        allowed = f"the proportions of the image, {beside.width}x{beside.height}, or the model's {width}x{height}"
        raise ArgumentError(argument, f"{path} of {mask.width}x{mask.height} pixels", allowed)
    return torch.tensor(pictures.values(pictures.fitted(mask, width, height), 1))[:, :, 0] / 255
