"""What each class of diffusers' schedulers runs, as a plan of a `ModelSpec`; the schedules of those without betas."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fewstep.diffusion.samplers.plms import plms_calls
from fewstep.diffusion.samplers.woven import twice
from fewstep.diffusion.schedules import MAX_SIGMA, MAX_TIMESTEPS
from fewstep.fields import Fields
from fewstep.models.given import fitting_steps

VARIANCES: Final = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",  # the same standard deviation, by way of its logarithm
    "fixed_large": "fixed_large",
    "learned_range": "learned_range",
}
SPACINGS: Final = ("leading", "trailing", "linspace")
LADDERS: Final = {"use_karras_sigmas": "karras", "use_exponential_sigmas": "exponential", "use_beta_sigmas": "beta"}
FINALS: Final = {"zero": "clean", "sigma_min": "first"}
DDIM_STEPS: Final = 50  # what diffusers' DDIMPipeline runs unless told
LCM_STEPS: Final = 4  # what diffusers' pipelines of latent consistency models run unless told
FLOW_STEPS: Final = 28  # what StableDiffusion3Pipeline and FluxPipeline run unless told
SCM_STEPS: Final = 2  # what SanaSprintPipeline runs unless told
MAP_STEPS: Final = 4
OF_A_FLOW: Final = (
    "or say the schedule: from_pretrained(folder, schedule=fewstep.schedules.flow(1000), prediction='flow', "
    "defaults={'sampler': 'euler', 'steps': 50})"
)


@dataclass(frozen=True)
class Scheduler:
    """How one class of schedulers is read; `beta` are its own defaults, for a file that does not say."""

    plan: Callable[[Fields, int], dict[str, Any]] | None = None  # None: fewstep does not have its sampler
    beta: tuple[str, float, float] | None = ("linear", 1e-4, 0.02)
    schedule: Callable[[Fields], dict[str, Any]] | None = None  # None: of betas
    prediction: Callable[[Fields], str] | None = None  # None: as its prediction_type says


def _ddpm(read: Fields, length: int) -> dict[str, Any]:
    variance = VARIANCES[read.choice("variance_type", tuple(VARIANCES), "fixed_small")]
    spaced = _spaced(read, length, length, "leading")
    return {"sampler": "ddpm", "variance": variance} | spaced | {"clip": _clip(read, True)}


def _ddim(read: Fields, length: int) -> dict[str, Any]:
    final = "clean" if read.flag("set_alpha_to_one", True) else "first"
    spaced = _spaced(read, DDIM_STEPS, length, "leading")
    return {"sampler": "ddim", "final": final} | spaced | {"clip": _clip(read, True)}


def _euler(read: Fields, length: int) -> dict[str, Any]:
    for name in ("sigma_min", "sigma_max"):
        read.only(name, None)
    read.only("interpolation_type", "linear", "linear")
    read.only("timestep_type", "discrete", "discrete")
    final = FINALS[read.choice("final_sigmas_type", tuple(FINALS), "zero")]
    return {"sampler": "euler", "final": final} | _sigmas(read, DDIM_STEPS, length)


def _euler_ancestral(read: Fields, length: int) -> dict[str, Any]:
    return {"sampler": "euler_ancestral"} | _spaced(read, DDIM_STEPS, length, "linspace")


def _heun(read: Fields, length: int) -> dict[str, Any]:
    spaced = _sigmas(read, DDIM_STEPS, length)
    return {"sampler": "heun"} | spaced | {"steps": twice(spaced["steps"]), "clip": _clip(read, False)}


def _kdpm2(read: Fields, length: int) -> dict[str, Any]:
    read.only("use_karras_sigmas", False, False)  # whose timesteps it rounds
    spaced = _sigmas(read, DDIM_STEPS, length)
    return {"sampler": "kdpm2"} | spaced | {"steps": twice(spaced["steps"])}


def _kdpm2_ancestral(read: Fields, length: int) -> dict[str, Any]:
    return _kdpm2(read, length) | {"eta": 1.0}


def _lms(read: Fields, length: int) -> dict[str, Any]:
    return {"sampler": "lms"} | _sigmas(read, DDIM_STEPS, length)


def _pndm(read: Fields, length: int) -> dict[str, Any]:
    """It steps by T // N whatever its timesteps are: these must be so far apart."""
    read.only("skip_prk_steps", True, False)
    final = "clean" if read.flag("set_alpha_to_one", False) else "first"
    if read.choice("timestep_spacing", ("leading", "trailing"), "leading") == "leading":
        spaced = _spaced(read, DDIM_STEPS, length, "leading")
    else:
        spaced = {"steps": _dividing(DDIM_STEPS, length), "spacing": "trailing"}
    return {"sampler": "plms", "final": final, "combined": "m"} | spaced | {"steps": plms_calls(spaced["steps"])}


