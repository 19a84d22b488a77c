"""Whole loops against diffusers' schedulers for distilled networks: TCD, sCM, LCM on a flow, flow maps."""

import math
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from fewstep import schedules
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import make_plan, scm
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


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("steps", "prediction", "eta", "snr", "strength"),
    pairwise(
        steps=STEPS, prediction=tuple(PREDICTIONS), eta=(0.0, 0.3, 1.0), snr=("some", "none"), strength=(1.0, 0.6)
    ),
)
def test_tcd_is_diffusers_tcd(
    steps: int, prediction: str, eta: float, snr: str, strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lands at timestep 0, not clean: final = "first". Zero terminal SNR with what can say x_0 there."""
    zero = snr == "none" and prediction != "eps"
    scheduler = diffusers.TCDScheduler(prediction_type=PREDICTIONS[prediction], rescale_betas_zero_snr=zero)
    scheduler.set_timesteps(steps, strength=strength)
    model, noise = dummy_model(), noise_for(steps, last=1.0)
    theirs, timesteps = run_diffusers(scheduler, model, noise, monkeypatch, eta=eta)

    schedule = schedules.scaled_linear()
    schedule = schedule.rescale_zero_terminal_snr() if zero else schedule
    plan = make_plan("tcd", schedule, steps, prediction, strength=strength, eta=eta, final="first")
    assert plan.levels.t.tolist() == timesteps
    assert difference(run_ours(plan, model, noise), theirs) < TOLERANCE


@pytest.mark.parametrize("steps", [2, 8])
def test_tcd_as_shipped_differs_by_float32_rounding(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = diffusers.TCDScheduler()
    scheduler.set_timesteps(steps)
    model, noise = dummy_model(), noise_for(steps)
    theirs, _ = run_diffusers(scheduler, model, noise, monkeypatch)
    schedule = schedules.from_alphas_cumprod(scheduler.alphas_cumprod.double().numpy())
    plan = make_plan("tcd", schedule, steps, final="first")
    assert difference(run_ours(plan, model, noise), theirs) < rounding_bound(plan)


@pytest.mark.parametrize(("eta", "share"), [(0.3, 7), (0.8, 2), (0.9, 1)])
def test_tcd_descends_to_the_whole_timestep_that_its_share_is(eta: float, share: int) -> None:
    """Of 90, 0.7 is 63, and 62.99999999999999 in float64; diffusers takes it in float32, which finds 63 too."""
    schedule = schedules.linear()
    plan = make_plan("tcd", schedule, 4, eta=eta, spacing=[999, 330, 90, 10])
    ratio = schedule.signal_scale[[330, 90, 10]] / schedule.signal_scale[np.array([33, 9, 1]) * share]
    assert plan.column("s")[:-1] == pytest.approx(np.sqrt(1 - ratio**2), rel=1e-9)


def test_tcd_lands_clean_unless_told() -> None:
    for eta in (0.0, 0.3):
        last = make_plan("tcd", schedules.linear(), 4, eta=eta).rows[-1]
        assert make_plan("ddim", schedules.linear(), 4, spacing="lcm").rows[-1] == pytest.approx(last, abs=1e-15)


def scm_run(
    timesteps: list[float], steps: int, monkeypatch: pytest.MonkeyPatch, **told: Any
) -> tuple[Plan, Tensor, Tensor]:
    """Our plan at these times, what it gives, and what diffusers does; x and m are sigma_data as large in its loop."""
    unit, model, noise = 0.5, dummy_model(), noise_for(steps, last=1.0)
    scheduler = diffusers.SCMScheduler(sigma_data=unit)
    scheduler.set_timesteps(steps, **told)
    if not told:
        scheduler.timesteps = torch.tensor([*timesteps, 0.0])
    scaled = [unit * noise[0], *noise[1:]]
    theirs, _ = run_diffusers(scheduler, lambda x, t: unit * model(x / unit, t), scaled, monkeypatch, calls=steps)
    t = np.array([*timesteps, 0.0])
    signal_scale = np.where(t == math.pi / 2, 0.0, np.cos(t))
    levels = Levels(t[:-1], signal_scale, unit * np.sin(t), "trig", time="trigflow", sigma_data=unit)
    plan = scm(levels, "v")
    return plan, run_ours(plan, model, noise), theirs


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("steps", STEPS)
def test_scm_is_diffusers_scm(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From pi / 2, which its default 1.5708 rounds, in equal steps; for two its own 1.3 between."""
    monkeypatch.setattr(diffusers.SCMScheduler.set_timesteps, "__defaults__", (None, None, 1.57080, None))
    times = [math.pi / 2, 1.3] if steps == 2 else (math.pi / 2 * (1 - np.arange(steps) / steps)).tolist()
    plan, ours, theirs = scm_run(times, steps, monkeypatch)
    assert difference(ours, theirs) < TOLERANCE
    if steps != 2:
        made = make_plan("scm", schedules.trigflow(1200), steps, "v")
        assert made.levels.t == pytest.approx(plan.levels.t, abs=1e-12)
        assert made.rows == pytest.approx(plan.rows, abs=1e-12)


def test_the_start_of_diffusers_scm_is_beyond_pure_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """cos(1.5708) = -3.7e-6 of the data, with their sign turned; that is all that it changes."""
    _, ours, theirs = scm_run([math.pi / 2, 1.3], 2, monkeypatch, max_timesteps=1.57080, intermediate_timesteps=1.3)
    assert 1e-8 < difference(ours, theirs) < 1e-4


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_scm_on_a_flow_is_diffusers_flow_match_lcm(steps: int, shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = diffusers.FlowMatchLCMScheduler(num_train_timesteps=1200, shift=shift)
    scheduler.set_timesteps(sigmas=list(1 - np.arange(steps) / steps))
    model, noise = dummy_model(), noise_for(steps, last=1.0)
    theirs, timesteps = run_diffusers(scheduler, model, noise, monkeypatch)
    plan = make_plan("scm", schedules.flow(1200, shift), steps, "flow")
    assert plan.levels.t == pytest.approx(timesteps, abs=1e-9)
    assert difference(run_ours(plan, model, noise), theirs) < TOLERANCE


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_flow_map_is_diffusers_flow_map_euler(steps: int, shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tables are float64 as shipped. What it leaves to its pipeline, the time r, is the next timestep, and 0."""
    scheduler = diffusers.FlowMapEulerDiscreteScheduler(num_train_timesteps=1200, shift=shift)
    scheduler.set_timesteps(steps)
    model, noise = dummy_model(), noise_for(steps)
    theirs, timesteps = run_diffusers(scheduler, model, noise, monkeypatch)
    plan = make_plan("flow_map", schedules.flow(1200, shift), steps, "flow")
    assert plan.levels.t == pytest.approx(timesteps, abs=1e-9)
    assert plan.column("r") == pytest.approx([*timesteps[1:], 0.0], abs=1e-9)
    assert difference(run_ours(plan, model, noise), theirs) < TOLERANCE
