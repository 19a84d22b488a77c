"""How a network is opened: where, for how many samples, at which size; and what becomes of one without weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep.bench.subjects.architecture import Architecture
from fewstep.bench.subjects.subject import RANDOM, Subject
from fewstep.bench.subjects.weights import NOT_ASKED, RANDOM_WEIGHTS, SEED, random_network, their_module
from fewstep.engine import Engine
from fewstep.errors import ArgumentError
from fewstep.models.model import Model

PIXELS_XL = (1024.0, 1024.0, 0.0, 0.0, 1024.0, 1024.0)  # what SDXL is told of an image that was never cropped


@dataclass(frozen=True)
class Opening:
    """What is asked of a network that is opened.

    Attributes:
        name: of the network.
        device: where it runs.
        max_batch: samples at once, at most.
        size: height and width of a sample; None for the network's own.
        steps: model calls that will be asked for; None for the network's own.
        beside: whether diffusers' module is made as well, which takes as much memory again.
    """

    name: str
    device: str = "cpu"
    max_batch: int = 16
    size: int | None = None
    steps: int | None = None
    beside: bool = True

    @property
    def source(self) -> dict[str, object]:
        """How `open_subject` makes the same again, wherever that is."""
        said = {"name": self.name, "size": self.size, "steps": self.steps}
        return {name: value for name, value in said.items() if value is not None}

    def engine(self, model: Model) -> Engine:
        """Of a model, on torch, in float32: what a race compares is this network on other backends."""
        ways: dict[str, Any] = {"device": self.device, "max_batch": self.max_batch, "backend": "torch"}
        return Engine(model, dtype=torch.float32, **ways)


def random_subject(architecture: Architecture, opening: Opening) -> Subject:
    """A network with random weights, given random numbers where it is told a text.

    Raises:
        ArgumentError: a size that it does not halve as often as it has to.
    """
    multiple = 1 if architecture.unet.condition is not None else architecture.unet.size_multiple
    if architecture.shape[1] % multiple:
        raise ArgumentError("size", architecture.shape[1], f"a multiple of {multiple}")
    unet = random_network(architecture.unet, opening.device)
    model = Model(
        unet,
        schedule=architecture.schedule,
        shape=architecture.shape,
        prediction=architecture.prediction,
        conditions=architecture.conditions,
        defaults=architecture.defaults,
        name=opening.name,
    )
    theirs, lacks = None, NOT_ASKED
    if opening.beside or not architecture.diffusers_class:
        theirs, lacks = their_module(architecture.diffusers_class, architecture.diffusers_config, unet)
    return Subject(
        engine=opening.engine(model),
        title=f"{opening.name}, {architecture.title}, {RANDOM_WEIGHTS}",
        source=opening.source,
        weights=RANDOM,
        theirs=theirs,
        lacks_diffusers=lacks,
        condition=random_condition(architecture.given, opening.device),
    )


def random_condition(
    given: Mapping[str, tuple[int, ...]], device: str | torch.device, seed: int = SEED
) -> dict[str, Tensor]:
    """Standard normals of these shapes, and the sizes that SDXL is told of a whole image, in pixels."""
    generator = torch.Generator().manual_seed(seed)  # of a CPU: the same numbers wherever it runs
    made = {name: torch.randn(shape, generator=generator) for name, shape in given.items()}
    if "sizes" in made:
        made["sizes"] = torch.tensor(PIXELS_XL)
    return {name: each.to(device) for name, each in made.items()}
