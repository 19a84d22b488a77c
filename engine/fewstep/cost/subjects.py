"""Whose steps are counted: networks on the meta device, and what a sampling loop must know of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.bench.subject import PRESETS as NETWORKS
from fewstep.cost.counter import DEVICE
from fewstep.diffusion import schedules
from fewstep.diffusion.schedules import Schedule
from fewstep.models.layouts.diffusers import config_from_diffusers
from fewstep.models.load import open_folder
from fewstep.models.net.build import empty_unet
from fewstep.request.conditions import Condition, Unconditional, Words, condition_from_config
from fewstep.request.guidance import guidance_from_config


class Opaque(nn.Module):
    """Stands for a network that is not counted: its answer is there, and cost nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """x [B, C, H, W] -> [B, channels, H, W]."""
        return x.new_empty((x.shape[0], self.channels, *x.shape[2:]))


@dataclass(frozen=True)
class Subject:
    """A network without weights.

    Attributes:
        name: a preset's or a folder's.
        title: what it is.
        network: on the meta device; `Opaque` where only what surrounds it is counted.
        channels: of its answer, twice those of `shape` where it learns the variance.
        guided: whether classifier-free guidance can be asked of it, as two halves.
        conditions: what it may be asked for.
        inputs: what it takes beside x, t and labels, one number each.
        unet_2d_config: of diffusers' UNet2DModel, or None where it has no counterpart.
    """

    name: str
    title: str
    network: nn.Module
    shape: tuple[int, int, int]
    channels: int
    schedule: Schedule
    prediction: str = "eps"
    conditions: Condition = field(default_factory=Unconditional)
    guided: bool = False
    inputs: tuple[str, ...] = ()
    unet_2d_config: dict[str, Any] | None = None

    @property
    def opaque(self) -> bool:
        """Whether the network itself is left out of the count."""
        return isinstance(self.network, Opaque)

    @property
    def learns_variance(self) -> bool:
        """Whether the network answers with 2C channels."""
        return self.channels == 2 * self.shape[0]

    def conditioning(self, lanes: int) -> tuple[tuple[str, tuple[int, ...], torch.dtype], ...]:
        """What each of so many lanes is given beside x and t, as a `Signature` names it."""
        given = {name: torch.zeros(lanes) for name in self.inputs}
        rows = self.conditions.rows(Words(**self.conditions.blank(lanes)), lanes, guided=False)
        given |= {name: each.float() if each.is_floating_point() else each for name, each in rows.condition.items()}
        return tuple((name, tuple(rows.shape[1:]), rows.dtype) for name, rows in given.items())


def cifar10_ddpm() -> Subject:
    """The U-Net of Ho et al. 2020 for CIFAR-10."""
    config = NETWORKS["cifar10-ddpm"]
    unet = empty_unet(config_from_diffusers({"_class_name": "UNet2DModel", **config}, "preset")).eval()
    size = config["sample_size"]
    title = "The DDPM U-Net for CIFAR-10, 3 x 32 x 32"
    schedule = schedules.linear()
    return Subject("cifar10-ddpm", title, unet, (3, size, size), 3, schedule, unet_2d_config=config)


def sd_latents() -> Subject:
    """Latents of the size that Stable Diffusion 1.x has for 512 x 512 pixels, and its schedule; an opaque network."""
    title = "Stable Diffusion's latents for 512 x 512 pixels, 4 x 64 x 64; the network is not counted"
    return Subject("sd-latents", title, Opaque(4), (4, 64, 64), 4, schedules.scaled_linear(), guided=True)


PRESETS: dict[str, Callable[[], Subject]] = {"cifar10-ddpm": cifar10_ddpm, "sd-latents": sd_latents}


def folder_subject(folder: Path) -> Subject:
    """The model in a folder; its weights are not read.

    Raises:
        ModelError: as `Engine.from_pretrained`, but for what is wrong with the weights themselves.
    """
    _, spec = open_folder(folder)
    conditions, guidance = condition_from_config(spec.labels), guidance_from_config(spec.guidance)
    return Subject(
        name=str(folder),
        title=f"{spec.name or folder}, {' x '.join(map(str, spec.shape))}",
        network=empty_unet(spec.unet).eval(),
        shape=(spec.shape[0], spec.shape[1], spec.shape[2]),
        channels=spec.unet.out_channels,
        schedule=schedules.from_config(spec.schedule),
        prediction=spec.prediction,
        conditions=conditions,
        guided=not guidance.inputs and conditions.guidable,
        inputs=guidance.inputs,
    )


def unet_2d(subject: Subject) -> nn.Module | None:
    """diffusers' own network of the same shape, on the meta device. ImportError without diffusers."""
    if subject.unet_2d_config is None:
        return None
    import diffusers

    with torch.device(DEVICE):
        kind: Any = diffusers.UNet2DModel
        network: nn.Module = kind(**subject.unet_2d_config).eval()
    return network