def _dpm_solver(read: Fields, length: int) -> dict[str, Any]:
    noisy = read.choice("algorithm_type", ("dpmsolver++", "sde-dpmsolver++"), "dpmsolver++") == "sde-dpmsolver++"
    order = read.integer("solver_order", 2, 2 if noisy else 3, 2)
    final = FINALS[read.choice("final_sigmas_type", ("zero",) if noisy else tuple(FINALS), "zero")]
    read.only("lambda_min_clipped", -math.inf, -math.inf)
    read.only("use_lu_lambdas", False, False)
    read.only("variance_type", None)
    return {
        "sampler": "dpmpp_2m_sde" if noisy else f"dpmpp_{order}m",
        "final": final,
        "solver_type": read.choice("solver_type", ("midpoint", "heun"), "midpoint"),
        "lower_order_final": read.flag("lower_order_final", True),
        "euler_at_final": read.flag("euler_at_final", False),
        **_multistep(read, length),
    }


def _unipc(read: Fields, length: int) -> dict[str, Any]:
    """Where it lands clean, its bh1 is NaN, and so is its last step unless that is of lower order."""
    final = FINALS[read.choice("final_sigmas_type", tuple(FINALS), "zero")]
    clean = final == "clean"
    read.only("predict_x0", True, True)
    read.only("disable_corrector", [], [])
    for name in ("solver_p", "sigma_min", "sigma_max", "shift_terminal"):
        read.only(name, None)
    if clean:
        read.only("lower_order_final", True, True)
    return {
        "sampler": "unipc",
        "final": final,
        "order": read.integer("solver_order", 1, 3, 2),
        "solver_type": read.choice("solver_type", ("bh2",) if clean else ("bh2", "bh1"), "bh2"),
        "lower_order_final": read.flag("lower_order_final", True),
        **_multistep(read, length),
    }


def _deis(read: Fields, length: int) -> dict[str, Any]:
    read.only("algorithm_type", "deis", "deis")
    read.only("solver_type", "logrho", "logrho")
    return {
        "sampler": "deis",
        "final": "first",
        "order": read.integer("solver_order", 1, 3, 2),
        "lower_order_final": read.flag("lower_order_final", True),
        **_multistep(read, length),
    }


def _lcm(read: Fields, length: int) -> dict[str, Any]:
    return _distilled(read, length, "lcm") | {
        "timestep_scaling": read.number("timestep_scaling", 1e-6, 1e6, 10.0),
        "clip": _clip(read, False),
    }


def _tcd(read: Fields, length: int) -> dict[str, Any]:
    """It lands at timestep 0 whatever `set_alpha_to_one` says, and clips nothing."""
    return _distilled(read, length, "tcd") | {"final": "first"}


def _consistency(read: Fields, _: int) -> dict[str, Any]:
    read.only("s_noise", 1.0, 1.0)
    return {
        "sampler": "consistency",
        "steps": 1,
        "sigma_data": read.number("sigma_data", 1e-9, MAX_SIGMA, 0.5),
        "clip": 1.0 if read.flag("clip_denoised", True) else None,
    }


def _edm_euler(read: Fields, length: int) -> dict[str, Any]:
    ladder = read.choice("sigma_schedule", ("karras", "exponential"), "karras")
    read.only("final_sigmas_type", "zero", "zero")  # else its last call changes nothing
    rho = {"rho": read.number("rho", 1e-2, 1e3, 7.0)} if ladder == "karras" else {}
    return {"sampler": "euler", "steps": min(DDIM_STEPS, length), "spacing": ladder} | rho


