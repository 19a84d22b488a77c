"""Nothing is NaN or black: every sampler at 1 to 50 steps, on every schedule, spacing and prediction.

Each plan is either refused by an error that names what is allowed, or taken through a run on one Gaussian with the
exact denoiser, whose end is known without sampling since every row is affine. From the right start the mean is right
at any number of steps, to rounding: a black picture, or one too bright, has another. The variance is bounded.
"""

from collections.abc import Iterable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep import ArgumentError, schedules
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import SAMPLERS, build_plan
from fewstep.diffusion.schedules import Schedule
from fewstep.diffusion.spacings import LEVEL_OPTIONS
from fewstep.diffusion.times import OF_SIGMA
from support.oracles import affine_run

MEAN, VARIANCE = 1.0, 0.25  # of the one number that is sampled

SCHEDULES = {
    "linear": schedules.linear(),
    "scaled_linear": schedules.scaled_linear(),
    "cosine": schedules.cosine(),
    "sigmoid": schedules.sigmoid(),
    "linear, zero terminal SNR": schedules.linear().rescale_zero_terminal_snr(),
    "scaled_linear, zero terminal SNR": schedules.scaled_linear().rescale_zero_terminal_snr(),
    "flow": schedules.flow(),
    "flow, shift 3": schedules.flow(shift=3.0),
    "flow, shift 12": schedules.flow(shift=12.0),
    "flow, shift 0.3": schedules.flow(shift=0.3),
    "karras": schedules.karras(100),
    "exponential": schedules.exponential(100),
    "trigflow": schedules.trigflow(),
    "linear, preconditioned": schedules.linear().preconditioned(0.5),
    "karras, preconditioned": schedules.karras(100, time="edm").preconditioned(0.5),
}
SPACINGS = tuple(LEVEL_OPTIONS)


