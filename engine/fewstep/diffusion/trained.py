"""What a distilled model was trained for: a few numbers of steps of one sampler, and no others."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fewstep.checks import entries, integer, only
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.errors import ArgumentError, UntrainedPlanWarning

MAX_STEPS = 100_000


@dataclass(frozen=True)
class Trained:
    """The plans a model was distilled for: `sampler` with each of the numbers of `steps`, at its usual noise levels.

    A student that was taught to take four steps has learnt to map the levels of those four to each other; at other
    levels its predictions are guesses. So what counts is where a plan calls the network: a strength below 1, another
    spacing or timesteps of one's own are untrained too. Options that leave the levels as they are, such as clip or
    eta, are not looked at.
    """

    sampler: str
    steps: tuple[int, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.sampler, str):
            raise ArgumentError("trained.sampler", self.sampler, "the name of a sampler")
        listed = entries(self.steps)
        if not listed:
            raise ArgumentError("trained.steps", self.steps, "a list of one or more numbers of steps")
        counts = {integer("trained.steps", count, 1, MAX_STEPS) for count in listed}
        object.__setattr__(self, "steps", tuple(sorted(counts)))

    def __str__(self) -> str:
        return f"{self.sampler} with {self._counts} step{'s' * (self.steps != (1,))}"

    @property
    def _counts(self) -> str:
        *others, last = map(str, self.steps)
        return f"{', '.join(others)} or {last}" if others else last

    def lists(self, sampler: str, steps: int) -> bool:
        """Whether the model was trained for so many steps of the sampler."""
        return sampler == self.sampler and steps in self.steps

    def warn(self, model: str, plan: Plan, own: Callable[[int], Plan] | None, stacklevel: int) -> None:
        """Warn with `UntrainedPlanWarning` where the model was not trained for a plan.

        Args:
            model: its name.
            plan: what is about to run.
            own: the model's own plan of so many steps; None where the plan surely visits its levels.
            stacklevel: as for `warnings.warn`, counted from the caller.
        """
        steps = f"{len(plan)} step{'s' * (len(plan) > 1)}"
        if not self.lists(plan.sampler, len(plan)):
            asked, advice = f"{plan.sampler} with {steps}", f"ask for {self}"
            instead = {"sampler": self.sampler, "steps": self._counts}
        elif own is not None and not _same_levels(plan.levels, own(len(plan)).levels):
            asked = f"{plan.sampler} with {steps} at other noise levels (strength below 1, or levels of your own)"
            advice = (
                f"leave them as they are; to start from an image, plan=engine.plan({len(plan)}) begins at one of them"
            )
            instead = {"strength": "1"}
        else:
            return
        fact = f"{model or 'this model'} was trained for {self}, and is asked for {asked}: expect worse samples"
        advice += ", or take the model it was distilled from"
        warnings.warn(UntrainedPlanWarning(fact, advice, instead), stacklevel=stacklevel + 1)


def trained_from_config(config: Trained | Mapping[str, Any] | None) -> Trained | None:
    """{"sampler": "ddim", "steps": [4]} or what it makes; None for a model that takes any plan.

    Raises:
        ArgumentError: other fields, or steps that are none.
    """
    if config is None or isinstance(config, Trained):
        return config
    if isinstance(config, Mapping):
        only("trained", config, ("sampler", "steps"))
    try:
        return Trained(**config)
    except TypeError:
        raise ArgumentError("trained", config, "sampler and steps") from None


def _same_levels(one: Levels, other: Levels) -> bool:
    """Whether two levels of equal length tell the network the same times, at the same noise."""
    pairs = ((one.t, other.t), (one.signal_scale, other.signal_scale), (one.noise_scale, other.noise_scale))
    return all(np.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in pairs)
