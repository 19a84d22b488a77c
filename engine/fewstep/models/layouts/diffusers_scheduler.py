"""A diffusers scheduler_config.json as our schedule, prediction and plan."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fewstep.diffusion.samplers import make_plan
from fewstep.diffusion.schedules import MAX_SIGMA, MAX_TIMESTEPS, from_config
from fewstep.errors import ArgumentError, ModelError, NoSamplerError
from fewstep.fields import Fields, shown
from fewstep.models.given import fitting_steps
from fewstep.models.spec import NOTHING

PREDICTION_TYPES: Final = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}
BETA_SCHEDULES: Final = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
VARIANCES: Final = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",  # the same standard deviation, by way of its logarithm
    "fixed_large": "fixed_large",
    "learned_range": "learned_range",
}
SPACINGS: Final = ("leading", "trailing", "linspace")
DDIM_STEPS: Final = 50  # what diffusers' DDIMPipeline runs unless told
LCM_STEPS: Final = 4  # what diffusers' pipelines of latent consistency models run unless told
SAMPLING: Final = ("schedule", "prediction", "plan")  # the fields of a `ModelSpec` that are read here
OVERRIDE: Final = "from_pretrained(folder, defaults={'sampler': 'ddim', 'steps': 50})"
OF_A_FLOW: Final = (
    "or say the schedule: from_pretrained(folder, schedule=fewstep.schedules.flow(1000), prediction='flow', "
    "defaults={'sampler': 'euler', 'steps': 50})"
)


@dataclass(frozen=True)
class Sampling:
    """How a model is sampled, in the terms of a `ModelSpec`."""

    schedule: dict[str, Any] = field(default_factory=lambda: {"name": "linear", "num_timesteps": 1000})
    prediction: str = "eps"
    plan: dict[str, Any] = field(default_factory=lambda: {"sampler": "ddim", "steps": DDIM_STEPS, "clip": 1.0})
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scheduler:
    """How one class of schedulers is read; `beta` are its own defaults, for a file that does not say."""

    plan: Callable[[Fields, int], dict[str, Any]] | None = None  # None: fewstep does not have its sampler
    beta: tuple[str, float, float] | None = ("linear", 1e-4, 0.02)


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
    readable = ", ".join(known for known, each in SCHEDULERS.items() if each.plan is not None)
    if scheduler is None and not {"schedule", "plan"} <= set(given):
        advice = f"say what to sample with: {OVERRIDE}, and schedule= and prediction= beside it"
        raise read.error("_class_name", f"got {shown(name)}, which is not known; supported: {readable}; or {advice}")
    if scheduler is not None and scheduler.plan is None and "plan" not in given:
        advice = "say what to sample with, a sampler and its steps such as ddim and 50"
        problem = f"got {shown(name)}, whose sampler fewstep does not have; supported: {readable}; or {advice}"
        raise NoSamplerError(f"{read.at('_class_name')}: {problem}", f": {OVERRIDE}")
    if "schedule" in given:
        schedule = given["schedule"]
    else:
        _check_betas(read, "time" in given)
        schedule = _schedule(read, name)
    prediction = given["prediction"] if "prediction" in given else _prediction(read, name)
    if "plan" in given or scheduler is None or scheduler.plan is None:
        return Sampling(schedule, prediction, given["plan"])
    plan = scheduler.plan(read, _length(schedule, where))
    _check(schedule, prediction, plan, where)
    return Sampling(schedule, prediction, plan)


def assumed(given: Mapping[str, Any] = NOTHING) -> Sampling:
    """The sampling of a U-Net that came without a scheduler: as given, as DDPM was trained, and 50 steps of DDIM."""
    usual = Sampling()
    schedule, prediction = given.get("schedule", usual.schedule), given.get("prediction", usual.prediction)
    fitting = {"steps": min(DDIM_STEPS, _length(schedule, "schedule"))}
    plan = given["plan"] if "plan" in given else usual.plan | fitting
    assumptions = [
        what
        for name, what in (("schedule", "a linear schedule of 1000 steps"), ("prediction", "eps prediction"))
        if name not in given
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
        make_plan(schedule=from_config(schedule), prediction=prediction, **plan)
    except ArgumentError as error:
        raise ModelError(f"{where}: its default plan cannot be made: {error}") from error


def _prediction(read: Fields, name: str) -> str:
    if name == CONSISTENCY:
        return "consistency"
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


def _schedule(read: Fields, name: str) -> dict[str, Any]:
    if name == CONSISTENCY:
        return {
            "name": "karras",
            "num_timesteps": read.integer("num_train_timesteps", 1, MAX_TIMESTEPS, 40),
            "sigma_min": read.number("sigma_min", 1e-9, MAX_SIGMA, 0.002),
            "sigma_max": read.number("sigma_max", 1e-9, MAX_SIGMA, 80.0),
            "rho": read.number("rho", 1e-2, 1e3, 7.0),
            "time": "consistency",
        }
    schedule: dict[str, Any]
    steps = read.integer("num_train_timesteps", 1, MAX_TIMESTEPS, 1000)
    if read.has("trained_betas"):
        betas = list(read.numbers("trained_betas", 0.0, 1.0))
        if len(betas) != steps:
            allowed = f"{len(betas)}, the number of trained_betas"
            raise read.error("num_train_timesteps", f"got {steps}; allowed: {allowed}")
        schedule = {"name": "betas", "betas": betas}
    else:
        kind, low, high = SCHEDULERS[name].beta or (None, None, None)
        kind = read.choice("beta_schedule", BETA_SCHEDULES, kind)
        if kind == "squaredcos_cap_v2":
            schedule = {"name": "cosine", "num_timesteps": steps}
        else:
            start, end = read.number("beta_start", 0.0, 1.0, low), read.number("beta_end", 0.0, 1.0, high)
            schedule = {"name": kind, "num_timesteps": steps, "beta_start": start, "beta_end": end}
    if read.flag("rescale_betas_zero_snr", False):
        schedule["zero_terminal_snr"] = True
    return schedule


def _ddpm(read: Fields, length: int) -> dict[str, Any]:
    variance = VARIANCES[read.choice("variance_type", tuple(VARIANCES), "fixed_small")]
    spaced = _spaced(read, length, length, "leading")
    return {"sampler": "ddpm", "variance": variance} | spaced | {"clip": _clip(read, True)}


def _ddim(read: Fields, length: int) -> dict[str, Any]:
    final = "clean" if read.flag("set_alpha_to_one", True) else "first"
    spaced = _spaced(read, DDIM_STEPS, length, "leading")
    return {"sampler": "ddim", "final": final} | spaced | {"clip": _clip(read, True)}


def _euler(read: Fields, length: int) -> dict[str, Any]:
    for name in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"):
        if read.has(name):
            read.only(name, False)
    for name in ("sigma_min", "sigma_max"):
        read.only(name, None)
    read.only("interpolation_type", "linear", "linear")
    read.only("timestep_type", "discrete", "discrete")
    final = {"zero": "clean", "sigma_min": "first"}[read.choice("final_sigmas_type", ("zero", "sigma_min"), "zero")]
    return {"sampler": "euler", "final": final} | _spaced(read, DDIM_STEPS, length, "linspace")


def _lcm(read: Fields, length: int) -> dict[str, Any]:
    original = read.integer("original_inference_steps", 1, length, min(50, length))
    return {
        "sampler": "lcm",
        "steps": min(LCM_STEPS, original),
        "original_steps": original,
        "timestep_scaling": read.number("timestep_scaling", 1e-6, 1e6, 10.0),
        "clip": _clip(read, False),
    }


def _consistency(read: Fields, _: int) -> dict[str, Any]:
    read.only("s_noise", 1.0, 1.0)
    return {
        "sampler": "consistency",
        "steps": 1,
        "sigma_data": read.number("sigma_data", 1e-9, MAX_SIGMA, 0.5),
        "clip": 1.0 if read.flag("clip_denoised", True) else None,
    }


def _spaced(read: Fields, steps: int, length: int, usual: str) -> dict[str, Any]:
    """Steps, spacing and offset: at most `steps`, and as many as fit below the last timestep with the offset."""
    spacing = read.choice("timestep_spacing", SPACINGS, usual)
    if spacing != "leading":
        return {"steps": min(steps, length), "spacing": spacing}
    offset = read.integer("steps_offset", 0, length - 1, 0)
    steps = fitting_steps(steps, length, offset)
    return {"steps": steps, "spacing": spacing} | ({"offset": offset} if offset else {})


def _clip(read: Fields, usual: bool) -> float | dict[str, float] | None:
    if read.flag("thresholding", False):
        limit = read.number("sample_max_value", 1.0, 1e6, 1.0)
        return {"limit": limit, "ratio": read.number("dynamic_thresholding_ratio", 0.0, 1.0, 0.995)}
    return read.number("clip_sample_range", 1e-6, 1e6, 1.0) if read.flag("clip_sample", usual) else None


CONSISTENCY: Final = "CMStochasticIterativeScheduler"
_STABLE_DIFFUSION: Final = ("scaled_linear", 0.00085, 0.012)
SCHEDULERS: Final[Mapping[str, Scheduler]] = {
    "DDPMScheduler": Scheduler(_ddpm),
    "DDPMParallelScheduler": Scheduler(_ddpm),
    "DDIMScheduler": Scheduler(_ddim),
    "DDIMParallelScheduler": Scheduler(_ddim),
    "EulerDiscreteScheduler": Scheduler(_euler),
    "LCMScheduler": Scheduler(_lcm, _STABLE_DIFFUSION),
    CONSISTENCY: Scheduler(_consistency, None),
    # Of the same training; whoever gives a plan can have their noise schedule, which the file must then say.
    **{
        name: Scheduler(None, None)
        for name in (
            "DEISMultistepScheduler",
            "DPMSolverMultistepScheduler",
            "DPMSolverSinglestepScheduler",
            "EulerAncestralDiscreteScheduler",
            "HeunDiscreteScheduler",
            "KDPM2AncestralDiscreteScheduler",
            "KDPM2DiscreteScheduler",
            "LMSDiscreteScheduler",
            "PNDMScheduler",
            "TCDScheduler",
            "UniPCMultistepScheduler",
        )
    },
}