def _flow_match(read: Fields, length: int) -> dict[str, Any]:
    if read.flag("use_dynamic_shifting", False):
        advice = "say what to sample with, as its shift is: from_pretrained(folder, defaults={'sampler': 'euler', "
        problem = f"got True, and mu, the logarithm of the shift, is not in the file; supported: False; or {advice}"
        raise read.error("use_dynamic_shifting", problem + "'steps': 28, 'spacing': 'flow_match', 'mu': 1.15})")
    read.only("invert_sigmas", False, False)
    plan: dict[str, Any] = {
        "sampler": "scm" if read.flag("stochastic_sampling", False) else "euler",
        "steps": min(FLOW_STEPS, length),
        "spacing": "flow_match",
    }
    if read.has("shift_terminal"):
        plan["shift_terminal"] = read.number("shift_terminal", 1e-6, 1.0)
    ladder = _ladder(read)
    return plan if ladder is None else plan | {"ladder": ladder}


def _scm(_: Fields, length: int) -> dict[str, Any]:
    return {"sampler": "scm", "steps": min(SCM_STEPS, length), "spacing": "trigflow"}


def _flow_map(_: Fields, length: int) -> dict[str, Any]:
    """As many steps as divide the timesteps: then their ends are timesteps, which diffusers' need not be."""
    return {"sampler": "flow_map", "steps": _dividing(MAP_STEPS, length), "spacing": "trailing"}


def _karras_levels(read: Fields) -> dict[str, Any]:
    return {
        "name": "karras",
        "num_timesteps": read.integer("num_train_timesteps", 1, MAX_TIMESTEPS, 40),
        "sigma_min": read.number("sigma_min", 1e-9, MAX_SIGMA, 0.002),
        "sigma_max": read.number("sigma_max", 1e-9, MAX_SIGMA, 80.0),
        "rho": read.number("rho", 1e-2, 1e3, 7.0),
        "time": "consistency",
    }


def _edm_levels(read: Fields) -> dict[str, Any]:
    name = read.choice("sigma_schedule", ("karras", "exponential"), "karras")
    rho = {"rho": read.number("rho", 1e-2, 1e3, 7.0)} if name == "karras" else {}
    return {
        "name": name,
        "num_timesteps": read.integer("num_train_timesteps", 1, MAX_TIMESTEPS, 1000),
        "sigma_min": read.number("sigma_min", 1e-9, MAX_SIGMA, 0.002),
        "sigma_max": read.number("sigma_max", 1e-9, MAX_SIGMA, 80.0),
        **rho,
        "time": "edm",
        "sigma_data": read.number("sigma_data", 1e-6, 1e6, 0.5),
    }


def _flow_levels(read: Fields) -> dict[str, Any]:
    return {
        "name": "flow",
        "num_timesteps": read.integer("num_train_timesteps", 1, MAX_TIMESTEPS, 1000),
        "shift": read.number("shift", 1e-3, 1e3, 1.0),
    }


def _trigflow_levels(read: Fields) -> dict[str, Any]:
    return {
        "name": "trigflow",
        "num_timesteps": read.integer("num_train_timesteps", 1, MAX_TIMESTEPS, 1000),
        "sigma_data": read.number("sigma_data", 1e-6, 1e6, 0.5),
    }


def _of_edm(read: Fields) -> str:
    types = {"epsilon": "edm", "v_prediction": "v"}
    return types[read.choice("prediction_type", tuple(types), "epsilon")]


def _of_trigflow(read: Fields) -> str:
    read.only("prediction_type", "trigflow", "trigflow")
    return "v"


def _distilled(read: Fields, length: int, sampler: str) -> dict[str, Any]:
    original = read.integer("original_inference_steps", 1, length, min(50, length))
    return {"sampler": sampler, "steps": min(LCM_STEPS, original), "original_steps": original}


def _multistep(read: Fields, length: int) -> dict[str, Any]:
    """Whole timesteps; but for trailing ones, those of one step more without the last. It rounds those of ladders."""
    for name in (*LADDERS, "rescale_betas_zero_snr", "use_dynamic_shifting"):
        if read.has(name):
            read.only(name, False)
    spaced = _spaced(read, min(DDIM_STEPS, max(length - 1, 1)), length, "linspace", more=1)
    return spaced | {"clip": _clip(read, False)}


def _dividing(most: int, length: int) -> int:
    """The most steps, up to `most`, whose trailing timesteps are equally far apart."""
    return next(steps for steps in range(min(most, length), 0, -1) if length % steps == 0)


