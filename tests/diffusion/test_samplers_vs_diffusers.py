"""Whole loops against diffusers' schedulers (`support.diffusers_loops`): DDPM, DDIM, Euler, LCM, consistency models.

The last tests name what diffusers does that we do not.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from fewstep import schedules
from fewstep.diffusion.samplers import Clip, make_plan
from fewstep.diffusion.schedules import Schedule
from support.diffusers_loops import (
    CLIPS,
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


def cases(**options: Sequence[Any]) -> list[tuple[Any, ...]]:
    """All at 4 steps; at every number of steps, all pairs.

    One linspace timestep of diffusers is its first, 0. From each of 3 trailing ones, which do not divide 1000, its DDIM
    steps by 333: the last tests have that.
    """
    prediction, clip = list(PREDICTIONS), list(CLIPS)
    at_4 = itertools.product([4], prediction, clip, *options.values())
    pairs = pairwise(steps=STEPS, prediction=prediction, clip=clip, **options)
    odd = [(1, "linspace"), *([(3, "trailing")] if "eta" in options else [])]
    return [case for case in dict.fromkeys([*at_4, *pairs]) if (case[0], case[3]) not in odd]


SPACINGS = ("leading", "trailing", "linspace")
VARIANCES = ("fixed_small", "fixed_large", "learned_range")


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("steps", "prediction", "clip", "spacing", "variance"), cases(spacing=SPACINGS, variance=VARIANCES)
)
def test_ddpm_is_diffusers_ddpm(
    steps: int, prediction: str, clip: str, spacing: str, variance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, settings = CLIPS[clip]
    scheduler = diffusers.DDPMScheduler(
        prediction_type=PREDICTIONS[prediction], variance_type=variance, timestep_spacing=spacing, **settings
    )
    scheduler.set_timesteps(steps)
    model, noise = dummy_model(6 if variance == "learned_range" else 3), noise_for(steps)
    theirs, timesteps = run_diffusers(scheduler, model, noise, monkeypatch)

    plan = make_plan("ddpm", schedules.linear(), steps, prediction, spacing, variance=variance, clip=limit)
    assert plan.levels.t.tolist() == timesteps
    assert difference(run_ours(plan, model, noise), theirs) < TOLERANCE


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("steps", "prediction", "clip", "spacing", "eta"), cases(spacing=SPACINGS[:2], eta=(0.0, 0.5, 1.0))
)
def test_ddim_is_diffusers_ddim(
    steps: int, prediction: str, clip: str, spacing: str, eta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, settings = CLIPS[clip]
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", prediction_type=PREDICTIONS[prediction], timestep_spacing=spacing, **settings
    )
    scheduler.set_timesteps(steps)
    model, noise = dummy_model(), noise_for(steps)
    theirs, timesteps = run_diffusers(scheduler, model, noise, monkeypatch, eta=eta)

    schedule = schedules.scaled_linear(1000, 1e-4, 0.02)
    plan = make_plan("ddim", schedule, steps, prediction, spacing, eta=eta, clip=limit)
    assert plan.levels.t.tolist() == timesteps
    assert difference(run_ours(plan, model, noise), theirs) < TOLERANCE


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("offset", [0, 1])
def test_ddim_that_ends_at_the_first_level_is_set_alpha_to_one_false(
    steps: int, prediction: str, offset: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = diffusers.DDIMScheduler(
        set_alpha_to_one=False,
        steps_offset=offset,
        clip_sample=False,
        prediction_type=PREDICTIONS[prediction],
    )
    scheduler.set_timesteps(steps)
    model, noise = dummy_model(), noise_for(steps)
    theirs, _ = run_diffusers(scheduler, model, noise, monkeypatch)
    plan = make_plan("ddim", schedules.linear(), steps, prediction, "leading", offset=offset, final="first")
    assert difference(run_ours(plan, model, noise), theirs) < TOLERANCE


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_ddim_with_clipped_direction_is_use_clipped_model_output(
    prediction: str, eta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = diffusers.DDIMScheduler(clip_sample=True, prediction_type=PREDICTIONS[prediction])
    scheduler.set_timesteps(8)
    model, noise = dummy_model(), noise_for(8)
    theirs, _ = run_diffusers(scheduler, model, noise, monkeypatch, eta=eta, use_clipped_model_output=True)
    options = {"eta": eta, "clip": 1.0, "clipped_direction": True}
    plan = make_plan("ddim", schedules.linear(), 8, prediction, "leading", **options)
    assert difference(run_ours(plan, model, noise), theirs) < TOLERANCE


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_reaches_zero_terminal_snr_as_diffusers_does(eta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """v prediction at alphas_cumprod = 0, trailing: no NaN on either side."""
    scheduler = diffusers.DDIMScheduler(
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
    )
    scheduler.set_timesteps(8)
    model, noise = dummy_model(), noise_for(8)
    theirs, _ = run_diffusers(scheduler, model, noise, monkeypatch, eta=eta)
    plan = make_plan("ddim", schedules.linear().rescale_zero_terminal_snr(), 8, "v", eta=eta)
    assert plan.levels.signal_scale[0] == 0
    assert difference(run_ours(plan, model, noise), theirs) < TOLERANCE


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("spacing", "steps"),
    [
        (spacing, steps)
        for spacing in ("leading", "trailing", "linspace", "karras", "exponential")
        for steps in STEPS
        if steps > 1 or spacing in ("leading", "trailing")
    ],
)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_euler_is_diffusers_euler(steps: int, prediction: str, spacing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its linspace timesteps are not rounded, and sigma is interpolated linearly between levels.

    One step of linspace, and of the ladders, which it takes from there, begins at its timestep 0.
    """
    sigmas = {f"use_{spacing}_sigmas": True} if spacing in ("karras", "exponential") else {"timestep_spacing": spacing}
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_schedule="scaled_linear", prediction_type=PREDICTIONS[prediction], **sigmas
    )
    scheduler.set_timesteps(steps)
    model, noise = dummy_model(), noise_for(steps)
    theirs, timesteps = run_diffusers(scheduler, model, noise, monkeypatch)

    plan = make_plan("euler", schedules.scaled_linear(1000, 1e-4, 0.02), steps, prediction, spacing)
    assert plan.init_scale == pytest.approx(float(scheduler.init_noise_sigma), rel=1e-12)
    assert plan.levels.t == pytest.approx(timesteps, abs=1e-9)
    assert difference(run_ours(plan, model, noise), theirs) < TOLERANCE


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_on_a_flow_is_diffusers_flow_match_euler(
    steps: int, shift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers is given the unshifted times 1, 1 - 1/N, ..; its own default spaces them between shifted ends."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=list(1 - np.arange(steps) / steps))
    model, noise = dummy_model(), noise_for(steps)
    theirs, timesteps = run_diffusers(scheduler, model, noise, monkeypatch)

    plan = make_plan("euler", schedules.flow(1000, shift), steps, "flow", "flow_even")
    assert plan.levels.t == pytest.approx(timesteps, abs=1e-9)
    assert difference(run_ours(plan, model, noise), theirs) < TOLERANCE


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_lcm_is_diffusers_lcm(
    steps: int, prediction: str, clip: str, strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, settings = CLIPS[clip]
    scheduler = diffusers.LCMScheduler(prediction_type=PREDICTIONS[prediction], **settings)
    scheduler.set_timesteps(steps, strength=strength)
    model, noise = dummy_model(), noise_for(steps, last=1.0)
    theirs, timesteps = run_diffusers(scheduler, model, noise, monkeypatch)

    plan = make_plan("lcm", schedules.scaled_linear(), steps, prediction, strength=strength, clip=limit)
    assert plan.levels.t.tolist() == timesteps
    assert difference(run_ours(plan, model, noise), theirs) < TOLERANCE


CM_LEVELS: dict[int, Any] = dict.fromkeys(STEPS, "trailing") | {3: [39, 26, 13]}  # its steps are 40 // 3 levels long


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("clip", [None, Clip(1.0)], ids=["no clip", "clip"])
@pytest.mark.parametrize("sigma_min", [0.002, 0.05], ids=["their boundary", "another boundary"])
def test_consistency_is_diffusers_cm_stochastic_iterative(
    steps: int, clip: Clip | None, sigma_min: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = diffusers.CMStochasticIterativeScheduler(clip_denoised=clip is not None, sigma_min=sigma_min)
    scheduler.set_timesteps(steps)
    model, noise = dummy_model(), noise_for(steps, last=1.0)
    theirs, timesteps = run_diffusers(scheduler, model, noise, monkeypatch)
    plan = make_plan("consistency", schedules.karras(40, sigma_min), steps, spacing=CM_LEVELS[steps], clip=clip)
    assert plan.init_scale == scheduler.init_noise_sigma
    assert plan.levels.t == pytest.approx(timesteps, abs=1e-9)
    assert difference(run_ours(plan, model, noise), theirs) < TOLERANCE


AS_SHIPPED: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "ddpm fixed_small": ("DDPMScheduler", {"variance_type": "fixed_small"}, {}, {"variance": "fixed_small"}),
    "ddpm fixed_large": ("DDPMScheduler", {"variance_type": "fixed_large"}, {}, {"variance": "fixed_large"}),
    "ddpm learned_range": ("DDPMScheduler", {"variance_type": "learned_range"}, {}, {"variance": "learned_range"}),
    "ddim": ("DDIMScheduler", {}, {"eta": 0.5}, {"eta": 0.5}),
    "euler": ("EulerDiscreteScheduler", {}, {}, {}),
    "lcm": ("LCMScheduler", {}, {}, {"spacing": "lcm"}),
}


@pytest.mark.parametrize("steps", [1, 4, 20])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("case", AS_SHIPPED)
def test_diffusers_as_shipped_differs_by_its_float32_rounding(
    case: str, steps: int, prediction: str, clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, settings, step, options = AS_SHIPPED[case]
    limit, clip_settings = CLIPS[clip]
    if name == "EulerDiscreteScheduler":  # it never clips
        limit, clip_settings = None, {}
    options = {"spacing": "trailing"} | options
    if options["spacing"] == "trailing":
        settings = settings | {"timestep_spacing": "trailing"}
    scheduler = getattr(diffusers, name)(prediction_type=PREDICTIONS[prediction], **settings, **clip_settings)
    scheduler.set_timesteps(steps)
    assert scheduler.alphas_cumprod.dtype == torch.float32
    model, noise = dummy_model(6 if case == "ddpm learned_range" else 3), noise_for(steps)
    theirs, _ = run_diffusers(scheduler, model, noise, monkeypatch, **step)

    schedule = schedules.from_alphas_cumprod(scheduler.alphas_cumprod.double().numpy())
    plan = make_plan(case.split()[0], schedule, steps, prediction, clip=limit, **options)
    assert difference(run_ours(plan, model, noise), theirs) < rounding_bound(plan)


@pytest.mark.parametrize("steps", STEPS)
def test_diffusers_cm_as_shipped_differs_by_its_float32_rounding(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = diffusers.CMStochasticIterativeScheduler()
    scheduler.set_timesteps(steps)
    model, noise = dummy_model(), noise_for(steps)
    theirs, _ = run_diffusers(scheduler, model, noise, monkeypatch)
    plan = make_plan("consistency", schedules.karras(), steps, spacing=CM_LEVELS[steps])
    assert difference(run_ours(plan, model, noise), theirs) < rounding_bound(plan)


SCHEDULES: dict[str, tuple[Schedule, dict[str, Any]]] = {
    "linear": (schedules.linear(), {"beta_schedule": "linear"}),
    "scaled linear": (schedules.scaled_linear(1000, 1e-4, 0.02), {"beta_schedule": "scaled_linear"}),
    "cosine": (schedules.cosine(), {"beta_schedule": "squaredcos_cap_v2"}),
    "sigmoid": (schedules.sigmoid(), {"beta_schedule": "sigmoid"}),
    "custom betas": (
        schedules.from_betas(np.linspace(0.001, 0.1, 200)),
        {"trained_betas": np.linspace(0.001, 0.1, 200).tolist(), "num_train_timesteps": 200},
    ),
    "zero terminal SNR": (
        schedules.linear().rescale_zero_terminal_snr(),
        {"beta_schedule": "linear", "rescale_betas_zero_snr": True},
    ),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_diffusers_schedules(name: str) -> None:
    schedule, settings = SCHEDULES[name]
    scheduler = diffusers.DDPMScheduler(**settings)
    assert schedule.alphas_cumprod == pytest.approx(scheduler.alphas_cumprod.numpy(), abs=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [3, 7])
def test_ddpm_on_every_schedule_and_spacing(
    name: str, spacing: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step counts that do not divide the schedule; v prediction, so that zero terminal SNR can take part."""
    schedule, settings = SCHEDULES[name]
    scheduler = diffusers.DDPMScheduler(
        prediction_type="v_prediction", clip_sample=False, timestep_spacing=spacing, **settings
    )
    scheduler.set_timesteps(steps)
    model, noise = dummy_model(), noise_for(steps)
    theirs, timesteps = run_diffusers(scheduler, model, noise, monkeypatch)
    plan = make_plan("ddpm", schedule, steps, "v", spacing)
    assert plan.levels.t.tolist() == timesteps
    assert difference(run_ours(plan, model, noise), theirs) < TOLERANCE


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("variance", ["fixed_large", "learned_range"])
def test_our_last_row_draws_no_noise_where_diffusers_ddpm_does(variance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under trailing spacing its last timestep is not 0, so diffusers leaves noise in the finished sample."""
    scheduler = diffusers.DDPMScheduler(variance_type=variance, clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(4)
    model = dummy_model(6 if variance == "learned_range" else 3)
    clean, _ = run_diffusers(scheduler, model, noise_for(4), monkeypatch)
    noisy, _ = run_diffusers(scheduler, model, noise_for(4, last=1.0), monkeypatch)
    plan = make_plan("ddpm", schedules.linear(), 4, variance=variance)
    assert difference(noisy, clean) > 0.1
    assert difference(run_ours(plan, model, noise_for(4, last=1.0)), clean) < TOLERANCE


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("spacing", "steps"), [("linspace", 4), ("trailing", 7)])
def test_our_ddim_lands_on_its_next_timestep_where_diffusers_does_not(
    spacing: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers steps to t - T // N even where the next timestep is another.

    With x_0 = 0 always predicted, x is noise_scale[t] z at every call if the level told is the level reached.
    """
    schedule, noise = schedules.linear(), noise_for(steps)
    scheduler = diffusers.DDIMScheduler(prediction_type="sample", clip_sample=False, timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    plan = make_plan("ddim", schedule, steps, "x_0", spacing)
    first = float(schedule.noise_scale[int(plan.levels.t[0])])

    def reached(run: Callable[[Callable[[Tensor, float], Tensor]], Any]) -> float:
        errors = []

        def model(x_in: Tensor, t: float) -> Tensor:
            errors.append(difference(x_in, schedule.noise_scale[int(t)] / first * noise[0]))
            return torch.zeros_like(x_in)

        run(model)
        return max(errors)

    assert reached(lambda model: run_ours(plan, model, noise)) < TOLERANCE
    assert reached(lambda model: run_diffusers(scheduler, model, noise, monkeypatch)) > 1e-3


@pytest.mark.usefixtures("float64")
def test_our_euler_refuses_zero_terminal_snr_where_diffusers_replaces_it() -> None:
    """diffusers puts alphas_cumprod = 2^-24, sigma = 4096, in place of 0; DDIM does the step exactly."""
    scheduler = diffusers.EulerDiscreteScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    scheduler.set_timesteps(4)
    assert float(scheduler.sigmas[0]) == pytest.approx(4096, rel=1e-6)
    with pytest.raises(ValueError, match="sigma = inf"):
        make_plan("euler", schedules.linear().rescale_zero_terminal_snr(), 4, "v")
