"""Whose steps are counted: networks on the meta device, and what a sampling loop must know of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.bench.subjects import latents, pixels
from fewstep.bench.subjects.architecture import Architecture
from fewstep.cost.counter import DEVICE
from fewstep.diffusion import schedules
from fewstep.diffusion.schedules import Schedule
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
        given: what its call takes for a whole run, by name, [...] for each sample.
        samplers: those whose steps are counted; None for all.
        diffusers_class: of its counterpart there.
        diffusers_config: of that, or None where it has no counterpart.
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
    given: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    samplers: tuple[str, ...] | None = None
    diffusers_class: str = "UNet2DModel"
    diffusers_config: dict[str, Any] | None = None

    @property
    def opaque(self) -> bool:
        """Whether the network itself is left out of the count."""
        return isinstance(self.network, Opaque)

    @property
    def learns_variance(self) -> bool:
        """Whether the network answers with 2C channels."""
        return self.channels == 2 * self.shape[0]

    def conditioning(self, lanes: int, steps: int) -> tuple[tuple[str, tuple[int, ...], torch.dtype], ...]:
        """What each of so many lanes is given beside x and t in a run of so many steps, as a `Signature` names it."""
        if self.given:
            prepare: Callable[..., Mapping[str, Tensor]] = getattr(self.network, "prepare_condition")  # noqa: B009
            condition = {name: torch.empty(size, device=DEVICE) for name, size in self.given.items()}
            made = prepare(condition, torch.empty(steps, device=DEVICE))
            return tuple((name, tuple(rows.shape), rows.dtype) for name, rows in made.items())
        given = {name: torch.zeros(lanes) for name in self.inputs}
        rows = self.conditions.rows(Words(**self.conditions.blank(lanes)), lanes, guided=False)
        given |= {name: each.float() if each.is_floating_point() else each for name, each in rows.condition.items()}
        return tuple((name, tuple(rows.shape[1:]), rows.dtype) for name, rows in given.items())


def cifar10_ddpm() -> Subject:
    """The U-Net of Ho et al. 2020 for CIFAR-10."""
    return _of("cifar10-ddpm", pixels.cifar10_ddpm())


def sd_latents() -> Subject:
    """Latents of the size that Stable Diffusion 1.x has for 512 x 512 pixels, and its schedule; an opaque network."""
    title = "Stable Diffusion's latents for 512 x 512 pixels, 4 x 64 x 64; the network is not counted"
    return Subject("sd-latents", title, Opaque(4), (4, 64, 64), 4, schedules.scaled_linear(), guided=True)


def sd15() -> Subject:
    """The U-Net of Stable Diffusion 1.5 for 512 x 512 pixels."""
    return _of("sd15", latents.sd15(), "ddim")


def sdxl() -> Subject:
    """The U-Net of Stable Diffusion XL base 1.0 for 1024 x 1024 pixels."""
    return _of("sdxl", latents.sdxl(), "euler")


PRESETS: dict[str, Callable[[], Subject]] = {
    "cifar10-ddpm": cifar10_ddpm,
    "sd-latents": sd_latents,
    "sd15": sd15,
    "sdxl": sdxl,
}


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


def diffusers_network(subject: Subject) -> Callable[[Tensor, Tensor], Any]:
    """diffusers' own network of the same shape, on the meta device, called with x and t; `Opaque` where there is none.

    ImportError without diffusers.
    """
    if subject.diffusers_config is None:
        return Opaque(subject.channels)
    import diffusers

    with torch.device(DEVICE):
        network = getattr(diffusers, subject.diffusers_class)(**subject.diffusers_config).eval()

    def call(x: Tensor, t: Tensor) -> Any:
        rows = {name: torch.empty(len(x), *size, device=DEVICE) for name, size in subject.given.items()}
        arguments: dict[str, Any] = {"encoder_hidden_states": rows["context"]} if rows else {}
        if "pooled" in rows:
            arguments["added_cond_kwargs"] = {"text_embeds": rows["pooled"], "time_ids": rows["sizes"]}
        return network(x, t, **arguments)

    return call


def _of(name: str, architecture: Architecture, *samplers: str) -> Subject:
    """An architecture's network; guided by two halves where it is told a text."""
    return Subject(
        name=name,
        title=architecture.title[0].upper() + architecture.title[1:],
        network=empty_unet(architecture.unet).eval(),
        shape=architecture.shape,
        channels=architecture.unet.out_channels,
        schedule=architecture.schedule,
        prediction=architecture.prediction,
        conditions=condition_from_config(architecture.conditions),
        guided="context" in architecture.given,
        given=architecture.given,
        samplers=samplers or None,
        diffusers_class=architecture.diffusers_class,
        diffusers_config=dict(architecture.diffusers_config) or None,
    )
