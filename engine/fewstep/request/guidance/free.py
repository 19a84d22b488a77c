"""Classifier-free guidance: both halves in one batch, combined by the plan's w (Ho and Salimans 2022, 2207.12598)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from fewstep.checks import number
from fewstep.diffusion.plan import Plan
from fewstep.errors import ArgumentError

MAX_SCALE: Final = 1e9


@dataclass(frozen=True)
class ClassifierFree:
    """m = uncond + w (cond - uncond), in diffusers' convention: w = 1 is the condition alone, w = 0 goes without.

    Attributes:
        default: w of a request that names none.
    """

    default: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "default", number("guidance.default", self.default, -MAX_SCALE, MAX_SCALE))

    @property
    def inputs(self) -> tuple[str, ...]:
        """None: it is the step that combines."""
        return ()

    def scale(self, asked: object) -> float:
        """w of one sample."""
        if asked is None:
            return self.default
        try:
            return number("guidance_scale", asked, -MAX_SCALE, MAX_SCALE)
        except ArgumentError:
            in_python = ", or one per sample; one per model call: plan=engine.plan(...).with_guidance([...])"
            raise ArgumentError("guidance_scale", asked, "a finite number", in_python) from None

    def planned(self, plan: Plan, scale: float, rescale: float) -> Plan:
        """The plan with w in every row."""
        return plan.with_guidance(scale, rescale=rescale)

    def given(self, plan: Plan, asked: object, rescale: float) -> Plan:
        """The plan with its own w, or the one that is asked for."""
        if asked is None and rescale == 0:
            return plan
        return plan.with_guidance(plan.column("w").tolist() if asked is None else self.scale(asked), rescale=rescale)

    def condition(self, asked: Sequence[object], condition: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The condition as it is."""
        return dict(condition)

    def recorded(self, condition: Mapping[str, Tensor]) -> list[float] | None:
        """The plans have the scales."""
        return None

    def about(self, guidable: bool) -> str:
        """In words."""
        return f"any, from two halves; {self.default:g} by default" if guidable else ""