def _ladder(read: Fields) -> str | None:
    """Which ladder of sigmas takes the place of those at the timesteps."""
    chosen = [name for name in LADDERS if read.has(name) and read.flag(name)]
    if len(chosen) > 1:
        raise read.error(chosen[1], f"is given beside {chosen[0]}; allowed: one of them")
    return LADDERS[chosen[0]] if chosen else None


def _sigmas(read: Fields, steps: int, length: int) -> dict[str, Any]:
    """As `_spaced`; or a ladder between the schedule's own ends, where linspace timesteps begin and end."""
    ladder = _ladder(read)
    if ladder is None:
        return _spaced(read, steps, length, "linspace")
    read.only("timestep_spacing", "linspace", "linspace")
    return {"steps": min(steps, length), "spacing": ladder}


def _spaced(read: Fields, steps: int, length: int, usual: str, more: int = 0) -> dict[str, Any]:
    """Steps, spacing and offset: at most `steps`, and as many as fit below the last timestep with the offset.

    `more` is 1 where the timesteps are those of so many steps more, but for trailing ones.
    """
    spacing = read.choice("timestep_spacing", SPACINGS, usual)
    skipping = {"skip_last": True} if more else {}
    if spacing == "trailing":
        return {"steps": min(steps, length), "spacing": spacing}
    if spacing == "linspace":
        return {"steps": min(steps, length), "spacing": spacing} | skipping
    offset = read.integer("steps_offset", 0, length - 1, 0)
    steps = max(fitting_steps(steps + more, length, offset) - more, 1)
    return {"steps": steps, "spacing": spacing} | ({"offset": offset} if offset else {}) | skipping


def _clip(read: Fields, usual: bool) -> float | dict[str, float] | None:
    if read.flag("thresholding", False):
        limit = read.number("sample_max_value", 1.0, 1e6, 1.0)
        return {"limit": limit, "ratio": read.number("dynamic_thresholding_ratio", 0.0, 1.0, 0.995)}
    return read.number("clip_sample_range", 1e-6, 1e6, 1.0) if read.flag("clip_sample", usual) else None


_STABLE_DIFFUSION: Final = ("scaled_linear", 0.00085, 0.012)
_K_DIFFUSION: Final = ("linear", 0.00085, 0.012)  # of the classes that came from k-diffusion
SCHEDULERS: Final[Mapping[str, Scheduler]] = {
    "DDPMScheduler": Scheduler(_ddpm),
    "DDPMParallelScheduler": Scheduler(_ddpm),
    "DDIMScheduler": Scheduler(_ddim),
    "DDIMParallelScheduler": Scheduler(_ddim),
    "EulerDiscreteScheduler": Scheduler(_euler),
    "EulerAncestralDiscreteScheduler": Scheduler(_euler_ancestral),
    "HeunDiscreteScheduler": Scheduler(_heun, _K_DIFFUSION),
    "KDPM2DiscreteScheduler": Scheduler(_kdpm2, _K_DIFFUSION),
    "KDPM2AncestralDiscreteScheduler": Scheduler(_kdpm2_ancestral, _K_DIFFUSION),
    "LCMScheduler": Scheduler(_lcm, _STABLE_DIFFUSION),
    "TCDScheduler": Scheduler(_tcd, _STABLE_DIFFUSION),
    "CMStochasticIterativeScheduler": Scheduler(_consistency, None, _karras_levels, lambda _: "consistency"),
    "EDMEulerScheduler": Scheduler(_edm_euler, None, _edm_levels, _of_edm),
    "SCMScheduler": Scheduler(_scm, None, _trigflow_levels, _of_trigflow),
    "FlowMatchEulerDiscreteScheduler": Scheduler(_flow_match, None, _flow_levels, lambda _: "flow"),
    "FlowMapEulerDiscreteScheduler": Scheduler(_flow_map, None, _flow_levels, lambda _: "flow"),
    "DPMSolverMultistepScheduler": Scheduler(_dpm_solver),
    "UniPCMultistepScheduler": Scheduler(_unipc),
    "DEISMultistepScheduler": Scheduler(_deis),
    "LMSDiscreteScheduler": Scheduler(_lms),
    "PNDMScheduler": Scheduler(_pndm),
    # Of the same training; whoever gives a plan can have its noise schedule, which the file must then say.
    "DPMSolverSinglestepScheduler": Scheduler(None, None),
}