def exact_answers(plan: Plan) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(M, c) of m = M x_in + c in each row, such that k_x x + k_m m is E[x_0 | x]; where k_m = 0 it does not matter."""
    maps = []
    for i, (c_in, k_x, k_m) in enumerate(zip(*(plan.column(name) for name in ("c_in", "k_x", "k_m")), strict=True)):
        signal, noise = plan.levels.signal_scale[i], plan.levels.noise_scale[i]
        gain = signal * VARIANCE / (signal**2 * VARIANCE + noise**2)
        says = ((gain - k_x) / k_m / c_in, (MEAN - gain * signal * MEAN) / k_m) if k_m != 0 else (0.0, 0.0)
        maps.append((torch.tensor([[says[0]]]).double(), torch.tensor([says[1]]).double()))
    return maps


def end_of(plan: Plan) -> dict[str, float]:
    """Where a run ends, in units of what is right there: from the right start, and from init_scale z."""
    linear, offset, noise = (float(each) for each in affine_run(plan, exact_answers(plan)))
    signal, scale = plan.levels.signal_scale, plan.levels.noise_scale
    start = signal[0] ** 2 * VARIANCE + scale[0] ** 2
    right = signal[-1] ** 2 * VARIANCE + scale[-1] ** 2
    return {
        "mean": (linear * signal[0] * MEAN + offset) / (signal[-1] * MEAN),
        "variance": (linear**2 * start + noise) / right,
        "mean from z": offset / (signal[-1] * MEAN),
        "variance from z": (linear**2 * plan.init_scale**2 + noise) / right,
    }


def judge(plan: Plan) -> None:
    """The mean of every plan of a solver; the variance of those whose steps are not too long for their method.

    A step of high order overshoots where the noise falls to a small part: Heun's from sigma = 80 to 0.002 leaves it at
    80. One of first order never does. A model that is no denoiser has wide bounds.
    """
    order, sigmas = SAMPLERS[plan.sampler].order, plan.levels.sigmas
    if not np.isfinite(sigmas[-1]) or (plan.wasted and not order):
        return  # it lands, as asked, where nothing but noise is; or has a call where its model says nothing, and warns
    noisy = sigmas[sigmas > 0]
    end, short = end_of(plan), all((noisy[:-calls] < 4 * noisy[calls:]).all() for calls in (1, 2))
    said = f"{end}\n{plan.describe()}"
    assert np.isfinite(list(end.values())).all(), said
    assert abs(end["mean"] - 1) < 1e-9 * max(1, end["variance"]) if order else 0.1 < end["mean"] < 5, said
    assert abs(end["mean from z"]) < (1.5 if order else 5), said
    if order < 2 or short:
        most = {0: 20.0, 1: 1.5}.get(order, 2.0)
        assert 0 <= end["variance"] < most, said
        assert 0 <= end["variance from z"] < 4 * most, said
    if order and short and len(plan) >= 10 and noisy[-1] < 0.3:  # the last call is made where the data can be told
        assert end["variance"] > 0.1, said


def plan_or_refusal(name: str, schedule: Schedule, steps: int, **how: Any) -> Plan | ArgumentError:
    """A plan of exactly these steps, or why there is none."""
    try:
        plan = build_plan(name, schedule, steps, **how)
    except ArgumentError as error:
        return error
    assert len(plan) == steps
    return plan


def judge_all(name: str, cases: Iterable[tuple[str, str, str, int]]) -> str:
    """Judge the plans of all cases: schedule, spacing, prediction and steps."""
    plans = [
        plan_or_refusal(name, SCHEDULES[schedule], steps, prediction=prediction, spacing=spacing)
        for schedule, spacing, prediction, steps in cases
    ]
    found = [plan for plan in plans if isinstance(plan, Plan)]
    for plan in found:
        judge(plan)
    refusals = [str(plan) for plan in plans if isinstance(plan, ArgumentError)]
    assert all("; allowed: " in refusal for refusal in refusals)
    assert found
    return f"{len(found)} plans, {len(refusals)} refused"


@pytest.mark.slow
@pytest.mark.parametrize(("turn", "name"), list(enumerate(SAMPLERS)), ids=SAMPLERS)
def test_nothing_is_black(turn: int, name: str) -> None:
    """Half of the schedules and spacings, with all predictions and steps; the next sampler has the other half."""
    predictions, pairs = SAMPLERS[name].predictions, list(product(SCHEDULES, SPACINGS))
    half = enumerate(pairs[turn % 2 :: 2])
    print(judge_all(name, ((*pair, predictions[i % len(predictions)], 1 + i * 7 % 50) for i, pair in half)))


@pytest.mark.long
@pytest.mark.parametrize("name", SAMPLERS)
def test_nothing_is_black_anywhere(name: str) -> None:
    """Every schedule with every spacing at every fifth number of steps, each pair with others, and every prediction."""
    predictions, pairs = SAMPLERS[name].predictions, list(product(SCHEDULES, SPACINGS))
    cases = [(*pair, steps) for turn, pair in enumerate(pairs) for steps in range(1 + turn % 5, 51, 5)]
    print(judge_all(name, ((*case[:2], predictions[i % len(predictions)], case[2]) for i, case in enumerate(cases))))


COUNTS = st.integers(1, 1000)
BETAS = {"beta_start": st.floats(1e-6, 0.01), "beta_end": st.floats(0.01, 0.5)}
SIGMAS = {"sigma_min": st.floats(1e-4, 0.1), "sigma_max": st.floats(1.0, 1000.0), "time": st.sampled_from(OF_SIGMA)}
ANY_SCHEDULE = st.one_of(
    *(st.builds(make, COUNTS, **BETAS) for make in (schedules.linear, schedules.scaled_linear, schedules.sigmoid)),
    st.builds(schedules.cosine, COUNTS, max_beta=st.floats(0.1, 0.999)),
    *(st.builds(make, COUNTS, **SIGMAS) for make in (schedules.karras, schedules.exponential)),
    st.builds(schedules.flow, COUNTS, shift=st.floats(0.05, 20.0)),
    st.builds(schedules.trigflow, COUNTS, sigma_data=st.floats(0.1, 2.0)),
)


@st.composite
def any_case(draw: st.DrawFn) -> tuple[str, Schedule, int, dict[str, Any]]:
    name = draw(st.sampled_from(list(SAMPLERS)))
    schedule, spacing = draw(ANY_SCHEDULE), draw(st.sampled_from(SPACINGS))
    if schedule.kind == "vp" and len(schedule) > 1 and draw(st.booleans()):
        schedule = schedule.rescale_zero_terminal_snr()
    elif schedule.kind != "trig" and draw(st.booleans()):
        schedule = schedule.preconditioned(draw(st.floats(0.1, 2.0)))
    how = {
        "spacing": spacing,
        "prediction": draw(st.sampled_from(SAMPLERS[name].predictions)),
        "strength": draw(st.sampled_from([1.0, 0.8, 0.3, 0.01])),
    }
    if "final" in LEVEL_OPTIONS[spacing]:
        how["final"] = draw(st.sampled_from(["clean", "first"]))
    return name, schedule, draw(st.integers(1, 50)), how


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@given(any_case())
@settings(max_examples=300)
def test_nothing_is_black_on_any_schedule(case: tuple[str, Schedule, int, dict[str, Any]]) -> None:
    name, schedule, steps, how = case
    plan = plan_or_refusal(name, schedule, steps, **how)
    if isinstance(plan, ArgumentError):
        assert "; allowed: " in str(plan)
    else:
        judge(plan)
