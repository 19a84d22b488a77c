"""A diffusers scheduler_config.json as our schedule, prediction and plan."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fewstep.diffusion.samplers import build_plan
from fewstep.diffusion.schedules import MAX_TIMESTEPS, from_config
from fewstep.errors import ArgumentError, ModelError, NoSamplerError, some_of
from fewstep.fields import Fields, shown
from fewstep.models.layouts.diffusers_plans import DDIM_STEPS, OF_A_FLOW, SCHEDULERS, Scheduler
from fewstep.models.spec import NOTHING

PREDICTION_TYPES: Final = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}
BETA_SCHEDULES: Final = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
NAMED: Final = 6  # schedulers that a message lists
SAMPLING: Final = ("schedule", "prediction", "plan")  # the fields of a `ModelSpec` that are read here
# The scheduler_config.json of Stable Diffusion 1, as DDIM takes it.
STABLE_DIFFUSION: Final = {
    "_class_name": "DDIMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
OVERRIDE: Final = "from_pretrained(folder, defaults={'sampler': 'ddim', 'steps': 50})"


@dataclass(frozen=True)
class Sampling:
    """How a model is sampled, in the terms of a `ModelSpec`."""

    schedule: dict[str, Any] = field(default_factory=lambda: {"name": "linear", "num_timesteps": 1000})
    prediction: str = "eps"
    plan: dict[str, Any] = field(default_factory=lambda: {"sampler": "ddim", "steps": DDIM_STEPS, "clip": 1.0})
    notes: tuple[str, ...] = ()


def sampling_from_scheduler(data: Any, where: str, given: Mapping[str, Any] = NOTHING) -> Sampling:
    """What a scheduler_config.json says; fields that do not bear on sampling here are passed over.

    Args:
        data: the file's object.
        where: its name, for messages.
        given: of SAMPLING what is known otherwise; what the file says of it is not read.

    Raises:
        ModelError: `where` in front, naming the first field that is out of bounds or not supported, or the default plan
            where its schedule does not allow it.
    """
    read = Fields(data, where)
    name = read.text("_class_name", max_length=100)
    scheduler = SCHEDULERS.get(name)
    readable = some_of([known for known, each in SCHEDULERS.items() if each.plan is not None], NAMED)
    if scheduler is None and not {"schedule", "plan"} <= set(given):
        advice = f"say what to sample with: {OVERRIDE}, and schedule= and prediction= beside it"
        raise read.error("_class_name", f"got {shown(name)}, which is not known; supported: {readable}; or {advice}")
    if scheduler is not None and scheduler.plan is None and "plan" not in given:
        advice = "say what to sample with, a sampler and its steps such as ddim and 50"
        problem = f"got {shown(name)}, whose sampler fewstep does not have; supported: {readable}; or {advice}"
        raise NoSamplerError(f"{read.at('_class_name')}: {problem}", f": {OVERRIDE}")
    schedule = given["schedule"] if "schedule" in given else _schedule(read, scheduler, "time" in given)
    prediction = given["prediction"] if "prediction" in given else _prediction(read, scheduler)
    if "plan" in given or scheduler is None or scheduler.plan is None:
        return Sampling(schedule, prediction, given["plan"])
    plan = scheduler.plan(read, _length(schedule, where))
    _check(schedule, prediction, plan, where)
    return Sampling(schedule, prediction, plan)


def assumed(given: Mapping[str, Any] = NOTHING, of_latents: bool = False) -> Sampling:
    """The sampling of a U-Net that came without a scheduler: as given, and 50 steps of DDIM on what it was trained on.

    That is DDPM's schedule for images (Ho et al. 2020), and for latents Stable Diffusion's (Rombach et al. 2022).
    """
    usual = sampling_from_scheduler(STABLE_DIFFUSION, "schedule") if of_latents else Sampling()
    schedule, prediction = given.get("schedule", usual.schedule), given.get("prediction", usual.prediction)
    fitting = {"steps": min(DDIM_STEPS, _length(schedule, "schedule"))}
    plan = given["plan"] if "plan" in given else usual.plan | fitting
    name = "Stable Diffusion's schedule" if of_latents else "a linear schedule"
    assumptions = [
        what
        for field_name, what in (("schedule", f"{name} of 1000 steps"), ("prediction", "eps prediction"))
        if field_name not in given
    ]
    if not assumptions:
        return Sampling(schedule, prediction, plan)
    note = f"no scheduler came with the U-Net: {' and '.join(assumptions)} are assumed"
    return Sampling(schedule, prediction, plan, (note,))


def _length(schedule: dict[str, Any], where: str) -> int:
    """Training timesteps of a schedule's JSON form."""
    try:
        return len(from_config(schedule))
    except ArgumentError as error:
        raise ModelError(f"{where}: {error}") from error


def _check(schedule: dict[str, Any], prediction: str, plan: dict[str, Any], where: str) -> None:
    """ModelError, naming the file, where the default plan cannot be made."""
    try:
        build_plan(schedule=from_config(schedule), prediction=prediction, **plan)
    except ArgumentError as error:
        raise ModelError(f"{where}: its default plan cannot be made: {error}") from error


def _prediction(read: Fields, scheduler: Scheduler | None) -> str:
    if scheduler is not None and scheduler.prediction is not None:
        return scheduler.prediction(read)
    return PREDICTION_TYPES[read.choice("prediction_type", tuple(PREDICTION_TYPES), "epsilon")]


def _check_betas(read: Fields, time_given: bool) -> None:
    """ModelError where the network was trained on other noise than the betas say, or is told another time."""
    if read.flag("use_flow_sigmas", False):
        raise read.error("use_flow_sigmas", f"got True, and a flow has no betas; allowed: false, {OF_A_FLOW}")
    if read.data.get("prediction_type") == "flow_prediction":
        raise read.error(
            "prediction_type", f"got 'flow_prediction', and a flow has no betas; allowed: others, {OF_A_FLOW}"
        )
    if not time_given:
        read.only("timestep_type", "discrete", "discrete")


def _schedule(read: Fields, scheduler: Scheduler | None, time_given: bool) -> dict[str, Any]:
    if scheduler is not None and scheduler.schedule is not None:
        return scheduler.schedule(read)
    _check_betas(read, time_given)
    schedule: dict[str, Any]
    steps = read.integer("num_train_timesteps", 1, MAX_TIMESTEPS, 1000)
    if read.has("trained_betas"):
        betas = list(read.numbers("trained_betas", 0.0, 1.0))
        if len(betas) != steps:
            allowed = f"{len(betas)}, the number of trained_betas"
            raise read.error("num_train_timesteps", f"got {steps}; allowed: {allowed}")
        schedule = {"name": "betas", "betas": betas}
    else:
        kind, low, high = (None if scheduler is None else scheduler.beta) or (None, None, None)
        kind = read.choice("beta_schedule", BETA_SCHEDULES, kind)
        if kind == "squaredcos_cap_v2":
            schedule = {"name": "cosine", "num_timesteps": steps}
        else:
            start, end = read.number("beta_start", 0.0, 1.0, low), read.number("beta_end", 0.0, 1.0, high)
            schedule = {"name": kind, "num_timesteps": steps, "beta_start": start, "beta_end": end}
    if read.flag("rescale_betas_zero_snr", False):
        schedule["zero_terminal_snr"] = True
    return schedule
