"""The multistep samplers against diffusers' schedulers, whole loops: same model, same noise, in float64.

Where diffusers rounds the times of Karras or exponential sigmas to whole timesteps, its network is told ours, which
are not rounded; all else is compared as it is. The last tests name what diffusers does that we do not.
"""

import math
from collections.abc import Callable
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
from support.diffusers_loops import (
    PREDICTIONS,
    SHAPE,
    TOLERANCE,
    difference,
    dummy_model,
    noise_for,
    run_diffusers_as_told,
    run_ours,
)
from support.oracles import slope_of
from support.pairwise import pairwise
from support.plan_interpreter import run_plan

STEPS = (1, 2, 3, 4, 8, 20)
LADDERS = ("karras", "exponential")
SPACINGS = ("leading", "trailing", "linspace", *LADDERS)
THRESHOLD = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.5}
SDE = {"algorithm_type": "sde-dpmsolver++"}
SCALED = schedules.scaled_linear()
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore:.*__array:DeprecationWarning"),  # diffusers' own, of numpy 2
    pytest.mark.filterwarnings("ignore:.*changes nothing"),  # where diffusers' DEIS ends on its own level
]


def told(spacing: str, prediction: str, final: str = "clean", clip: bool = False) -> dict[str, Any]:
    """What most schedulers are told."""
    spaced = {f"use_{spacing}_sigmas": True} if spacing in LADDERS else {"timestep_spacing": spacing}
    ends = {} if final == "clean" else {"final_sigmas_type": "sigma_min"}
    return BETAS | spaced | ends | {"prediction_type": PREDICTIONS[prediction]} | threshold(clip)


def threshold(clip: bool) -> dict[str, Any]:
    return THRESHOLD if clip else {}


def our_clip(clip: bool) -> Clip | None:
    return Clip(1.5, 0.9) if clip else None


def plan_at(scheduler: Any, sampler: str, spacing: str, prediction: str, **own: Any) -> Plan:
    """Our plan at the timesteps of a scheduler that leaves out the last of N + 1 leading or linspace ones."""
    timesteps = scheduler.timesteps.tolist()
    return make_plan(sampler, SCALED, len(timesteps), prediction, spacing if spacing in LADDERS else timesteps, **own)


def same(plan: Plan, scheduler: Any, **step: Any) -> bool:
    model, noise = dummy_model(), noise_for(len(plan))
    ours, theirs = run_ours(plan, model, noise), run_diffusers_as_told(scheduler, plan, model, noise, **step)
    return difference(ours, theirs) < TOLERANCE


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
    """Where it ends short of clean, its SDE draws noise in the last step, and exponential sigmas make it NaN."""
    final = "clean" if sampler.endswith("sde") or spacing == "exponential" else final
    own = {"solver_type": solver_type, "lower_order_final": lower, "euler_at_final": euler}
    settings = {"solver_order": 3 if "3m" in sampler else 2} | (SDE if sampler.endswith("sde") else {})
    scheduler = diffusers.DPMSolverMultistepScheduler(**told(spacing, prediction, final, clip), **own, **settings)
    scheduler.set_timesteps(steps)
    plan = plan_at(scheduler, sampler, spacing, prediction, final=final, clip=our_clip(clip), **own)
    assert same(plan, scheduler)


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
    """It is not finite at order 2 where it lands clean or on its own level, nor with bh1 where clean; one step that
    ends short of clean on a ladder goes nowhere."""
    final = "first" if solver_type == "bh1" else final
    steps = 2 if spacing in LADDERS and steps == 1 else steps
    lower = lower or final == "clean" or spacing in LADDERS
    own = {"solver_type": solver_type, "lower_order_final": lower}
    scheduler = diffusers.UniPCMultistepScheduler(**told(spacing, prediction, final, clip), **own, solver_order=order)
    scheduler.set_timesteps(steps)
    plan = plan_at(scheduler, "unipc", spacing, prediction, final=final, clip=our_clip(clip), order=order, **own)
    assert plan.closed == (plan.history > 0)
    assert same(plan, scheduler)


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
def test_deis_is_diffusers_deis(steps: int, prediction: str, spacing: str, clip: bool, lower: bool, order: int) -> None:
    """It ends at the schedule's first level; one step on a ladder goes nowhere."""
    steps = 2 if spacing in LADDERS and steps == 1 else steps
    scheduler = diffusers.DEISMultistepScheduler(
        **told(spacing, prediction, clip=clip), lower_order_final=lower, solver_order=order
    )
    scheduler.set_timesteps(steps)
    own = {"order": order, "lower_order_final": lower, "clip": our_clip(clip)}
    assert same(plan_at(scheduler, "deis", spacing, prediction, final="first", **own), scheduler)


