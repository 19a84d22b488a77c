"""The multistep samplers against diffusers' schedulers, whole loops: same model, same noise, in float64.

Where diffusers rounds the times of Karras or exponential sigmas to whole timesteps, its network is told ours, which
are not rounded; all else is compared as it is. The last tests name what diffusers does that we do not.
"""

from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from fewstep import schedules
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import SAMPLERS, Clip, ddim, make_plan
from fewstep.errors import ArgumentError
from support.multistep_case import SHAPE, difference, flow_levels, in_float64, noise_for, run_diffusers, run_ours
from support.pairwise import pairwise

TOLERANCE = 1e-8
STEPS = (1, 2, 3, 4, 8, 20)
PREDICTIONS = {"eps": "epsilon", "x_0": "sample", "v": "v_prediction"}
SPACINGS = ("leading", "trailing", "linspace", "karras", "exponential")
THRESHOLD = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.5}
SDE = {"algorithm_type": "sde-dpmsolver++"}
SCALED = schedules.scaled_linear()
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def common(spacing: str, prediction: str, clip: bool, final: str) -> dict[str, Any]:
    """What most schedulers are told."""
    spaced = {f"use_{spacing}_sigmas": True} if spacing in SPACINGS[3:] else {"timestep_spacing": spacing}
    ends = {} if final == "clean" else {"final_sigmas_type": "sigma_min"}
    return BETAS | spaced | ends | (THRESHOLD if clip else {}) | {"prediction_type": PREDICTIONS[prediction]}


def plan_for(sampler: str, scheduler: Any, spacing: str, prediction: str, clip: bool, final: str, **own: Any) -> Plan:
    """Our plan at diffusers' levels: it leaves the last of N + 1 leading and linspace timesteps out."""
    steps = len(scheduler.timesteps)
    levels = spacing if spacing in SPACINGS[3:] else scheduler.timesteps.tolist()
    own = own | {"clip": Clip(1.5, 0.9) if clip else None, "final": final}
    return make_plan(sampler, SCALED, steps, prediction, levels, **own)


def same(plan: Plan, scheduler: Any) -> bool:
    noise = noise_for(len(plan))
    return difference(run_ours(plan, noise), run_diffusers(scheduler, plan, noise)) < TOLERANCE


@pytest.mark.parametrize(
    ("steps", "prediction", "spacing", "clip", "final", "solver_type", "lower", "euler", "sampler"),
    pairwise(
        steps=STEPS,
        prediction=tuple(PREDICTIONS),
        spacing=SPACINGS,
        clip=(False, True),
        final=("clean", "first"),
        solver_type=("midpoint", "heun"),
        lower=(True, False),
        euler=(False, True),
        sampler=("dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde"),
    ),
)
def test_dpmpp_is_diffusers_dpm_solver_multistep(
    steps: int,
    prediction: str,
    spacing: str,
    clip: bool,
    final: str,
    solver_type: str,
    lower: bool,
    euler: bool,
    sampler: str,
) -> None:
    """Where Karras or exponential sigmas would end twice at sigma_min, its heun is NaN; on an SDE it draws noise there."""
    if final == "first" and (spacing in SPACINGS[3:] or sampler.endswith("sde")):
        final = "clean"
    told = {"solver_type": solver_type, "lower_order_final": lower, "euler_at_final": euler}
    settings = {"solver_order": 3 if "3m" in sampler else 2} | (SDE if sampler.endswith("sde") else {})
    with in_float64(diffusers.DPMSolverMultistepScheduler):
        scheduler = diffusers.DPMSolverMultistepScheduler(
            **common(spacing, prediction, clip, final), **told, **settings
        )
        scheduler.set_timesteps(steps)
        assert same(plan_for(sampler, scheduler, spacing, prediction, clip, final, **told), scheduler)


@pytest.mark.parametrize(
    ("steps", "prediction", "spacing", "clip", "final", "solver_type", "lower", "order"),
    pairwise(
        steps=STEPS,
        prediction=tuple(PREDICTIONS),
        spacing=SPACINGS,
        clip=(False, True),
        final=("clean", "first"),
        solver_type=("bh2", "bh1"),
        lower=(True, False),
        order=(1, 2, 3),
    ),
)
def test_unipc_is_diffusers_unipc(
    steps: int, prediction: str, spacing: str, clip: bool, final: str, solver_type: str, lower: bool, order: int
) -> None:
    """Where a run lands clean, or twice at sigma_min, its last step has to be of order 1: else it is NaN."""
    lower = lower or final == "clean" or spacing in SPACINGS[3:]
    told = {"solver_type": solver_type, "lower_order_final": lower}
    with in_float64(diffusers.UniPCMultistepScheduler):
        scheduler = diffusers.UniPCMultistepScheduler(
            **common(spacing, prediction, clip, final), **told, solver_order=order
        )
        scheduler.set_timesteps(steps)
        assert same(plan_for("unipc", scheduler, spacing, prediction, clip, final, order=order, **told), scheduler)


