"""What a distilled model was trained for: a few numbers of steps of one sampler, and no others."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fewstep.checks import entries, exact, integer, number, only
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.errors import TEACHER, ArgumentError, UntrainedPlanWarning

MAX_STEPS = 100_000
MAX_SCALE = 1e9


@dataclass(frozen=True)
class Trained:
    """The plans a model was distilled for: `sampler` with each of the numbers of `steps`, at its usual noise levels.

    A student that was taught to take four steps has learnt to map the levels of those four to each other; at other
    levels its predictions are guesses. So what counts is where a plan calls the network: a strength below 1, another
    spacing or timesteps of one's own are untrained too. Options that leave the levels as they are, such as clip or
    eta, are not looked at.

    `scales` are the lowest and the highest scale that it takes, 1 and 1 where guidance was distilled into it; None
    for any.
    """

    sampler: str
    steps: tuple[int, ...]
    scales: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.sampler, str):
            raise ArgumentError("trained.sampler", self.sampler, "the name of a sampler")
        listed = entries(self.steps)
        if not listed:
            raise ArgumentError("trained.steps", self.steps, "a list of one or more numbers of steps")
        counts = {integer("trained.steps", count, 1, MAX_STEPS) for count in listed}
        object.__setattr__(self, "steps", tuple(sorted(counts)))
        if self.scales is not None:
            ends = entries(self.scales) or []
            if len(ends) != 2:
                raise ArgumentError("trained.scales", self.scales, "the lowest and the highest scale, or None")
            low = number("trained.scales", ends[0], -MAX_SCALE, MAX_SCALE)
            object.__setattr__(self, "scales", (low, number("trained.scales", ends[1], low, MAX_SCALE)))

    def __str__(self) -> str:
        scales = "" if self.scales is None else f" and guidance_scale {self._scale_words}"
        return f"{self.sampler} with {self._counts} step{'s' * (self.steps != (1,))}{scales}"

    @property
    def _counts(self) -> str:
        return counted(self.steps)

    @property
    def _scale_words(self) -> str:
        assert self.scales is not None
        low, high = map(exact, self.scales)
        return low if low == high else f"{low} to {high}"

    def to_config(self) -> dict[str, Any]:
        """A JSON object, of which `trained_from_config` makes the same."""
        config = {"sampler": self.sampler, "steps": list(self.steps)}
        return config if self.scales is None else config | {"scales": list(self.scales)}

    def lists(self, sampler: str, steps: int) -> bool:
        """Whether the model was trained for so many steps of the sampler."""
        return sampler == self.sampler and steps in self.steps

    def remarks(self, model: str, plan: Plan, own: Callable[[int], Plan] | None) -> list[UntrainedPlanWarning]:
        """What there is to warn of where the model was not trained for a plan, and of its guidance.

        Args:
            model: its name.
            plan: what is about to run.
            own: the model's own plan of so many steps; None where the plan surely visits its levels.
        """
        found = []
        for asked, advice, instead in (self._steps_asked(plan, own), self._guidance_asked(plan)):
            if asked:
                fact = f"{model or 'this model'} was trained for {self}, and is asked for {asked}: expect worse samples"
                found.append(UntrainedPlanWarning(fact, advice + TEACHER, instead))
        return found

    def warn(self, model: str, plan: Plan, own: Callable[[int], Plan] | None, stacklevel: int) -> None:
        """Warn of the `remarks`; `stacklevel` is as for `warnings.warn`, counted from the caller."""
        for remark in self.remarks(model, plan, own):
            warnings.warn(remark, stacklevel=stacklevel + 1)

    def _steps_asked(self, plan: Plan, own: Callable[[int], Plan] | None) -> tuple[str, str, dict[str, str]]:
        """What is asked for in place of the sampler, steps or levels, what to do, and by which arguments."""
        steps = f"{len(plan)} step{'s' * (len(plan) > 1)}"
        if not self.lists(plan.sampler, len(plan)):
            instead = {"steps": self._counts}
            if plan.sampler != self.sampler:
                instead = {"sampler": self.sampler, **instead}
            return f"{plan.sampler} with {steps}", f"ask for {self}", instead
        usual = None if own is None else own(len(plan)).levels
        if usual is None or same_levels(plan.levels, usual):
            return "", "", {}
        if plan.levels.spacing != usual.spacing:
            spacings = f"{plan.levels.spacing} spacing in place of {usual.spacing}"
            asked = f"{plan.sampler} with {steps} at other noise levels ({spacings})"
            return asked, f"leave the spacing as it is, {usual.spacing}", {"spacing": usual.spacing}
        asked = f"{plan.sampler} with {steps} at other noise levels (strength below 1, or levels of your own)"
        advice = f"leave them as they are; to start from an image, plan=engine.plan({len(plan)}) begins at one of them"
        return asked, advice, {"strength": "1"}

    def _guidance_asked(self, plan: Plan) -> tuple[str, str, dict[str, str]]:
        """The same for a guidance scale that it does not take."""
        if self.scales is None:
            return "", "", {}
        w, (low, high) = plan.column("w"), self.scales
        outside = w[(w < low) | (w > high)]
        if not len(outside):
            return "", "", {}
        words = " (what diffusers writes as 0)" if outside[0] == 0 and low == high == 1 else ""
        advice = f"ask for guidance_scale {self._scale_words}{words}"
        return f"guidance_scale {exact(outside[0])}", advice, {"guidance_scale": self._scale_words}


def trained_from_config(config: Trained | Mapping[str, Any] | None) -> Trained | None:
    """{"sampler": "ddim", "steps": [4]} or what it makes; None for a model that takes any plan.

    Raises:
        ArgumentError: other fields, or steps that are none.
    """
    if config is None or isinstance(config, Trained):
        return config
    if isinstance(config, Mapping):
        only("trained", config, ("sampler", "steps", "scales"))
    try:
        return Trained(**config)
    except TypeError:
        raise ArgumentError("trained", config, "sampler and steps") from None


def counted(steps: Sequence[int]) -> str:
    """Numbers in words, those that follow each other by their ends: 1, 2 or 8; 1 to 8."""
    runs: list[list[int]] = []
    for count in steps:
        if runs and runs[-1][-1] == count - 1:
            runs[-1].append(count)
        else:
            runs.append([count])
    words = [text for run in runs for text in ([f"{run[0]} to {run[-1]}"] if len(run) > 3 else map(str, run))]
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


def same_levels(one: Levels, other: Levels) -> bool:
    """Whether two levels of equal length tell the network the same times, at the same noise."""
    pairs = ((one.t, other.t), (one.signal_scale, other.signal_scale), (one.noise_scale, other.noise_scale))
    return all(len(a) == len(b) and np.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in pairs)