@pytest.mark.parametrize(
    ("steps", "prediction", "spacing", "order"),
    pairwise(steps=STEPS, prediction=tuple(PREDICTIONS), spacing=SPACINGS, order=(1, 2, 3, 4)),
)
def test_lms_is_diffusers_lms(steps: int, prediction: str, spacing: str, order: int) -> None:
    """One step of its linspace, on which its ladders stand too, is at timestep 0."""
    spacing = "trailing" if steps == 1 and spacing not in ("leading", "trailing") else spacing
    scheduler = diffusers.LMSDiscreteScheduler(**told(spacing, prediction))
    scheduler.set_timesteps(steps)
    plan = make_plan("lms", SCALED, steps, prediction, spacing, order=order)
    assert plan.levels.t == pytest.approx(scheduler.timesteps.tolist(), abs=1e-9)
    assert plan.init_scale == pytest.approx(float(scheduler.init_noise_sigma), rel=1e-12)
    assert same(plan, scheduler, order=order)


@pytest.mark.parametrize(
    ("levels", "prediction", "spacing", "final"),
    pairwise(levels=STEPS, prediction=("eps", "v"), spacing=("leading", "trailing"), final=("clean", "first")),
)
def test_plms_is_diffusers_pndm(levels: int, prediction: str, spacing: str, final: str) -> None:
    """N noise levels are N + 1 calls. From 3 trailing timesteps it does not step to the next."""
    levels = 5 if (levels, spacing) == (3, "trailing") else levels
    leading = spacing == "leading"
    scheduler = diffusers.PNDMScheduler(
        **BETAS,
        skip_prk_steps=True,
        set_alpha_to_one=final == "clean",
        prediction_type=PREDICTIONS[prediction],
        timestep_spacing=spacing,
        steps_offset=int(leading),
    )
    scheduler.set_timesteps(levels)
    own = {"final": final, "combined": "m"} | ({"offset": 1} if leading else {})
    plan = make_plan("plms", SCALED, levels + (levels > 1), prediction, spacing, **own)
    assert plan.levels.t.tolist() == scheduler.timesteps.tolist()
    assert same(plan, scheduler)


@pytest.mark.parametrize(
    ("steps", "prediction", "spacing", "clip", "sampler", "solver_type"),
    pairwise(
        steps=STEPS,
        prediction=("edm", "v"),
        spacing=LADDERS,
        clip=(False, True),
        sampler=("dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde"),
        solver_type=("midpoint", "heun"),
    ),
)
def test_dpmpp_is_diffusers_edm_dpm_solver_multistep(
    steps: int, prediction: str, spacing: str, clip: bool, sampler: str, solver_type: str
) -> None:
    """Its one exponential sigma is the lowest."""
    spacing = "karras" if steps == 1 else spacing
    scheduler = diffusers.EDMDPMSolverMultistepScheduler(
        sigma_schedule=spacing,
        solver_order=3 if "3m" in sampler else 2,
        prediction_type="epsilon" if prediction == "edm" else "v_prediction",
        solver_type=solver_type,
        **(SDE if sampler.endswith("sde") else {}),
        **threshold(clip),
    )
    scheduler.set_timesteps(steps)
    schedule = schedules.karras(40, time="edm").preconditioned(0.5)
    plan = make_plan(sampler, schedule, steps, prediction, spacing, solver_type=solver_type, clip=our_clip(clip))
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
    """Its flow begins just below pure noise. DEIS ends with a call for nothing."""
    kind, settings = FLOWS[sampler]
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift}
    scheduler = kind(**flow, **settings, **threshold(clip))
    scheduler.set_timesteps(steps)
    sigmas = scheduler.sigmas.numpy()
    levels = Levels(1000 * sigmas[:-1], 1 - sigmas, sigmas, "flow")
    assert same(SAMPLERS[sampler].build(levels, "flow", clip=our_clip(clip)), scheduler)


