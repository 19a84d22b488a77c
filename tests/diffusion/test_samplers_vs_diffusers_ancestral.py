"""Whole loops against diffusers' ancestral Euler schedulers, and its Euler for preconditioned networks."""

import diffusers
import numpy as np
import pytest

from fewstep import schedules
from fewstep.diffusion.samplers import make_plan
from support.diffusers_loops import (
    PREDICTIONS,
    TOLERANCE,
    difference,
    dummy_model,
    noise_for,
    rounding_bound,
    run_diffusers,
    run_ours,
)
from support.pairwise import pairwise

STEPS = (1, 2, 3, 4, 8, 20)
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 1e-4, "beta_end": 0.02}
SCHEDULE = schedules.scaled_linear(1000, 1e-4, 0.02)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_euler_ancestral_is_diffusers_euler_ancestral(
    steps: int, prediction: str, spacing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For one step its linspace is timestep 0; ours is the noisiest."""
    if steps == 1 and spacing == "linspace":
        spacing = "leading"
    scheduler = diffusers.EulerAncestralDiscreteScheduler(
        **BETAS, prediction_type=PREDICTIONS[prediction], timestep_spacing=spacing
    )
    scheduler.set_timesteps(steps)
    model, noise = dummy_model(), noise_for(steps, last=1.0)
    theirs, timesteps = run_diffusers(scheduler, model, noise, monkeypatch)
    plan = make_plan("euler_ancestral", SCHEDULE, steps, prediction, spacing)
    assert plan.init_scale == pytest.approx(float(scheduler.init_noise_sigma), rel=1e-12)
    assert plan.levels.t == pytest.approx(timesteps, abs=1e-9)
    assert difference(run_ours(plan, model, noise), theirs) < TOLERANCE


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_euler_ancestral_on_a_flow_is_that_of_ltx(steps: int, eta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = diffusers.LTXEulerAncestralRFScheduler(num_train_timesteps=1200, eta=eta)
    scheduler.set_timesteps(sigmas=list(1 - np.arange(steps + 1) / steps))
    model, noise = dummy_model(), noise_for(steps, last=1.0)
    theirs, timesteps = run_diffusers(scheduler, model, noise, monkeypatch, calls=steps)
    plan = make_plan("euler_ancestral", schedules.flow(1200), steps, "flow", eta=eta)
    assert plan.levels.t == pytest.approx(timesteps, abs=1e-9)
    assert difference(run_ours(plan, model, noise), theirs) < TOLERANCE


def test_without_noise_it_is_euler_to_the_bit() -> None:
    for schedule, prediction in ((SCHEDULE, "eps"), (schedules.flow(), "flow")):
        plan = make_plan("euler_ancestral", schedule, 8, prediction, eta=0.0)
        assert plan.rows.tolist() == make_plan("euler", schedule, 8, prediction).rows.tolist()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("steps", "prediction", "spacing", "sigma_data"),
    pairwise(steps=STEPS, prediction=("edm", "v"), spacing=("karras", "exponential"), sigma_data=(0.5, 1.0)),
)
def test_euler_of_a_preconditioned_network_is_diffusers_edm_euler(
    steps: int, prediction: str, spacing: str, sigma_data: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers calls an EDM network eps, and starts from sqrt(1 + sigma^2) z, where Karras et al. have sigma z.

    For one step its exponential ladder is sigma_min; ours is sigma_max.
    """
    spacing = "karras" if steps == 1 else spacing
    predicted = {"edm": "epsilon", "v": "v_prediction"}[prediction]
    scheduler = diffusers.EDMEulerScheduler(
        prediction_type=predicted, sigma_data=sigma_data, sigma_schedule=spacing, sigma_max=70.0
    )
    scheduler.set_timesteps(steps)
    schedule = schedules.karras(40, 0.002, 70.0, time="edm").preconditioned(sigma_data)
    plan = make_plan("euler", schedule, steps, prediction, spacing)
    model, noise = dummy_model(), noise_for(steps)
    scaled = [noise[0] * plan.init_scale / scheduler.init_noise_sigma, *noise[1:]]
    theirs, timesteps = run_diffusers(scheduler, model, scaled, monkeypatch)
    assert plan.levels.t == pytest.approx(timesteps, abs=1e-9)
    assert difference(run_ours(plan, model, noise), theirs) < TOLERANCE


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_as_shipped_it_differs_by_float32_rounding(prediction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = diffusers.EulerAncestralDiscreteScheduler(
        prediction_type=PREDICTIONS[prediction], timestep_spacing="trailing"
    )
    scheduler.set_timesteps(8)
    model, noise = dummy_model(), noise_for(8)
    theirs, _ = run_diffusers(scheduler, model, noise, monkeypatch)
    schedule = schedules.from_alphas_cumprod(scheduler.alphas_cumprod.double().numpy())
    plan = make_plan("euler_ancestral", schedule, 8, prediction)
    assert difference(run_ours(plan, model, noise), theirs) < rounding_bound(plan)
