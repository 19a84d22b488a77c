"""A diffusers scheduler_config.json as our schedule, prediction and plan."""

from dataclasses import dataclass, field
from typing import Any, Final

from fewstep.diffusion.schedules import MAX_SIGMA, MAX_TIMESTEPS
from fewstep.fields import Fields

PREDICTION_TYPES: Final = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}
VARIANCES: Final = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",  # the same standard deviation, by way of its logarithm
    "fixed_large": "fixed_large",
    "learned_range": "learned_range",
}
SPACINGS: Final = ("leading", "trailing", "linspace")
DDIM_STEPS: Final = 50  # what diffusers' DDIMPipeline runs unless told

# Schedulers of the same training, whose own sampling is not read from the file.
OTHERS: Final = (
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)


@dataclass(frozen=True)
class Sampling:
    """How a model is sampled, in the terms of a `ModelSpec`."""

    schedule: dict[str, Any] = field(default_factory=lambda: {"name": "linear", "num_timesteps": 1000})
    prediction: str = "eps"
    plan: dict[str, Any] = field(default_factory=lambda: {"sampler": "ddim", "steps": DDIM_STEPS, "clip": 1.0})
    notes: tuple[str, ...] = ()


def sampling_from_scheduler(data: Any, where: str) -> Sampling:
    """What a scheduler_config.json says; fields that do not bear on sampling here are passed over.

    Raises ModelError, with `where` in front, naming the first field that is out of bounds or not supported.
    """
    read = Fields(data, where)
    known = ("DDPMScheduler", "DDIMScheduler", "CMStochasticIterativeScheduler", *OTHERS)
    kind = read.choice("_class_name", known)
    if kind == "CMStochasticIterativeScheduler":
        return _consistency(read)
    schedule = _schedule(read)
    prediction = PREDICTION_TYPES[read.choice("prediction_type", tuple(PREDICTION_TYPES), "epsilon")]
    if kind in OTHERS:
        note = f"{kind} is read for its noise schedule alone; the plan is ddim"
        return Sampling(schedule, prediction, {"sampler": "ddim", "steps": DDIM_STEPS}, (note,))
    plan: dict[str, Any]
    if kind == "DDPMScheduler":
        variance = read.choice("variance_type", tuple(VARIANCES), "fixed_small")
        plan = {"sampler": "ddpm", "steps": schedule_length(schedule), "variance": VARIANCES[variance]}
    else:
        final = "clean" if read.flag("set_alpha_to_one", True) else "first"
        plan = {"sampler": "ddim", "steps": min(DDIM_STEPS, schedule_length(schedule)), "final": final}
    plan["spacing"] = read.choice("timestep_spacing", SPACINGS, "leading")
    offset = read.integer("steps_offset", 0, MAX_TIMESTEPS, 0)
    if offset and plan["spacing"] == "leading":
        plan["offset"] = offset
    plan["clip"] = _clip(read)
    return Sampling(schedule, prediction, plan)


def schedule_length(schedule: dict[str, Any]) -> int:
    """Training timesteps of a schedule's JSON form."""
    return len(schedule["betas"]) if "betas" in schedule else int(schedule["num_timesteps"])


def _schedule(read: Fields) -> dict[str, Any]:
    schedule: dict[str, Any]
    if read.has("trained_betas"):
        schedule = {"name": "betas", "betas": list(read.numbers("trained_betas", 0.0, 1.0))}
    else:
        name = read.choice("beta_schedule", ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"), "linear")
        steps = read.integer("num_train_timesteps", 1, MAX_TIMESTEPS, 1000)
        if name == "squaredcos_cap_v2":
            schedule = {"name": "cosine", "num_timesteps": steps}
        else:
            start = read.number("beta_start", 0.0, 1.0, 1e-4)
            end = read.number("beta_end", 0.0, 1.0, 0.02)
            schedule = {"name": name, "num_timesteps": steps, "beta_start": start, "beta_end": end}
    if read.flag("rescale_betas_zero_snr", False):
        schedule["zero_terminal_snr"] = True
    return schedule


def _clip(read: Fields) -> float | dict[str, float] | None:
    if read.flag("thresholding", False):
        limit = read.number("sample_max_value", 1.0, 1e6, 1.0)
        return {"limit": limit, "ratio": read.number("dynamic_thresholding_ratio", 0.0, 1.0, 0.995)}
    return read.number("clip_sample_range", 1e-6, 1e6, 1.0) if read.flag("clip_sample", True) else None


def _consistency(read: Fields) -> Sampling:
    schedule = {
        "name": "karras",
        "num_timesteps": read.integer("num_train_timesteps", 1, MAX_TIMESTEPS, 40),
        "sigma_min": read.number("sigma_min", 1e-9, MAX_SIGMA, 0.002),
        "sigma_max": read.number("sigma_max", 1e-9, MAX_SIGMA, 80.0),
        "rho": read.number("rho", 1e-2, 1e3, 7.0),
        "time": "consistency",
    }
    read.only("s_noise", 1.0, 1.0)
    plan = {
        "sampler": "consistency",
        "steps": 1,
        "sigma_data": read.number("sigma_data", 1e-9, MAX_SIGMA, 0.5),
        "clip": 1.0 if read.flag("clip_denoised", True) else None,
    }
    return Sampling(schedule, "consistency", plan)
