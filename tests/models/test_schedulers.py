"""diffusers' schedulers: those that are read give the timesteps that they would run, the others are refused by name."""

import json
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers import KarrasDiffusionSchedulers
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import make_plan
from fewstep.diffusion.schedules import from_config
from fewstep.models.layouts.diffusers_scheduler import SCHEDULERS, Sampling, sampling_from_scheduler
from support.loading_case import refusal

NEEDS_A_LIBRARY = ("LMSDiscreteScheduler", "DPMSolverSDEScheduler")  # scipy, torchsde
pytestmark = pytest.mark.filterwarnings("ignore:.*__array_:DeprecationWarning")


def said(scheduler: Any) -> Sampling:
    """What its config says, by way of the text that diffusers writes."""
    return sampling_from_scheduler(json.loads(scheduler.to_json_string()), "scheduler_config.json")


def plan_of(sampling: Sampling) -> Plan:
    return make_plan(schedule=from_config(sampling.schedule), prediction=sampling.prediction, **sampling.plan)


def betas(length: int, data: st.DataObject) -> dict[str, Any]:
    if data.draw(st.booleans(), "trained betas"):
        return {"trained_betas": np.linspace(1e-3, min(0.5, 10 / length), length).tolist()}
    return {"beta_schedule": data.draw(st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]))}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_default_plan_calls_the_network_where_the_scheduler_would(data: st.DataObject) -> None:
    """Of every config that is read; at most as many steps as fit beneath the last timestep."""
    kind = data.draw(st.sampled_from(["DDPM", "DDPMParallel", "DDIM", "DDIMParallel", "EulerDiscrete", "LCM"]))
    length = data.draw(st.one_of(st.integers(2, 60), st.sampled_from([100, 1000])), "length")
    config = betas(length, data) | {
        "num_train_timesteps": length,
        "steps_offset": data.draw(st.integers(0, min(length - 1, 4)), "offset"),
        "timestep_spacing": data.draw(st.sampled_from(["leading", "trailing", "linspace"]), "spacing"),
        "prediction_type": data.draw(st.sampled_from(["epsilon", "sample", "v_prediction"]), "prediction"),
    }
    if kind == "LCM":
        config["original_inference_steps"] = data.draw(st.integers(1, min(50, length // 2)), "original")
    if kind == "EulerDiscrete" and config["prediction_type"] == "sample":
        config["prediction_type"] = "epsilon"  # it does not have the other
    scheduler = getattr(diffusers, f"{kind}Scheduler")(**config)
    sampling = said(scheduler)
    plan = plan_of(sampling)
    scheduler.set_timesteps(len(plan))
    theirs, beyond = np.split(scheduler.timesteps.double().numpy(), [len(plan)])
    # np.arange adds up its step, so that a timestep halfway between two may round to the other one there, and a last
    # one, which is none, may come of it: 51 of 50 steps for a length of 57.
    trailing = sampling.plan.get("spacing") == "trailing"
    assert beyond.tolist() in ([], [-1.0] if trailing else [])
    exact = length - np.arange(len(plan)) * length / len(plan)
    half = trailing & (np.abs(exact % 1 - 0.5) < 1e-6)
    apart = np.abs(plan.column("t") - theirs)
    assert apart[~half].max(initial=0) <= 1e-3
    assert apart[half].max(initial=0) <= 1


def test_a_plan_with_an_offset_has_as_many_steps_as_fit() -> None:
    """1000 leading timesteps with offset 1 would end at 1000, which is none: diffusers' own loop fails there."""
    sampling = said(diffusers.DDPMScheduler(steps_offset=1))
    assert sampling.plan["steps"] == 999
    times = plan_of(sampling).column("t")
    assert (times[0], times[-1]) == (999, 1)
    assert said(diffusers.DDPMScheduler(steps_offset=1, timestep_spacing="trailing")).plan["steps"] == 1000
    assert said(diffusers.DDIMScheduler(steps_offset=1)).plan["steps"] == 50
    assert said(diffusers.DDIMScheduler(num_train_timesteps=50, steps_offset=2)).plan["steps"] == 48


def test_an_lcm_scheduler_runs_as_diffusers_runs_it() -> None:
    """The whole loop with a fixed network and diffusers' noise, in float64."""
    scheduler = diffusers.LCMScheduler(original_inference_steps=40, clip_sample=True, prediction_type="v_prediction")
    sampling = said(scheduler)
    assert sampling.schedule == {
        "name": "scaled_linear",
        "num_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
    }
    assert sampling.plan == {"sampler": "lcm", "steps": 4, "original_steps": 40, "timestep_scaling": 10.0, "clip": 1.0}
    plan = plan_of(sampling)
    scheduler.set_timesteps(4)
    ours = theirs = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for i, t in enumerate(scheduler.timesteps):
        m = torch.sin(3 * theirs)
        k_x, k_m, a, b, s = (float(plan.column(name)[i]) for name in ("k_x", "k_m", "a", "b", "s"))
        before = torch.Generator().manual_seed(i)
        theirs = scheduler.step(m, t, theirs, generator=before).prev_sample
        z = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(i))
        x_0 = (k_x * ours + k_m * torch.sin(3 * ours)).clamp(-1, 1)
        ours = a * ours + b * x_0 + s * z
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)  # diffusers keeps alphas_cumprod in float32


@pytest.mark.parametrize(
    ("scheduler", "spacing", "final"),
    [
        (diffusers.EulerDiscreteScheduler(), "linspace", "clean"),
        (
            diffusers.EulerDiscreteScheduler(timestep_spacing="trailing", final_sigmas_type="sigma_min"),
            "trailing",
            "first",
        ),
    ],
    ids=["as it comes", "trailing to the first level"],
)
def test_an_euler_scheduler_runs_between_its_sigmas(scheduler: Any, spacing: str, final: str) -> None:
    sampling = said(scheduler)
    assert sampling.plan == {"sampler": "euler", "final": final, "steps": 50, "spacing": spacing}
    plan = plan_of(sampling)
    scheduler.set_timesteps(50)
    sigmas = scheduler.sigmas.double().numpy()
    np.testing.assert_allclose(plan.column("a"), sigmas[1:] / sigmas[:-1], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(plan.init_scale, float(scheduler.init_noise_sigma), rtol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"use_beta_sigmas": 1},
        {"interpolation_type": "log_linear"},
        {"timestep_type": "continuous"},
        {"final_sigmas_type": "half"},
        {"sigma_min": 0.1},
    ],
    ids=str,
)
def test_an_euler_scheduler_of_other_sigmas_is_refused_by_the_field(changes: dict[str, Any]) -> None:
    data = json.loads(diffusers.EulerDiscreteScheduler().to_json_string()) | changes
    (name,) = changes
    message = refusal(lambda: sampling_from_scheduler(data, "scheduler_config.json"))
    assert message.startswith(f"scheduler_config.json: {name}: got")


