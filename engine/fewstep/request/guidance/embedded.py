"""The guidance scale as an input of the network, for students that were distilled from a guided teacher.

Such a student takes w and answers with what the two halves of its teacher combine to, uncond + w (cond - uncond) (Meng
et al., On Distillation of Guided Diffusion Models, 2210.03142). A sample then owns one lane of the network's batch at
any w, and nothing is combined: the plan's own w is 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from fewstep.checks import exact, number
from fewstep.diffusion.plan import Plan
from fewstep.errors import ArgumentError
from fewstep.request.guidance.free import MAX_SCALE

ARGUMENT: Final = "guidance"  # the module's, and the name in `condition`


@dataclass(frozen=True)
class EmbeddedGuidance:
    """A guidance scale from `min` to `max`, `default` unless asked for."""

    min: float
    max: float
    default: float

    def __post_init__(self) -> None:
        low, high = (number(f"guidance.{name}", getattr(self, name), -MAX_SCALE, MAX_SCALE) for name in ("min", "max"))
        if low >= high:
            raise ArgumentError("guidance", f"min {exact(low)} and max {exact(high)}", "a min below the max")
        for name, value in (("min", low), ("max", high)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "default", number("guidance.default", self.default, low, high))

    @property
    def inputs(self) -> tuple[str, ...]:
        """The network's argument."""
        return (ARGUMENT,)

    @property
    def allowed(self) -> str:
        """What an error says is allowed."""
        return (
            f"a number from {exact(self.min)} to {exact(self.max)}, as this model takes the guidance scale as an input"
        )

    def scale(self, asked: object) -> float:
        """The scale of one sample."""
        if asked is None:
            return self.default
        try:
            return number("guidance_scale", asked, self.min, self.max)
        except ArgumentError:
            raise ArgumentError("guidance_scale", asked, self.allowed) from None

    def planned(self, plan: Plan, scale: float, rescale: float) -> Plan:
        """The plan as it is: the network does the work. ArgumentError for a rescale, which needs two halves."""
        if rescale != 0:
            allowed = "0: this model takes the guidance scale as an input, so there are no two halves to rescale"
            raise ArgumentError("guidance_rescale", rescale, allowed)
        return plan

    def given(self, plan: Plan, asked: object, rescale: float) -> Plan:
        """The plan, which must leave guidance to the network."""
        if (plan.column("w") != 1).any():
            w = next(float(w) for w in plan.column("w") if w != 1)
            allowed = (
                "one whose guidance_scale is 1: this model takes the scale as an input, by sample(guidance_scale=...)"
            )
            raise ArgumentError("plan", f"a plan with guidance_scale {exact(w)}", allowed)
        return self.planned(plan, 1.0, rescale)

    def condition(self, asked: Sequence[object], condition: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The condition with a scale for each sample, float64 [B]; a request rounds it to the dtype of its state.

        Raises:
            ArgumentError: scales in `condition`, which are not said there.
        """
        if ARGUMENT in condition:
            allowed = "nothing: guidance_scale says it, one number or one per sample"
            raise ArgumentError(f"condition[{ARGUMENT!r}]", "a tensor", allowed)
        scales = [self.scale(each) for each in asked]
        return {**condition, ARGUMENT: torch.tensor(scales, dtype=torch.float64)}

    def recorded(self, condition: Mapping[str, Tensor]) -> list[float] | None:
        """Each sample's scale."""
        return condition[ARGUMENT].tolist()

    def about(self, guidable: bool) -> str:
        """In words."""
        return f"{self.min:g} to {self.max:g}, an input of the network; {self.default:g} by default"
