"""The networks of benchmarks/unets.py: those of the benchmark's registry, and how a call of one is prepared."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fewstep import Model
from fewstep.bench.subjects import Subject, open_subject
from fewstep.bench.subjects.architecture import of_diffusers
from fewstep.bench.subjects.opening import Opening, random_subject
from fewstep.bench.subjects.weights import NOT_INSTALLED, RANDOM_WEIGHTS
from fewstep.diffusion import schedules

VAE = {  # of Stable Diffusion; SDXL's has another scale alone
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
}
SMALL_VAE = {"block_out_channels": (32, 32), "layers_per_block": 1}


@dataclass
class Network:
    """One network as fewstep holds it and, where that is importable, as diffusers does, with the same weights.

    Attributes:
        name: of its rows.
        subject: ours, in float32 on the device, and diffusers' own module or why there is none.
        steps: of a run.
    """

    name: str
    subject: Subject
    steps: tuple[int, ...] = (1, 4)

    @property
    def about(self) -> str:
        """Whose weights it has."""
        return RANDOM_WEIGHTS if self.subject.weights == "random" else self.subject.weights

    @property
    def model(self) -> Model:
        """Ours."""
        return self.subject.engine.model

    @property
    def module(self) -> nn.Module:
        """Ours, on the device."""
        return self.subject.engine.module

    @property
    def theirs(self) -> Any:
        """diffusers' own module with the same weights, or None."""
        return self.subject.theirs

    @property
    def lacks(self) -> str:
        """Why there is none."""
        return self.subject.lacks_diffusers

    def asked(self, batch: int) -> dict[str, Any]:
        """Its condition and labels as arguments of `Engine.sample`."""
        return self.subject.asked(batch)

    def prepared(self, times: Tensor, batch: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """What our module is called with in each step, made once for all of them."""
        given = self.subject.inputs(batch)
        rows = {name: each.to(dtype) if each.is_floating_point() else each for name, each in given.items()}
        prepare: Callable[..., Mapping[str, Tensor]] | None = getattr(self.module, "prepare_condition", None)
        if prepare is None:
            return rows
        made = prepare({name: each[0] for name, each in rows.items()}, times)
        return {name: each.expand(batch, *each.shape).contiguous() for name, each in made.items()}

    def their_arguments(self, batch: int, dtype: torch.dtype) -> dict[str, Any]:
        """What diffusers' module is called with beside x and t."""
        return self.subject.their_arguments(batch, dtype)

    def cast(self, dtype: torch.dtype) -> None:
        """Both modules in another dtype, where they are."""
        for each in (self.module, self.theirs):
            if each is not None:
                nn.Module.to(each, dtype)  # diffusers' own speaks of modules that are kept in float32; these have none


def networks(part: str, device: torch.device, dry_run: bool) -> list[Callable[[], Network]]:
    """Of a part of `make gpu`, each made when it is called."""
    if part == "small":
        return [lambda: cifar10(device, dry_run), lambda: digits(device, 4), lambda: digits(device, 1)]
    return [lambda: conditional(part, device, dry_run)]


def conditional(part: str, device: torch.device, dry_run: bool) -> Network:
    """Stable Diffusion 1.5 or XL with random weights, and a text embedding of random numbers."""
    return Network(part, open_subject(part + "/tiny" * dry_run, str(device)))


def conditional_of(part: str, config: dict[str, Any], device: torch.device, beside: bool = True) -> Network:
    """What diffusers' UNet2DConditionModel is of a config, with random weights and a text of random numbers.

    `beside` makes diffusers' own as well, which takes as much memory again.
    """
    architecture = of_diffusers(part, config, schedules.scaled_linear())
    return Network(part, random_subject(architecture, Opening(part, str(device), beside=beside)))


def cifar10(device: torch.device, dry_run: bool) -> Network:
    """The U-Net of google/ddpm-cifar10-32 with random weights."""
    return Network("cifar10-ddpm", open_subject("cifar10-ddpm" + "/tiny" * dry_run, str(device)))


def digits(device: torch.device, steps: int) -> Network:
    """The student for so many steps in the box, with its own weights."""
    subject = open_subject("digits", str(device), steps=steps)
    return Network(subject.engine.model.name, subject, (steps,))


def terrain(folder: str) -> Network:
    """The one-step model of a folder, with its own weights, on a CPU."""
    return Network("terrain", open_subject(folder), (1,))


def random_vae(device: torch.device, dry_run: bool) -> tuple[Any, str]:
    """diffusers' AutoencoderKL of Stable Diffusion with random weights in float32; or None, and why."""
    try:
        library: Any = importlib.import_module("diffusers")
    except ImportError:
        return None, NOT_INSTALLED
    config: dict[str, Any] = VAE | (SMALL_VAE if dry_run else {})
    blocks = len(config["block_out_channels"])
    config |= {"down_block_types": ("DownEncoderBlock2D",) * blocks, "up_block_types": ("UpDecoderBlock2D",) * blocks}
    torch.manual_seed(0)
    with torch.device(device):
        return library.AutoencoderKL(**config).eval(), ""