@pytest.mark.parametrize(
    ("steps", "prediction", "spacing", "clip", "lower", "order"),
    pairwise(
        steps=STEPS,
        prediction=tuple(PREDICTIONS),
        spacing=SPACINGS,
        clip=(False, True),
        lower=(True, False),
        order=(1, 2, 3),
    ),
)
def test_deis_is_diffusers_deis(
    steps: int, prediction: str, spacing: str, clip: bool, lower: bool, order: int
) -> None:
    """It lands at the schedule's first level, by a call for nothing where its sigmas end there."""
    with in_float64(diffusers.DEISMultistepScheduler):
        scheduler = diffusers.DEISMultistepScheduler(
            **common(spacing, prediction, clip, "clean"), lower_order_final=lower, solver_order=order
        )
        scheduler.set_timesteps(steps)
        options = {"order": order, "lower_order_final": lower}
        assert same(plan_for("deis", scheduler, spacing, prediction, clip, "first", **options), scheduler)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("steps", "prediction", "spacing"), pairwise(steps=STEPS, prediction=tuple(PREDICTIONS), spacing=SPACINGS)
)
def test_lms_is_diffusers_lms(
    steps: int, prediction: str, spacing: str, order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {name: value for name, value in common(spacing, prediction, False, "clean").items()}
    with in_float64(diffusers.LMSDiscreteScheduler):
        scheduler = diffusers.LMSDiscreteScheduler(**settings)
        scheduler.set_timesteps(steps)
        plan = make_plan("lms", SCALED, steps, prediction, spacing, order=order)
        assert plan.levels.t == pytest.approx(scheduler.timesteps.tolist(), abs=1e-9)
        assert plan.init_scale == pytest.approx(float(scheduler.init_noise_sigma), rel=1e-12)
        step = scheduler.step
        monkeypatch.setattr(scheduler, "step", lambda *args, **named: step(*args, order=order, **named))
        assert same(plan, scheduler)


@pytest.mark.parametrize(
    ("levels", "prediction", "spacing", "final"),
    pairwise(levels=STEPS, prediction=("eps", "v"), spacing=("leading", "trailing"), final=("clean", "first")),
)
def test_plms_is_diffusers_pndm(levels: int, prediction: str, spacing: str, final: str) -> None:
    """N noise levels are N + 1 calls. 3 trailing timesteps are not where it steps to."""
    if (levels, spacing) == (3, "trailing"):
        levels = 5
    with in_float64(diffusers.PNDMScheduler):
        scheduler = diffusers.PNDMScheduler(
            **BETAS,
            skip_prk_steps=True,
            set_alpha_to_one=final == "clean",
            prediction_type=PREDICTIONS[prediction],
            timestep_spacing=spacing,
            steps_offset=int(spacing == "leading"),
        )
        scheduler.set_timesteps(levels)
        options = {"offset": 1} if spacing == "leading" else {}
        calls = levels + (levels > 1)
        plan = make_plan("plms", SCALED, calls, prediction, spacing, final=final, combined="m", **options)
        assert plan.levels.t.tolist() == scheduler.timesteps.tolist()
        assert same(plan, scheduler)


@pytest.mark.parametrize(
    ("steps", "prediction", "ladder", "clip", "sampler", "solver_type"),
    pairwise(
        steps=STEPS,
        prediction=("edm", "v"),
        ladder=("karras", "exponential"),
        clip=(False, True),
        sampler=("dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde"),
        solver_type=("midpoint", "heun"),
    ),
)
def test_dpmpp_is_diffusers_edm_dpm_solver_multistep(
    steps: int, prediction: str, ladder: str, clip: bool, sampler: str, solver_type: str
) -> None:
    with in_float64(diffusers.EDMDPMSolverMultistepScheduler):
        scheduler = diffusers.EDMDPMSolverMultistepScheduler(
            sigma_schedule=ladder,
            solver_order=3 if "3m" in sampler else 2,
            prediction_type="epsilon" if prediction == "edm" else "v_prediction",
            solver_type=solver_type,
            **(SDE if sampler.endswith("sde") else {}),
            **(THRESHOLD if clip else {}),
        )
        scheduler.set_timesteps(steps)
        schedule = schedules.karras(40, time="edm").preconditioned(0.5)
        own = {"solver_type": solver_type, "clip": Clip(1.5, 0.9) if clip else None}
        plan = make_plan(sampler, schedule, steps, prediction, ladder, **own)
        assert plan.levels.t == pytest.approx(scheduler.timesteps.tolist(), abs=1e-9)
        assert same(plan, scheduler)


FLOWS: dict[str, tuple[type, dict[str, Any]]] = {
    "dpmpp_2m": (diffusers.DPMSolverMultistepScheduler, {}),
    "dpmpp_3m": (diffusers.DPMSolverMultistepScheduler, {"solver_order": 3}),
    "dpmpp_2m_sde": (diffusers.DPMSolverMultistepScheduler, SDE),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
    "deis": (diffusers.DEISMultistepScheduler, {}),
}


@pytest.mark.parametrize(
    ("sampler", "steps", "shift", "clip"),
    pairwise(sampler=tuple(FLOWS), steps=STEPS, shift=(1.0, 3.0), clip=(False, True)),
)
def test_on_a_flow_they_are_diffusers_with_flow_sigmas(sampler: str, steps: int, shift: float, clip: bool) -> None:
    """Its flow begins just below pure noise, and DEIS ends where its last call is."""
    kind, settings = FLOWS[sampler]
    with in_float64(kind):
        scheduler = kind(
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=shift,
            **settings,
            **(THRESHOLD if clip else {}),
        )
        scheduler.set_timesteps(steps)
        plan = SAMPLERS[sampler].build(flow_levels(scheduler), "flow", clip=Clip(1.5, 0.9) if clip else None)
        assert same(plan, scheduler)


ZERO_SNR: dict[str, tuple[type, dict[str, Any]]] = {
    name: each for name, each in FLOWS.items() if each[0] is not diffusers.DEISMultistepScheduler
}


@pytest.mark.parametrize("sampler", ZERO_SNR)
@pytest.mark.parametrize("steps", STEPS)
def test_at_diffusers_stand_in_for_zero_terminal_snr_they_are_diffusers(sampler: str, steps: int) -> None:
    """diffusers puts alphas_cumprod = 2^-24 in place of 0."""
    kind, settings = ZERO_SNR[sampler]
    with in_float64(kind):
        scheduler = kind(
            rescale_betas_zero_snr=True,
            prediction_type="v_prediction",
            timestep_spacing="trailing",
            **settings,
        )
        scheduler.set_timesteps(steps)
        assert float(scheduler.alphas_cumprod[-1]) == 2**-24
        schedule = schedules.from_alphas_cumprod(scheduler.alphas_cumprod.numpy())
        assert same(make_plan(sampler, schedule, steps, "v", "trailing"), scheduler)


# What diffusers does that we do not.


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_3m", "unipc", "deis"])
def test_at_zero_terminal_snr_ours_is_the_limit(sampler: str) -> None:
    """The first answer is infinitely far from the second on the axis of ln sigma, so it has no part in its slope: two
    steps of DDIM, which UniPC corrects. The nearer the first level is to no signal, the nearer are the rows."""
    zero = schedules.linear().rescale_zero_terminal_snr()
    plan = make_plan(sampler, zero, 8, "v")
    first = ddim(plan.levels, "x_0")
    x_0 = first.column("b") + first.column("e")
    if sampler == "deis":  # the same step in other words, of x_0 and x
        assert plan.column("a")[:2] == pytest.approx(first.column("a")[:2], abs=1e-12)
    if sampler != "unipc":
        assert plan.column("b")[:2] == pytest.approx(x_0[:2], abs=1e-12)
        assert plan.column("c_1")[:2].tolist() == [0, 0]
    apart = []
    for signal in (1e-2, 1e-40, 1e-140):
        near = schedules.from_alphas_cumprod(np.append(zero.alphas_cumprod[:-1], signal**2))
        apart.append(float(np.abs(make_plan(sampler, near, 8, "v").rows[:, 6:] - plan.rows[:, 6:])[:, :8].max()))
    print(apart)
    assert apart[0] > 4 * apart[1] > 10 * apart[2]
    x, noise = torch.zeros(SHAPE, dtype=torch.float64), noise_for(8)
    assert bool(run_ours(plan, noise).isfinite().all())
    assert x.shape == noise[0].shape


def test_unipc_bh1_has_no_limit_at_zero_terminal_snr() -> None:
    zero = schedules.linear().rescale_zero_terminal_snr()
    assert len(make_plan("unipc", zero, 1, "v", solver_type="bh1")) == 1
    with pytest.raises(ArgumentError, match="solver_type: got 'bh1'; allowed: bh2"):
        make_plan("unipc", zero, 4, "v", solver_type="bh1")


@pytest.mark.parametrize("sampler", ["plms", "lms"])
def test_plms_and_lms_refuse_zero_terminal_snr(sampler: str) -> None:
    with pytest.raises(ArgumentError, match="sigma = inf; allowed: levels with some signal; ddim"):
        make_plan(sampler, schedules.linear().rescale_zero_terminal_snr(), 4, "v")
