"""Whole loops against diffusers' schedulers that call twice for a step: Heun's method, KDPM2, Heun on a flow."""

from dataclasses import replace
from typing import Any

import diffusers
import numpy as np
import pytest

from fewstep import schedules
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.samplers import Clip, heun, kdpm2, make_plan
from fewstep_kernels.row import COLUMN
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

LEVELS = (1, 2, 3, 4, 8, 20)
SPACINGS = ("trailing", "leading", "linspace", "karras", "exponential")
SCHEDULE = schedules.scaled_linear(200, 1e-4, 0.02)  # short: KDPM2 makes a table of all timesteps, slowly


def settings(prediction: str, spacing: str) -> dict[str, Any]:
    ladder = {f"use_{spacing}_sigmas": True} if spacing in ("karras", "exponential") else {"timestep_spacing": spacing}
    betas = {"beta_schedule": "scaled_linear", "beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 200}
    return {"prediction_type": PREDICTIONS[prediction], **betas, **ladder}


def begins_at_the_end(levels: int, spacing: str) -> bool:
    """For one level, diffusers' linspace is timestep 0; ours is the noisiest."""
    return levels == 1 and spacing not in ("trailing", "leading")


HEUN = [
    (levels, prediction, clip, spacing)
    for levels, prediction, clip, spacing in pairwise(
        levels=LEVELS, prediction=tuple(PREDICTIONS), clip=(None, 0.8), spacing=SPACINGS
    )
    if not begins_at_the_end(levels, spacing)
]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("levels", "prediction", "clip", "spacing"), HEUN)
def test_heun_is_diffusers_heun(
    levels: int, prediction: str, clip: float | None, spacing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = {"clip_sample": clip is not None, "clip_sample_range": clip or 1.0}
    scheduler = diffusers.HeunDiscreteScheduler(**settings(prediction, spacing), **limit)
    scheduler.set_timesteps(levels)
    model, noise = dummy_model(), noise_for(2 * levels - 1)
    theirs, timesteps = run_diffusers(scheduler, model, noise, monkeypatch)

    plan = make_plan("heun", SCHEDULE, 2 * levels - 1, prediction, spacing, clip=clip)
    assert plan.init_scale == pytest.approx(float(scheduler.init_noise_sigma), rel=1e-12)
    assert plan.levels.t == pytest.approx(timesteps, abs=1e-9)
    assert difference(run_ours(plan, model, noise), theirs) < TOLERANCE


KDPM2 = [
    (levels, prediction, spacing, eta)
    for levels, prediction, spacing, eta in pairwise(
        levels=LEVELS, prediction=("eps", "v"), spacing=SPACINGS, eta=(0.0, 1.0)
    )
    if not begins_at_the_end(levels, spacing)
]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("levels", "prediction", "spacing", "eta"), KDPM2)
def test_kdpm2_is_diffusers_kdpm2_and_at_eta_1_its_ancestral_one(
    levels: int, prediction: str, spacing: str, eta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It rounds what the network is told on Karras sigmas, except in the middle of a step."""
    name = "KDPM2AncestralDiscreteScheduler" if eta else "KDPM2DiscreteScheduler"
    scheduler = getattr(diffusers, name)(**settings(prediction, spacing))
    scheduler.set_timesteps(levels)
    model, noise = dummy_model(), noise_for(2 * levels - 1)
    theirs, timesteps = run_diffusers(scheduler, model, noise, monkeypatch)

    plan = make_plan("kdpm2", SCHEDULE, 2 * levels - 1, prediction, spacing, eta=eta)
    assert plan.init_scale == pytest.approx(float(scheduler.init_noise_sigma), rel=1e-12)
    if spacing == "karras":
        t = np.array(plan.levels.t)
        t[0::2] = t[0::2].round()
        rows = np.array(plan.rows)
        rows[:, COLUMN["t"]] = rows[:, COLUMN["r"]] = t
        plan = replace(plan, levels=replace(plan.levels, t=t), rows=rows)
    assert plan.levels.t == pytest.approx(timesteps, abs=1e-9)
    assert difference(run_ours(plan, model, noise), theirs) < TOLERANCE


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_heun_on_a_flow_is_diffusers_flow_match_heun(
    levels: int, shift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through its own sigmas where there is a shift, which it applies twice."""
    scheduler = diffusers.FlowMatchHeunDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(levels)
    model, noise = dummy_model(), noise_for(2 * levels - 1)
    theirs, timesteps = run_diffusers(scheduler, model, noise, monkeypatch)

    plan = make_plan("heun", schedules.flow(), 2 * levels - 1, "flow", "linspace")
    if shift != 1.0:
        s = np.append(scheduler.sigmas[:-1:2].double().numpy(), 0.0)
        plan = heun(Levels(1000 * s[:-1], 1 - s, s, "flow"), "flow")
    assert plan.levels.t == pytest.approx(timesteps, abs=1e-9)
    assert difference(run_ours(plan, model, noise), theirs) < TOLERANCE


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("name", ["HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"])
def test_as_shipped_they_differ_by_float32_rounding(
    name: str, prediction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = getattr(diffusers, name)(**settings(prediction, "trailing"))
    scheduler.set_timesteps(8)
    model, noise = dummy_model(), noise_for(15)
    theirs, _ = run_diffusers(scheduler, model, noise, monkeypatch)
    levels = Levels.spaced(schedules.from_alphas_cumprod(scheduler.alphas_cumprod.double().numpy()), 8)
    plan = heun(levels, prediction) if name.startswith("Heun") else kdpm2(levels, prediction, float("Anc" in name))
    assert difference(run_ours(plan, model, noise), theirs) < rounding_bound(plan)


def test_a_clip_holds_for_both_calls() -> None:
    plan = make_plan("heun", SCHEDULE, 3, clip=Clip(0.8))
    assert plan.column("clip").tolist() == [0.8] * 3
