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


def read_mask(argument: str, path: Path, shape: tuple[int, ...]) -> "Tensor":
    """The middle of a mask, [H, W] in [0, 1]: white is 1. Raises as `pictures.read_mask`."""
    import torch

    _, height, width = shape
    mask = pictures.fitted(pictures.read_mask(argument, path), width, height)
    return torch.tensor(pictures.values(mask, 1))[:, :, 0] / 255
