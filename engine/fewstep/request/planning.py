"""Which plans a request runs: the model's own defaults, with what the request says in their place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import make_plan
from fewstep.diffusion.schedules import Schedule
from fewstep.diffusion.trained import Trained
from fewstep.errors import ArgumentError
from fewstep.request.guidance_input import GuidanceInput


@dataclass(frozen=True)
class Planner:
    """What a model's plans follow from. `defaults` has a sampler, steps, options of that sampler, and perhaps a w."""

    schedule: Schedule
    prediction: str
    defaults: Mapping[str, Any]
    guidance: GuidanceInput | None = None
    trained: Trained | None = None
    name: str = ""  # of the model

    def plan(
        self,
        steps: int | None = None,
        sampler: str | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        guidance_rescale: float = 0.0,
        strength: float = 1.0,
        options: Mapping[str, Any] | None = None,
    ) -> Plan:
        """One plan; None leaves an argument to the defaults. ArgumentError names what cannot be done."""
        chosen = sampler or self.defaults["sampler"]
        same = chosen == self.defaults["sampler"]
        settings = dict(self.defaults) if same else {"steps": self.defaults["steps"]}
        settings |= options or {}
        wanted = settings.pop("steps")
        for name in ("sampler", "guidance_scale"):
            settings.pop(name, None)
        plan = make_plan(
            chosen,
            self.schedule,
            wanted if steps is None else steps,
            prediction=self.prediction,
            strength=strength,
            **settings,
        )
        if self.guidance is not None:
            self.guidance.scale(guidance_scale, guidance_rescale)
            return plan
        # Guidance is the model's and not its sampler's, so another sampler keeps it.
        w = self.defaults.get("guidance_scale", 1.0) if guidance_scale is None else guidance_scale
        return plan.with_guidance(w, rescale=guidance_rescale)

    def plans(
        self,
        count: int,
        given: Plan | Sequence[Plan] | None,
        steps: int | None,
        sampler: str | None,
        guidance_scale: float | Sequence[float] | None,
        guidance_rescale: float,
        strength: float | None,
        renoise: str,
    ) -> list[Plan]:
        """One plan per sample: those that were given, or the one that the other arguments ask for."""
        if given is None:
            whole = 1.0 if strength is None else strength
            plans = [self.plan(steps, sampler, guidance_scale, guidance_rescale, whole)] * count
        else:
            for name, value in {"steps": steps, "sampler": sampler}.items():
                if value is not None:
                    raise ArgumentError(name, value, "nothing beside a plan, which says it already")
            plans = [given] * count if isinstance(given, Plan) else list(given)
            if self.guidance is not None:
                for each in plans:
                    self.guidance.check_plan(each)
            elif guidance_scale is not None:
                plans = [each.with_guidance(guidance_scale, rescale=guidance_rescale) for each in plans]
        return [each.with_known(fresh=True) for each in plans] if renoise == "fresh" else plans

    def warn(self, plans: Sequence[Plan], *, own_levels: bool, stacklevel: int) -> None:
        """Warn of the plans that a distilled model was not trained for.

        Args:
            plans: what is about to run.
            own_levels: they surely have the noise levels of the model's own plans, so that need not be looked at.
            stacklevel: as for `warnings.warn`, counted from the caller.
        """
        if self.trained is not None:
            for plan in {id(plan): plan for plan in plans}.values():
                self.trained.warn(self.name, plan, None if own_levels else self.plan, stacklevel + 1)
