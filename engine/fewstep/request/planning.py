"""Which plans a request runs: the model's own defaults, with what the request says in their place."""

import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

from fewstep.checks import as_python, exact, named, nearest, number
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.presets import PRESETS, Preset, preset_named
from fewstep.diffusion.samplers import build_plan, option_names
from fewstep.diffusion.schedules import Schedule
from fewstep.diffusion.times import OF_SIGMA
from fewstep.diffusion.trained import Trained
from fewstep.errors import ArgumentError, PlanWarning
from fewstep.request.guidance import Guidance

PLANNED = ("steps", "sampler", "guidance_scale", "guidance_rescale", "strength")  # arguments of `Engine.plan`
OF_THE_MODEL = ("schedule", "prediction")
NO_SECOND_TIME = "this model's network is told t alone, and takes no r"
KEPT = 64  # plans; one takes 0.4 ms to make, as long as everything else before the first model call


class Planner:
    """What a model's plans follow from. A plan is a value, so those made last are kept.

    Args:
        schedule, prediction: what the model was trained on, and for.
        defaults: a sampler, steps and options of that sampler.
        guidance: how the model is guided.
        trained: what a distilled model was trained for.
        name: of the model.
        second_time: the network is told a second time, r.
    """

    def __init__(
        self,
        schedule: Schedule,
        prediction: str,
        defaults: Mapping[str, Any],
        guidance: Guidance,
        trained: Trained | None = None,
        name: str = "",
        second_time: bool = False,
    ) -> None:
        self.schedule, self.prediction, self.defaults = schedule, prediction, defaults
        self.guidance, self.trained, self.name = guidance, trained, name
        self.second_time = second_time
        self._kept: OrderedDict[object, Plan] = OrderedDict()

    def plan(
        self,
        steps: int | None = None,
        sampler: str | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float = 0.0,
        strength: float = 1.0,
        options: Mapping[str, Any] | None = None,
        preset: object = None,
        said_by: str = "plan",
    ) -> Plan:
        """One plan; None leaves an argument to the defaults. ArgumentError names what cannot be done.

        With the name of a preset its settings are in place of the defaults; `said_by` is the argument that has it.
        """
        check_options(options or {}, PLANNED)
        row = None if preset is None else self._preset(preset, said_by, sampler)
        defaults = self.defaults if row is None else row.settings
        if row is not None and guidance_scale is None:
            guidance_scale = row.scale
        chosen = defaults["sampler"] if sampler is None else sampler
        settings = dict(defaults) if chosen == defaults["sampler"] else {"steps": defaults["steps"]}
        settings |= {name: as_python(value) for name, value in (options or {}).items()}
        wanted = settings.pop("steps")
        settings.pop("sampler", None)
        settings |= {"steps": as_python(wanted if steps is None else steps), "strength": as_python(strength)}
        # Guidance is the model's and not its sampler's, so another sampler keeps it.
        rescale = number("guidance_rescale", guidance_rescale, 0, 1)
        scale = self.guidance.scale(guidance_scale)
        return self._made(chosen, settings, scale, rescale, "" if row is None else row.name)

    def _preset(self, name: object, said_by: str, sampler: object) -> Preset:
        """The preset of a name; ArgumentError where it is not for this model, or a sampler is asked for beside it."""
        row = preset_named(said_by, name)
        if sampler is not None:
            raise ArgumentError("sampler", sampler, f"nothing beside {row.name}, which says it already")
        row.check(said_by, self.schedule, self.prediction)
        return row

    def _made(self, sampler: str, settings: Mapping[str, Any], scale: float, rescale: float, preset: str) -> Plan:
        # With their types, since 1, 1.0 and True are equal.
        options = tuple((name, type(value), value) for name, value in sorted(settings.items()))
        key = sampler, scale, rescale, preset, options
        try:
            kept = self._kept.get(key)
        except TypeError:  # a list of timesteps
            return self.guidance.planned(self._bare(sampler, settings, preset), scale, rescale)
        if kept is None:
            kept = self._kept[key] = self.guidance.planned(self._bare(sampler, settings, preset), scale, rescale)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return kept

    def _bare(self, sampler: str, settings: Mapping[str, Any], preset: str) -> Plan:
        for name in (*OF_THE_MODEL, "guidance_scale", "guidance_rescale"):
            if name in settings:
                raise ArgumentError(name, settings[name], "nothing among a sampler's options: the model says it")
        plan = build_plan(sampler, self.schedule, prediction=self.prediction, **settings)
        if plan.second_time and not self.second_time:
            raise ArgumentError("sampler", sampler, f"one whose r is t: {NO_SECOND_TIME}")
        return replace(plan, preset=preset) if preset else plan

    def given(self, plans: Sequence[Plan], scales: Sequence[object], rescale: float) -> list[Plan]:
        """Plans that a user handed over, one per sample, as they run at the scales that were named beside them.

        Raises:
            ArgumentError: a plan that is not one for this model; see `unlike`.
        """
        for each in plans:
            if not isinstance(each, Plan):
                allowed = "a Plan, such as Engine.plan makes, the name of a preset, or one per sample, all of one kind"
                if isinstance(each, str):
                    allowed += f"; beside plans Engine.plan(preset={each!r})"
                raise ArgumentError("plan", each, allowed)
            self.check(each, "plan")
        made: dict[object, Plan] = {}
        found, rescale = [], number("guidance_rescale", rescale, 0, 1)
        for plan, asked in zip(plans, scales, strict=True):
            scale = None if asked is None else self.guidance.scale(asked)
            key = id(plan), scale
            if key not in made:
                made[key] = self.guidance.given(plan, scale, rescale)
            found.append(made[key])
        return found

    def check(self, plan: Plan, argument: str) -> None:
        """ArgumentError for a plan that is not one for this model; `argument` is what it came in."""
        if (unlike := self.unlike(plan)) is not None:
            raise ArgumentError(argument, f"{'one' if argument == 'plan' else 'a plan'} {unlike[0]}", unlike[1])

    def unlike(self, plan: Plan) -> tuple[str, str] | None:
        """Of a plan that somebody made elsewhere: what it does that the model does not, and what the model does.

        None for one that tells the network times it counts in and knows, and takes its answer for what it predicts.
        """
        levels, told = plan.levels, self.schedule
        # On a "vp" schedule a timestep is an index: the same numbers, for a network that takes them as integers.
        alike = ("timestep", "index") if told.kind == "vp" and told.time in ("timestep", "index") else (told.time,)
        if levels.time not in alike:
            return f"that tells the network {levels.time}", f"{told.time}, as this model has it"
        if plan.second_time and not self.second_time:
            return "that tells the network a second time, r", f"one whose r is t: {NO_SECOND_TIME}"
        for name in ("t", "r"):
            if (strange := self._strange_time(plan.column(name).tolist())) is not None:
                low, high = map(exact, self._ends)
                allowed = f"{'whole ' * (told.time == 'index')}times from {low} to {high}"
                return (
                    f"that tells the network {name} = {exact(strange)}",
                    f"{allowed}, as this model's network knows them",
                )
        if levels.sigma_data != told.sigma_data:
            return f"for a network of sigma_data = {levels.sigma_data}", f"{told.sigma_data}, as this model's has it"
        if plan.prediction != self.prediction:
            return f"for a network that predicts {plan.prediction}", f"{self.prediction}, as this model's network does"
        return None

    @property
    def _ends(self) -> tuple[float, float]:
        """The first and the last time that the network knows: of a flow the clean end, t = 0, too."""
        told = self.schedule
        return (0.0 if told.has_exact_time else float(told.t[0])), float(told.t[-1])

    def _strange_time(self, times: Sequence[float]) -> float | None:
        """The first of these times that the network does not know."""
        told, (low, high) = self.schedule, self._ends
        if told.time in OF_SIGMA:
            return None
        return next((t for t in times if not low <= t <= high or (told.time == "index" and t != round(t))), None)

    def strange(self, plan: Plan) -> str | None:
        """What a plan does that the model does not, in words; None for one that is for this model."""
        unlike = self.unlike(plan)
        return None if unlike is None else unlike[0]

    def remarks(self, plans: Sequence[Plan], *, own_levels: bool) -> list[PlanWarning]:
        """What to warn of: plans that a distilled model was not trained for, end in noise, or have calls for nothing.

        Args:
            plans: what is about to run.
            own_levels: they surely have the noise levels of the model's own plans, so that need not be looked at.
        """
        found: list[PlanWarning] = []
        for plan in {id(plan): plan for plan in plans}.values():
            found += [each for each in (plan.waste(), plan.overshoot()) if each is not None]
            preset = PRESETS[plan.preset].trained if plan.preset else None
            if preset is not None:
                usual = None if own_levels else partial(self.plan, preset=plan.preset)
                found += preset.remarks(f"a model of {plan.preset}", plan, usual)
            if self.trained not in (None, preset):
                # The levels of a preset are not surely those of the model's own plans.
                surely = own_levels and preset is None
                found += self.trained.remarks(self.name, plan, None if surely else self.plan)
        return found

    def warn(self, plans: Sequence[Plan], *, own_levels: bool, stacklevel: int) -> None:
        """Warn of the `remarks`; `stacklevel` is as for `warnings.warn`, counted from the caller."""
        for remark in self.remarks(plans, own_levels=own_levels):
            warnings.warn(remark, stacklevel=stacklevel + 1)


def check_options(
    options: Mapping[str, Any], arguments: Sequence[str], elsewhere: Mapping[str, str] = MappingProxyType({})
) -> None:
    """ArgumentError for an option that no sampler has, as a misspelt argument would be one.

    Args:
        options: what was given beside the arguments.
        arguments: of the call, which may be what was meant.
        elsewhere: what is said by others of them, and how.
    """
    if not options:
        return
    names = tuple(dict.fromkeys(name for name in (*arguments, *option_names()) if name not in elsewhere))
    for name, value in options.items():
        if name in elsewhere:
            raise ArgumentError(name, value, f"nothing: it is said by {elsewhere[name]}")
        if name in (*names, *OF_THE_MODEL):
            continue
        meant = nearest((*names, *elsewhere), name)
        if meant is not None and meant in elsewhere:
            raise ArgumentError(name, value, f"nothing; did you mean {meant!r}? It is said by {elsewhere[meant]}")
        allowed = f"nothing, since there is no such argument or option, but {named(names, name)}"
        raise ArgumentError(name, value, allowed)