FAMILY = {
    kind.name: SCHEDULERS.get(kind.name) for kind in KarrasDiffusionSchedulers if kind.name not in NEEDS_A_LIBRARY
}


@pytest.mark.parametrize("kind", ["IPNDMScheduler", "DDIMInverseScheduler", "CosineDPMSolverMultistepScheduler"])
def test_a_scheduler_that_is_not_known_is_refused_by_its_name(kind: str) -> None:
    message = refusal(lambda: sampling_from_scheduler({"_class_name": kind}, "scheduler_config.json"))
    assert f"_class_name: got {kind!r}, which is not known; supported: DDPM" in message
    assert "and schedule= and prediction= beside it" in message


@pytest.mark.parametrize("kind", [kind for kind, known in FAMILY.items() if known and known.plan])
def test_a_scheduler_whose_sampler_is_here_is_read(kind: str) -> None:
    config = {"skip_prk_steps": True, "set_alpha_to_one": True} if kind == "PNDMScheduler" else {}
    plan_of(said(getattr(diffusers, kind)(**config)))


@pytest.mark.parametrize("kind", [kind for kind, known in FAMILY.items() if known and not known.plan])
def test_a_scheduler_whose_sampler_is_not_here_is_refused_by_its_name_and_keeps_its_schedule(kind: str) -> None:
    scheduler = getattr(diffusers, kind)()
    message = refusal(lambda: said(scheduler))
    assert f"_class_name: got {kind!r}, whose sampler fewstep does not have; supported: DDPM" in message
    assert message.endswith(" such as ddim and 50: from_pretrained(folder, defaults={'sampler': 'ddim', 'steps': 50})")
    # With a plan of one's own the schedule is the file's, with what JSON writes as -Infinity left alone.
    given = {"plan": {"sampler": "ddim", "steps": 4}}
    sampling = sampling_from_scheduler(json.loads(scheduler.to_json_string()), "file", given)
    ours = from_config(sampling.schedule).alphas_cumprod
    np.testing.assert_allclose(ours, scheduler.alphas_cumprod.numpy(), rtol=2e-4, atol=1e-7)


def test_each_way_is_taken_by_a_scheduler_of_the_family() -> None:
    assert {known and bool(known.plan) for known in FAMILY.values()} == {True, False}
