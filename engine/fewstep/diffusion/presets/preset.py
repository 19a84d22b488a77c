"""A preset: what a family of distilled models is meant to be sampled with, and who says so."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from fewstep.checks import exact
from fewstep.diffusion.schedules import Kind, Schedule
from fewstep.diffusion.trained import Trained, counted
from fewstep.errors import ArgumentError

Rule = Literal["distilled", "free", "embedded", "unsaid"]


class Family(NamedTuple):
    """Models that one paper or repository brought."""

    title: str
    source: str  # a model card, a paper or a file, which says what the rows of the family do


class Network(NamedTuple):
    """What the network of a model has to be."""

    prediction: str = "eps"
    kind: Kind = "vp"  # of its schedule, see `fewstep.schedules`


EPS: Final = Network()


class Guided(NamedTuple):
    """How a model is guided, in our words: w in uncond + w (cond - uncond), which is 1 where diffusers may say 0."""

    rule: Rule  # in its weights; by two halves; by an input of the network; or its source does not say
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        ends = "" if self.low is None or self.high is None else f"{exact(self.low)} to {exact(self.high)}"
        if self.rule == "embedded":
            return f"input, {ends}" if ends else "input"
        return {"distilled": "1", "free": ends, "unsaid": "-"}[self.rule]


@dataclass(frozen=True, eq=False)
class Preset:
    """One row of the table.

    Attributes:
        name: that a request asks for.
        family: whose models it is for.
        sampler: a name in `fewstep.samplers.SAMPLERS`.
        steps: the numbers of model calls that the models were trained for.
        guidance: how they are guided.
        options: of the sampler, and of its spacing.
        usual: the steps of a request that names none; the first of `steps` unless said.
        network: what they are networks of.
        known_by: a regular expression that finds it in a folder's name; empty where a name does not tell.
    """

    name: str
    family: Family
    sampler: str
    steps: tuple[int, ...]
    guidance: Guided
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    usual: int | None = None
    network: Network = EPS
    known_by: str = ""

    @cached_property
    def trained(self) -> Trained:
        """What a model of the family was trained for."""
        rule, low, high = self.guidance
        if low is None or high is None or rule not in ("distilled", "free"):
            return Trained(self.sampler, self.steps)
        return Trained(self.sampler, self.steps, (low, high))

    @property
    def scale(self) -> float | None:
        """The guidance scale of a request that names none; None leaves it to the model."""
        return self.guidance.low if self.guidance.rule in ("distilled", "free") else None

    @property
    def settings(self) -> dict[str, Any]:
        """The sampler, its usual steps, and its options."""
        return {"sampler": self.sampler, "steps": self.usual or self.steps[0], **self.options}

    @property
    def defaults(self) -> dict[str, Any]:
        """The `defaults` of a `Model` of the family: the settings, and the guidance scale where there is one."""
        return self.settings if self.scale in (None, 1.0) else self.settings | {"guidance_scale": self.scale}

    @property
    def levels(self) -> str:
        """Which levels it visits, in words."""
        spacing = self.options.get("spacing", "the sampler's own")
        return spacing if isinstance(spacing, str) else "timesteps " + ", ".join(map(str, spacing))

    @property
    def counts(self) -> str:
        """The numbers of steps, in words."""
        return counted(self.steps)

    def check(self, argument: str, schedule: Schedule, prediction: str) -> None:
        """ArgumentError, in the name of an argument, for a model whose network or schedule is another."""
        if prediction != self.network.prediction:
            allowed = f"one for {prediction}, as this model's network does"
            raise ArgumentError(
                argument, f"{self.name}, for a network that predicts {self.network.prediction}", allowed
            )
        if schedule.kind != self.network.kind:
            allowed = f"one for {schedule.kind}, as this model's schedule is"
            raise ArgumentError(argument, f"{self.name}, for a schedule of kind {self.network.kind}", allowed)
