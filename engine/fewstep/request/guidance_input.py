"""The guidance scale as an input of the network, for students that were distilled from a guided teacher.

Such a student takes w and answers with what the two halves of its teacher combine to, uncond + w (cond - uncond) (Meng
et al., On Distillation of Guided Diffusion Models, 2210.03142). A sample then owns one row of the network's batch at
any w, and nothing is combined: the plan's own w is 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from fewstep.checks import number
from fewstep.diffusion.plan import Plan
from fewstep.errors import ArgumentError

ARGUMENT: Final = "guidance"  # the module's, and the name in `conditioning`
MAX_SCALE: Final = 1e9


@dataclass(frozen=True)
class GuidanceInput:
    """A guidance scale from `min` to `max`, `default` unless asked for."""

    min: float
    max: float
    default: float

    def __post_init__(self) -> None:
        low, high = (number(f"guidance.{name}", getattr(self, name), -MAX_SCALE, MAX_SCALE) for name in ("min", "max"))
        if low >= high:
            raise ArgumentError("guidance", f"min {low:g} and max {high:g}", "a min below the max")
        number("guidance.default", self.default, low, high)

    @property
    def allowed(self) -> str:
        """What an error says is allowed."""
        return f"a number from {self.min:g} to {self.max:g}, as this model takes the guidance scale as an input"

    def scale(self, guidance_scale: float | Sequence[float] | None, rescale: float = 0.0) -> float:
        """The scale a request means; None is the default.

        Raises:
            ArgumentError: a scale out of range, one per model call, or a rescale, which needs both halves.
        """
        if rescale != 0:
            allowed = "0: this model takes the guidance scale as an input, so there are no two halves to rescale"
            raise ArgumentError("guidance_rescale", rescale, allowed)
        if guidance_scale is None:
            return self.default
        try:
            return number("guidance_scale", guidance_scale, self.min, self.max)
        except ArgumentError:
            allowed = self.allowed
        if hasattr(guidance_scale, "__len__"):
            allowed += f"; the same in every call (one per sample: conditioning={{{ARGUMENT!r}: tensor [B]}})"
        raise ArgumentError("guidance_scale", guidance_scale, allowed)

    def check_plan(self, plan: Plan) -> None:
        """ArgumentError unless a plan leaves guidance to the network."""
        if (plan.column("w") != 1).any():
            w = next(float(w) for w in plan.column("w") if w != 1)
            allowed = (
                "one whose guidance_scale is 1: this model takes the scale as an input, by sample(guidance_scale=...)"
            )
            raise ArgumentError("plan", f"a plan with guidance_scale {w:g}", allowed)

    def condition(
        self, guidance_scale: float, conditioning: Mapping[str, Tensor] | None, samples: int
    ) -> tuple[dict[str, Tensor], list[float]]:
        """The conditioning with a scale for each sample, float32 [samples], and the scales themselves.

        Scales that `conditioning` holds already win over `guidance_scale`.

        Raises:
            ArgumentError: scales in `conditioning` that are not one real number in range per sample.
        """
        given = dict(conditioning or {})
        if ARGUMENT not in given:
            return given | {ARGUMENT: torch.full((samples,), guidance_scale)}, [guidance_scale] * samples
        name, rows = f"conditioning[{ARGUMENT!r}]", given[ARGUMENT]
        allowed = f"a real tensor [{samples}] of numbers from {self.min:g} to {self.max:g}"
        if not isinstance(rows, Tensor) or rows.shape != (samples,) or rows.is_complex() or rows.dtype == torch.bool:
            shown = f"{rows.dtype} {list(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
            raise ArgumentError(name, shown, allowed)
        rows = rows.to(torch.float32)
        scales: list[float] = rows.tolist()
        # The ends as float32 has them, which may round a scale at an end past it.
        low, high = torch.tensor([self.min, self.max], dtype=torch.float32).tolist()
        for scale in scales:
            if not low <= scale <= high:
                raise ArgumentError(name, scale, allowed)
        return given | {ARGUMENT: rows}, scales


def guidance_from_config(config: GuidanceInput | Mapping[str, Any] | None) -> GuidanceInput | None:
    """{"min": 1.0, "max": 4.0, "default": 1.5} or what it makes; None where the scale is no input of the network.

    Raises:
        ArgumentError: other fields, or a range that is none.
    """
    if config is None or isinstance(config, GuidanceInput):
        return config
    try:
        return GuidanceInput(**config)
    except TypeError:
        raise ArgumentError("guidance", config, "min, max and default") from None