ZERO_SNR = [name for name in FLOWS if name != "deis"]  # which has no such setting


@pytest.mark.parametrize(("sampler", "steps"), pairwise(sampler=ZERO_SNR, steps=STEPS))
def test_near_zero_terminal_snr_they_are_diffusers(sampler: str, steps: int) -> None:
    """It puts alphas_cumprod = 2^-24 in place of 0."""
    kind, settings = FLOWS[sampler]
    own = told("trailing", "v") | {"rescale_betas_zero_snr": True} | settings
    scheduler = kind(**own)
    scheduler.set_timesteps(steps)
    assert float(scheduler.alphas_cumprod[-1]) == 2**-24
    schedule = schedules.from_alphas_cumprod(scheduler.alphas_cumprod.numpy())
    assert same(make_plan(sampler, schedule, steps, "v"), scheduler)


# What diffusers does that we do not.

ZERO = SCALED.rescale_zero_terminal_snr()


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_3m", "deis", "unipc"])
def test_at_zero_terminal_snr_ours_is_the_limit_of_less_and_less_signal(sampler: str) -> None:
    """The first answer is infinitely far from the second on the axis of ln sigma, so the slope between them is 0: two
    steps of DDIM, of which UniPC corrects the first. The limit is slow, as 1 / ln sigma."""
    plan = make_plan(sampler, ZERO, 8, "v")
    assert bool(run_ours(plan, dummy_model(), noise_for(8)).isfinite().all())
    if sampler != "unipc":
        ours, theirs = (moved(each) for each in (plan, ddim(plan.levels, "v")))
        assert np.abs(ours[:2] - theirs[:2]).max() < 1e-12
    apart = []
    for signal in (1e-4, 1e-16, 1e-64):
        near = schedules.from_alphas_cumprod(np.append(ZERO.alphas_cumprod[:-1], signal**2))
        apart.append(float(np.abs(moved(make_plan(sampler, near, 8, "v")) - moved(plan)).max()))
    print(f"{sampler}: the rows differ by {apart}")
    assert apart[2] < 0.3 * apart[1] < 0.3 * apart[0]


def moved(plan: Plan) -> Any:
    """[N, 4] what each row makes of x, this m and the two values before, with all else 0."""
    a, b, e, k_x, k_m, c_1, c_2 = (plan.column(name) for name in ("a", "b", "e", "k_x", "k_m", "c_1", "c_2"))
    return np.stack([a + b * k_x, e + b * k_m, c_1, c_2], axis=1)


def test_unipc_bh1_has_no_limit_at_zero_terminal_snr() -> None:
    assert len(make_plan("unipc", ZERO, 1, "v", solver_type="bh1")) == 1
    with pytest.raises(ArgumentError, match="solver_type: got 'bh1'; allowed: bh2"):
        make_plan("unipc", ZERO, 4, "v", solver_type="bh1")


@pytest.mark.parametrize(("sampler", "steps"), [("plms", 5), ("lms", 4)])
def test_plms_and_lms_refuse_zero_terminal_snr(sampler: str, steps: int) -> None:
    with pytest.raises(ArgumentError, match="sigma = inf; allowed: levels with some signal; ddim"):
        make_plan(sampler, ZERO, steps, "v")


@pytest.mark.parametrize("own", [{"solver_type": "bh1"}, {"lower_order_final": False}], ids=["bh1", "order 2"])
def test_unipc_lands_clean_where_diffusers_is_not_finite(own: dict[str, Any]) -> None:
    """The length of the last step in ln sigma is infinite there: it is multiplied, or divides."""
    scheduler = diffusers.UniPCMultistepScheduler(**told("trailing", "eps"), **own)
    scheduler.set_timesteps(4)
    plan, model, noise = make_plan("unipc", SCALED, 4, **own), dummy_model(), noise_for(4)
    assert not run_diffusers_as_told(scheduler, plan, model, noise).isfinite().any()
    assert bool(run_ours(plan, model, noise).isfinite().all())


