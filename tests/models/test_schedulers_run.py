"""What is read off a scheduler_config.json runs as diffusers runs that scheduler: whole loops, in float64."""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import SAMPLERS, build_plan
from fewstep.diffusion.schedules import from_config
from fewstep.diffusion.spacings import make_levels
from fewstep.errors import ArgumentError
from fewstep.models.layouts.diffusers_scheduler import Sampling, sampling_from_scheduler
from support.diffusers_loops import TOLERANCE, difference, dummy_model, module_of, noise_for, run_diffusers, widened
from support.loading_case import refusal
from support.plan_interpreter import run_plan

COSINE = {"beta_schedule": "squaredcos_cap_v2"}
LADDERS = ({"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True})
V = {"prediction_type": "v_prediction"}
TRAILING = {"timestep_spacing": "trailing"}
THRESHOLD = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.5}
LEADING = {"timestep_spacing": "leading", "steps_offset": 1}
CASES: dict[str, tuple[dict[str, Any], ...]] = {
    "EulerDiscreteScheduler": (*LADDERS, V | TRAILING),
    "EulerAncestralDiscreteScheduler": ({}, V | TRAILING, LEADING, COSINE | {"num_train_timesteps": 100}),
    "HeunDiscreteScheduler": ({}, V | TRAILING, LEADING, {"clip_sample": True, "clip_sample_range": 0.8}, LADDERS[0]),
    "KDPM2DiscreteScheduler": ({}, V | TRAILING, LEADING, LADDERS[1]),
    "KDPM2AncestralDiscreteScheduler": ({}, V | TRAILING, LEADING, LADDERS[1]),
    "DPMSolverMultistepScheduler": (
        {},
        V | TRAILING | THRESHOLD | {"solver_order": 3, "euler_at_final": True},
        LEADING | {"solver_type": "heun", "final_sigmas_type": "sigma_min", "lower_order_final": False},
        {"algorithm_type": "sde-dpmsolver++", "num_train_timesteps": 40},
    ),
    "UniPCMultistepScheduler": (
        {},
        V | TRAILING | THRESHOLD | {"solver_order": 3},
        LEADING | {"solver_type": "bh1", "final_sigmas_type": "sigma_min", "lower_order_final": False},
    ),
    "DEISMultistepScheduler": ({}, V | TRAILING | {"solver_order": 3}, LEADING | {"lower_order_final": False}),
    "LMSDiscreteScheduler": ({}, V | TRAILING, LEADING, LADDERS[0]),
    "PNDMScheduler": (
        {"skip_prk_steps": True},
        V | TRAILING | {"skip_prk_steps": True, "set_alpha_to_one": True},
        LEADING | {"skip_prk_steps": True},
    ),
    "TCDScheduler": (
        {},
        V | {"clip_sample": True},
        COSINE | {"original_inference_steps": 20, "set_alpha_to_one": False},
    ),
    "EDMEulerScheduler": ({}, V | {"sigma_schedule": "exponential"}, {"rho": 5.0, "sigma_data": 1.0}),
    "SCMScheduler": ({}, {"sigma_data": 1.0}),
    "FlowMatchEulerDiscreteScheduler": (
        {},
        {"shift": 3.0},
        {"shift": 2.0, "stochastic_sampling": True},
        {"shift_terminal": 0.1},
        *LADDERS,
    ),
    "FlowMapEulerDiscreteScheduler": ({}, {"shift": 3.0}, {"num_train_timesteps": 1004}),
}
EVERY = [(name, config) for name, configs in CASES.items() for config in configs]
OWN_START = {
    "EDMEulerScheduler"
}  # diffusers draws it with the data's variance beside the noise's, Karras et al. do not


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """diffusers' schedulers, and what torch makes of Python's numbers, in float64."""
    widened(monkeypatch)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def said(scheduler: Any) -> Sampling:
    return sampling_from_scheduler(json.loads(scheduler.to_json_string()), "scheduler_config.json")


def plan_of(sampling: Sampling, **changes: Any) -> Plan:
    return build_plan(
        schedule=from_config(sampling.schedule), prediction=sampling.prediction, **sampling.plan | changes
    )


@pytest.mark.usefixtures("float64")
@pytest.mark.filterwarnings("ignore:.*__array_:DeprecationWarning")
@pytest.mark.parametrize("levels", [None, 4], ids=["as it says", "4 steps"])
@pytest.mark.parametrize(("name", "config"), EVERY, ids=[f"{name}-{'-'.join(config)}" for name, config in EVERY])
def test_a_scheduler_runs_as_diffusers_runs_it(
    name: str, config: dict[str, Any], levels: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = getattr(diffusers, name)(**config)
    sampling = said(scheduler)
    chosen = SAMPLERS[sampling.plan["sampler"]]
    levels = chosen.levels("", sampling.plan["steps"]) if levels is None else levels
    calls = chosen.calls(levels)
    plan = plan_of(sampling, steps=calls)
    set_timesteps(scheduler, levels)
    model, noise = dummy_model(), noise_for(calls)
    theirs = run(scheduler, model, noise, monkeypatch)
    # diffusers begins EDM's with the scale of data and noise, sqrt(sigma^2 + 1), and Karras et al. with that of noise.
    start = float(scheduler.init_noise_sigma) if name == "EDMEulerScheduler" else plan.init_scale
    ours = run_plan(plan, model, start * noise[0], noise[1:])
    tolerance = 1e-6 if name == "SCMScheduler" else TOLERANCE  # whose angles are float32
    assert difference(ours, theirs) <= tolerance * max(1.0, float(theirs.abs().max()))


def set_timesteps(scheduler: Any, steps: int) -> None:
    """Those of SCM begin at the right angle, which diffusers rounds to 1.5708, and are float32 there."""
    if isinstance(scheduler, diffusers.SCMScheduler):
        second = 1.3 if steps == 2 else None
        scheduler.set_timesteps(steps, max_timesteps=math.pi / 2, intermediate_timesteps=second)
    else:
        scheduler.set_timesteps(steps)


def run(scheduler: Any, model: Callable[[Tensor, float], Tensor], noise: list[Tensor], monkeypatch: Any) -> Tensor:
    """The loop of its pipeline; that of SCM scales what enters and leaves the network, and has an angle to land at."""
    if not isinstance(scheduler, diffusers.SCMScheduler):
        return run_diffusers(scheduler, model, noise, monkeypatch)[0]
    sigma_data, given = scheduler.config.sigma_data, iter(noise[1:])
    monkeypatch.setattr(module_of(type(scheduler)), "randn_tensor", lambda *_, **__: next(given))
    x = sigma_data * noise[0]
    for t in scheduler.timesteps[:-1]:
        x = scheduler.step(sigma_data * model(x / sigma_data, float(t)), t, x).prev_sample
    return x


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("EulerDiscreteScheduler", TRAILING | LADDERS[0], "timestep_spacing: got 'trailing'; supported: 'linspace'"),
        ("HeunDiscreteScheduler", {"beta_schedule": "exp"}, "beta_schedule: got 'exp'; supported: linear, "),
        ("KDPM2DiscreteScheduler", LADDERS[0], "use_karras_sigmas: got True; supported: False"),
        ("KDPM2AncestralDiscreteScheduler", LADDERS[0], "use_karras_sigmas: got True; supported: False"),
        (
            "EDMEulerScheduler",
            {"final_sigmas_type": "sigma_min"},
            "final_sigmas_type: got 'sigma_min'; supported",
        ),
        ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}, "invert_sigmas: got True; supported: False"),
        ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}, "use_dynamic_shifting: got True, and mu, "),
        ("DPMSolverMultistepScheduler", LADDERS[0], "use_karras_sigmas: got True; supported: False"),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver"}, "algorithm_type: got 'dpmsolver'; supported"),
        ("DPMSolverMultistepScheduler", {"solver_order": 1}, "solver_order: got 1; allowed: an integer from 2 to 3"),
        ("DPMSolverMultistepScheduler", {"use_lu_lambdas": True}, "use_lu_lambdas: got True; supported: False"),
        ("DPMSolverMultistepScheduler", {"lambda_min_clipped": -5.1}, "lambda_min_clipped: got -5.1; supported: "),
        ("DPMSolverMultistepScheduler", {"variance_type": "learned"}, "variance_type: got 'learned'; supported: None"),
        ("UniPCMultistepScheduler", {"predict_x0": False}, "predict_x0: got False; supported: True"),
        ("UniPCMultistepScheduler", {"disable_corrector": [0]}, "disable_corrector: got [0]; supported: []"),
        ("UniPCMultistepScheduler", {"solver_type": "bh1"}, "solver_type: got 'bh1'; supported: bh2"),
        ("UniPCMultistepScheduler", {"lower_order_final": False}, "lower_order_final: got False; supported: True"),
        ("UniPCMultistepScheduler", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr: got True; supported: F"),
        ("DEISMultistepScheduler", LADDERS[1], "use_exponential_sigmas: got True; supported: False"),
        ("PNDMScheduler", {}, "skip_prk_steps: got False; supported: True"),
        ("PNDMScheduler", {"skip_prk_steps": True, "timestep_spacing": "linspace"}, "timestep_spacing: got 'linspace'"),
        ("SCMScheduler", {"prediction_type": "epsilon"}, "prediction_type: got 'epsilon'; supported: 'trigflow'"),
        (
            "EDMEulerScheduler",
            {"prediction_type": "sample"},
            "prediction_type: got 'sample'; supported: epsilon",
        ),
    ],
)
def test_what_would_run_otherwise_is_refused_by_the_field(name: str, config: dict[str, Any], message: str) -> None:
    data = {"_class_name": name} | config
    assert refusal(lambda: sampling_from_scheduler(data, "file")).startswith(f"file: {message}")


