"""The networks that are measured, by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from fewstep.bench.subjects import latents, pixels
from fewstep.bench.subjects.architecture import Architecture
from fewstep.bench.subjects.folders import folder_subject, terrain
from fewstep.bench.subjects.opening import Opening, random_subject
from fewstep.bench.subjects.own import file_subject
from fewstep.bench.subjects.own_file import is_own_file
from fewstep.bench.subjects.policy import TINY_WIDTHS, policy
from fewstep.bench.subjects.subject import RANDOM, TRAINED, Subject
from fewstep.errors import ArgumentError, ModelError
from fewstep.memory import gib, why_not
from fewstep.models.bundled import names

Make = Callable[[Opening], Subject]


@dataclass(frozen=True)
class Network:
    """What is known of a network before it is opened.

    Attributes:
        name: by which `open_subject` opens it.
        title: what it is.
        weights: "trained" or "random".
        make: opens it.
        sizes: heights of a sample, and its widths: of record, then a smaller one for a small machine.
        gib: that one copy of its weights takes in float32.
        steps: model calls of record.
        samplers: of record.
        batches: of record.
        by_steps: whether each number of steps has a network of its own, as students have: then it is opened for each.
    """

    name: str
    title: str
    weights: str
    make: Make
    sizes: tuple[int, ...]
    gib: float
    steps: tuple[int, ...] = (1, 2, 4, 8)
    samplers: tuple[str, ...] = ("ddim",)
    batches: tuple[int, ...] = (1, 4)
    by_steps: bool = False

    def lacks_memory(self, device: str = "cpu", copies: int = 1) -> str:
        """Why so many copies of its weights do not fit where it would run; "" where they may."""
        needed, what = int(copies * self.gib * 2**30), f"{self.name} in float32"
        if torch.device(device).type == "cuda":
            free = torch.cuda.mem_get_info(device)[0]
            return f"{what} takes at least {gib(needed)}, and {gib(free)} are free" if needed > free else ""
        return why_not(needed, what) or ""


def _made(architecture: Callable[[int], Architecture], size: int) -> Make:
    """What opens an architecture with random weights, at a size unless another is asked for."""
    return lambda opening: random_subject(architecture(opening.size or size), opening)


def _random(
    name: str, title: str, architecture: Callable[[int], Architecture], sizes: tuple[int, ...], **known: Any
) -> Network:
    return Network(name, title, RANDOM, _made(architecture, sizes[0]), sizes, **known)


def _box() -> dict[str, Network]:
    """The models in the box: "digits" is the student for the steps that are asked, and each has a name of its own."""
    found: dict[str, Network] = {}
    for name in names():
        member = name.partition("/")[2]
        count = member.partition("-step")[0]
        steps = (int(count),) if count.isdigit() else (1, 2, 4, 8)
        title = f"handwritten digits, {member or 'the student for the steps that are asked'}"
        own: dict[str, Any] = {"sizes": (32,), "gib": 0.01, "steps": steps, "by_steps": not member}
        found[name] = Network(name, title, TRAINED, folder_subject, **own)
    return found


NETWORKS: dict[str, Network] = _box() | {
    each.name: each
    for each in (
        Network(
            "terrain",
            "terrain heights, a one-step consistency model",
            TRAINED,
            terrain,
            sizes=(128, 64),
            gib=0.06,
            steps=(1,),
            samplers=("consistency",),
        ),
        _random(
            "cifar10-ddpm",
            "the DDPM U-Net for CIFAR-10",
            pixels.cifar10_ddpm,
            sizes=(32, 16),
            gib=0.14,
            samplers=("ddim", "ddpm"),
        ),
        _random(
            "cifar10-edm", "EDM's DDPM++ for CIFAR-10", pixels.cifar10_edm, (32, 16), gib=0.21, samplers=("euler",)
        ),
        _random("adm64", "ADM for ImageNet at 64 x 64", pixels.adm64, (64, 32), gib=1.11),
        _random("sd15", "the U-Net of Stable Diffusion 1.5", latents.sd15, (64, 32), gib=3.21),
        _random("sd21", "the U-Net of Stable Diffusion 2.1", latents.sd21, (96, 32), gib=3.23),
        _random("sdxl", "the U-Net of Stable Diffusion XL", latents.sdxl, (128, 32), gib=9.57),
        Network(
            "policy",
            "a diffusion policy's 1-D U-Net; its size is the number of actions",
            RANDOM,
            policy,
            sizes=(16, 8),
            gib=0.25,
            samplers=("ddim", "ddpm"),
        ),
    )
}


def _tiny(name: str, make: Make, size: int) -> Network:
    whole = NETWORKS[name]
    return replace(whole, name=f"{name}/tiny", title=f"{whole.title}, made tiny", make=make, sizes=(size,), gib=0.01)


# The same networks with a few narrow layers, for tests and dry runs.
TINY: dict[str, Network] = {
    each.name: each
    for each in (
        _tiny("cifar10-ddpm", _made(partial(pixels.cifar10_ddpm, changes=pixels.TINY_DDPM), 8), 8),
        _tiny("cifar10-edm", _made(partial(pixels.cifar10_edm, changes=pixels.TINY_EDM), 8), 8),
        _tiny("adm64", _made(partial(pixels.adm64, changes=pixels.TINY_ADM), 8), 8),
        _tiny("sd15", _made(partial(latents.sd15, changes=latents.TINY), 4), 4),
        _tiny("sd21", _made(partial(latents.sd21, changes=latents.TINY), 4), 4),
        _tiny("sdxl", _made(partial(latents.sdxl, changes=latents.TINY_XL), 4), 4),
        _tiny("policy", partial(policy, widths=TINY_WIDTHS), 16),
    )
}


def open_subject(
    name: str,
    device: str = "cpu",
    max_batch: int = 16,
    size: int | None = None,
    steps: int | None = None,
    beside: bool = True,
    own: Mapping[str, Any] | None = None,
) -> Subject:
    """The network of that name.

    Args:
        name: of NETWORKS or TINY; or a model folder, a name of the hub, or a file and a function in it, as
            "my_file.py:make_model" (see `own.py`).
        device: where it runs.
        max_batch: samples at once, at most.
        size: height and width of a sample; the network's own unless given.
        steps: model calls that will be asked for, by which a student in the box is picked.
        beside: whether diffusers' module is made as well, which takes as much memory again.
        own: of a file, what a module that its function returns does not say itself: attributes of `Own`, such as
            {"shape": [3, 32, 32], "schedule": "linear"}.

    Raises:
        ArgumentError, ModelError: a network that is not there, that does not fit into memory, or cannot be measured.
    """
    opening = Opening(name, device, max_batch, size, steps, beside)
    network = NETWORKS.get(name) or TINY.get(name)
    if is_own_file(name):
        return file_subject(opening, own)
    if own:
        raise ArgumentError("own", dict(own), "nothing, but for a file of your own, such as my_file.py:make_model")
    if network is None:
        return folder_subject(opening)
    if why := network.lacks_memory(device):
        raise ModelError(why)
    return network.make(opening)
