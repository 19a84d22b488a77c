"""What a caller says of a model in place of its folder, in the terms of a `ModelSpec`."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from fewstep.checks import as_python, named, one_of, whole
from fewstep.diffusion.presets import preset_named
from fewstep.diffusion.samplers import SAMPLERS
from fewstep.diffusion.schedules import Schedule, from_config
from fewstep.diffusion.times import TIMES
from fewstep.diffusion.trained import trained_from_config
from fewstep.errors import ArgumentError
from fewstep.models.spec import PREDICTED
from fewstep.request.conditions import condition_from_config, condition_to_config
from fewstep.request.guidance import guidance_from_config, guidance_to_config

USUAL_STEPS: Final = 4
A_PLAN: Final = "a dict such as {'sampler': 'ddim', 'steps': 4}"


def usual_plan(
    prediction: str, length: int, defaults: Mapping[str, Any] | None = None, flow_map: bool = False
) -> dict[str, Any]:
    """The defaults of a model on a schedule of so many timesteps, with a sampler and steps where they name none."""
    able = (name for name in ("ddim", *SAMPLERS) if prediction in SAMPLERS[name].predictions)
    return {
        "sampler": "flow_map" if flow_map else next(able, "ddim"),
        "steps": min(USUAL_STEPS, length),
        **_plan(defaults),
    }


def spec_fields(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a spec that overrides of `Model`'s attributes stand for; a model has others too, which no spec has.

    Raises:
        ArgumentError: an override that is not what the attribute takes.
    """
    said = with_preset(overrides)
    return {IN_SPEC[name][0]: IN_SPEC[name][1](said[name]) for name in IN_SPEC if name in said}


def with_preset(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a model in which `defaults` may be the name of a preset: as its settings, and what they are for.

    Raises:
        ArgumentError: no preset of that name.
    """
    said = dict(overrides)
    if isinstance(said.get("defaults"), str):
        preset = preset_named("defaults", said["defaults"], f"{A_PLAN}, or ")
        said["defaults"] = preset.defaults
        if said.get("trained") is None:
            said["trained"] = preset.trained
    return said


def merged(data: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A spec's fields as a folder has them, with what is given in their place.

    A folder's plan has at most as many steps as a schedule that is given has timesteps. ArgumentError for `defaults`
    that a student was not trained for.
    """
    fields = {**data, **given}
    if "time" in given:
        time, schedule = fields.pop("time"), fields.get("schedule")
        if time is not None and isinstance(schedule, Mapping):
            fields["schedule"] = {**schedule, "time": time}
    if "plan" in given or "schedule" in given:
        try:
            length = len(from_config(fields.get("schedule", {})))
        except ArgumentError:  # which the spec will name
            length = USUAL_STEPS
        if "plan" in given:
            fields["plan"] = usual_plan(fields.get("prediction", ""), length, given["plan"])
            if "trained" not in given:
                _check_trained(fields.get("trained"), fields["plan"], given["plan"])
        elif fields.get("trained") is None:  # a student's steps are what it was trained for
            fields["plan"] = _fitting(fields.get("plan"), length)
    return fields


def arguments_of(given: Mapping[str, Any]) -> dict[str, str]:
    """The fields of a spec that are given, and by which argument each."""
    return {field: argument for argument, (field, _) in IN_SPEC.items() if field in given}


def _check_trained(trained: Any, plan: Mapping[str, Any], said: Mapping[str, Any]) -> None:
    """ArgumentError where a student would begin with a plan that it was not trained for."""
    try:
        taught = trained_from_config(trained)
    except ArgumentError:  # which the spec will name
        return
    sampler, steps = plan["sampler"], plan["steps"]
    if taught is not None and not taught.lists(sampler, steps):
        allowed = f"{taught}, which the model was trained for, or trained=None beside it for any plan"
        unsaid = "" if {"sampler", "steps"} <= set(said) else " (what they are unless they say a sampler and steps)"
        raise ArgumentError("defaults", f"{sampler} with {steps} step{'s' * (steps != 1)}{unsaid}", allowed)


def _fitting(plan: Any, length: int) -> Any:
    """A plan with at most as many steps as a schedule of so many timesteps has; what is no plan, as it is."""
    steps = whole(plan.get("steps")) if isinstance(plan, Mapping) else None
    if steps is None or steps <= length:
        return plan
    offset = whole(plan.get("offset", 0)) if plan.get("spacing") == "leading" else 0
    return {**plan, "steps": fitting_steps(length, length, offset or 0)}


def fitting_steps(steps: int, length: int, offset: int) -> int:
    """At most `steps`: as many leading timesteps, from `offset` on, as a schedule of so many has; at least 1."""
    steps = min(steps, length)
    while steps > 1 and (steps - 1) * (length // steps) + offset > length - 1:
        steps -= 1
    return steps


def _plan(defaults: Any) -> dict[str, Any]:
    if defaults is not None and not isinstance(defaults, Mapping):
        raise ArgumentError("defaults", defaults, f"{A_PLAN}, or the name of a preset")
    return {option: as_python(value) for option, value in (defaults or {}).items()}


def _schedule(value: Any) -> dict[str, Any]:
    if not isinstance(value, Schedule):
        raise ArgumentError("schedule", value, "a Schedule, such as fewstep.schedules.linear(1000)")
    return value.to_config()


def _prediction(value: Any) -> str:
    if not one_of(value, PREDICTED):
        raise ArgumentError("prediction", value, named(PREDICTED, value))
    return str(value)


def _time(value: Any) -> str | None:
    if value is not None and not one_of(value, TIMES):
        raise ArgumentError("time", value, named(TIMES, value))
    return None if value is None else str(value)


def _labels(value: Any) -> dict[str, Any] | None:
    return condition_to_config(condition_from_config(value))


def _guidance(value: Any) -> dict[str, Any] | None:
    return guidance_to_config(guidance_from_config(value))


def _trained(value: Any) -> dict[str, Any] | None:
    trained = trained_from_config(value)
    return None if trained is None else trained.to_config()


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise ArgumentError("name", value, "a text")
    return str(value)


# Attribute of a model -> field of a spec, and its form there.
IN_SPEC: Final[Mapping[str, tuple[str, Callable[[Any], Any]]]] = {
    "schedule": ("schedule", _schedule),
    "prediction": ("prediction", _prediction),
    "time": ("time", _time),
    "defaults": ("plan", _plan),
    "conditions": ("labels", _labels),
    "guidance": ("guidance", _guidance),
    "trained": ("trained", _trained),
    "shape": ("shape", as_python),
    "name": ("name", _name),
}