def test_dpmpp_ends_twice_at_the_last_sigma_where_diffusers_is_nan() -> None:
    """Its last step has no length there, and it divides 0 by it."""
    own: dict[str, Any] = {"solver_type": "heun"}
    scheduler = diffusers.DPMSolverMultistepScheduler(**told("exponential", "eps", "first"), **own)
    scheduler.set_timesteps(20)
    scheduler.sigmas[-1] = scheduler.sigmas[-2]  # as they are, up to the rounding of exp(log(sigma))
    plan = plan_at(scheduler, "dpmpp_2m", "exponential", "eps", final="first", **own)
    model, noise = dummy_model(), noise_for(20)
    assert bool(run_diffusers_as_told(scheduler, plan, model, noise).isnan().all())
    assert bool(run_ours(plan, model, noise).isfinite().all())


def test_one_step_begins_at_the_noisiest_level_where_diffusers_begins_elsewhere() -> None:
    lms = diffusers.LMSDiscreteScheduler(**told("linspace", "eps"))
    lms.set_timesteps(1)
    assert lms.timesteps.tolist() == [0]
    assert make_plan("lms", SCALED, 1, "eps", "linspace").levels.t.tolist() == [999]

    edm = diffusers.EDMDPMSolverMultistepScheduler(sigma_schedule="exponential")
    edm.set_timesteps(1)
    assert edm.sigmas.tolist() == pytest.approx([0.002, 0])
    assert make_plan("dpmpp_2m", schedules.karras(), 1, "eps", "exponential").levels.sigmas.tolist() == [80, 0]

    deis = diffusers.DEISMultistepScheduler(**told("karras", "eps"))
    deis.set_timesteps(1)
    assert deis.sigmas[0] == deis.sigmas[1]
    assert make_plan("deis", SCALED, 1, "eps", "karras", final="first").levels.sigmas[1] == SCALED.sigmas[0]


def test_plms_lands_on_its_next_timestep_where_diffusers_does_not() -> None:
    """It steps to t - T // N. Where eps is z at every call and x_0 is 0, x is noise_scale z at the level reached."""
    scheduler = diffusers.PNDMScheduler(
        **BETAS, skip_prk_steps=True, timestep_spacing="trailing", set_alpha_to_one=True
    )
    scheduler.set_timesteps(7)
    plan, noise = make_plan("plms", SCALED, 8), noise_for(8)
    first = float(plan.levels.noise_scale[0])

    def furthest(run: Callable[[Callable[[Tensor, float], Tensor]], Any]) -> float:
        off: list[float] = []

        def model(x_in: Tensor, t: float) -> Tensor:
            off.append(difference(x_in, SCALED.noise_scale[int(t)] / first * noise[0]))
            return noise[0] / first

        run(model)
        return max(off)

    assert furthest(lambda model: run_ours(plan, model, noise)) < TOLERANCE
    assert furthest(lambda model: run_diffusers_as_told(scheduler, plan, model, noise)) > 1e-3


def test_dpmpp_3m_sde_has_order_2_where_diffusers_has_order_1() -> None:
    """It subtracts 1/2 where it has to add it in the weight of D_2, which is then -1 however short a step is.

    Here x_0 is a function of t alone, so the mean of the SDE is an integral; it is looked at halfway, where every
    number of steps has a call.
    """

    def halfway(steps: int) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []

        def model(x_in: Tensor, t: float) -> Tensor:
            if t == 499:
                seen.append(x_in)
            return torch.full_like(x_in, math.cos(t / 150))

        scheduler = diffusers.DPMSolverMultistepScheduler(**told("trailing", "x_0"), **SDE, solver_order=3)
        scheduler.set_timesteps(steps)
        plan = make_plan("dpmpp_3m_sde", SCALED, steps, "x_0")
        mean = [noise_for(1)[0], *[torch.zeros(SHAPE, dtype=torch.float64)] * steps]
        run_plan(plan, model, mean[0], mean[1:])
        run_diffusers_as_told(scheduler, plan, model, mean)
        ours, theirs = seen
        return ours, theirs

    counts, exact = [20, 40, 100], halfway(500)[0]
    ours, theirs = zip(*([difference(each, exact) for each in halfway(steps)] for steps in counts), strict=True)
    assert slope_of(list(ours), counts) > 1.75
    assert slope_of(list(theirs), counts) < 1.25