def test_the_shift_of_a_size_is_said_by_the_caller() -> None:
    """In place of the plan, as a file whose shift depends on the size says all but that."""
    data = json.loads(diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True).to_json_string())
    plan = {"sampler": "euler", "steps": 4, "spacing": "flow_match", "mu": 1.15}
    sampling = sampling_from_scheduler(data, "file", {"plan": plan})
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    theirs.set_timesteps(4, mu=1.15)
    np.testing.assert_allclose(plan_of(sampling).column("t"), theirs.timesteps.numpy(), rtol=1e-6)


@pytest.mark.parametrize("spacing", ["leading", "linspace"])
def test_the_last_of_one_step_more_can_be_left_out(spacing: str) -> None:
    """As DPMSolverMultistepScheduler has it; an image start stays within its share of the schedule."""
    schedule = from_config({"name": "linear", "num_timesteps": 1000})
    theirs = diffusers.DPMSolverMultistepScheduler(timestep_spacing=spacing)
    theirs.set_timesteps(7)
    ours = make_levels(schedule, 7, spacing, skip_last=True)
    assert ours.t.tolist() == theirs.timesteps.tolist()
    assert ours.noise_scale[-1] == 0
    assert make_levels(schedule, 7, spacing, strength=0.5, skip_last=True).t.max() < 500
    with pytest.raises(ArgumentError, match="steps: got 1000; allowed: an integer from 1 to 999 with skip_last"):
        make_levels(schedule, 1000, spacing, skip_last=True)
    with pytest.raises(ArgumentError, match="skip_last: got 1; allowed: true or false"):
        make_levels(schedule, 7, spacing, skip_last=1)
