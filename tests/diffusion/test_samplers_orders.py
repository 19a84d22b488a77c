"""The order that every sampler claims, measured: against the exact flow of a mixture, and by exact moments."""

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fewstep import schedules
from fewstep.diffusion.samplers import SAMPLERS, build_plan, make_plan
from fewstep.diffusion.schedules import Kind
from support.oracles import Mixture, affine_moments, exact_maps, exact_model, one_gaussian, slope_of, three_moons
from support.plan_interpreter import run_plan
from support.sampler_case import DETERMINISTIC, KINDS, NOISY, SIGMA_DATA, dense, dense_plan

COUNTS = [40, 80, 160]
MORE = [80, 160, 320]  # where a method of order 3 or 4 has come to its order
STARTS = torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@functools.cache
def exact_end() -> Tensor:
    """Where the flow of the mixture takes sigma z, at the end of the dense levels, in Karras time."""
    sigmas = dense("ve", 1).sigmas
    return three_moons().flow(float(sigmas[0]) * STARTS, float(sigmas[0]), float(sigmas[1]), substeps=400)


def end_of(name: str, kind: Kind, levels: int) -> Tensor:
    """Where the sampler takes the same start, in Karras time. Noise that it draws would be noticed."""
    plan = dense_plan(name, kind, levels)
    noise_scale, signal_scale = plan.levels.noise_scale[0], plan.levels.signal_scale[-1]
    model = exact_model(three_moons(), plan.levels, plan.prediction)
    return run_plan(plan, model, noise_scale * STARTS, [1e3 * STARTS] * len(plan)) / signal_scale


CASES = [(name, kind) for name in DETERMINISTIC for kind in KINDS if kind in SAMPLERS[name].kinds]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), CASES, ids=[f"{name}, {kind}" for name, kind in CASES])
def test_a_deterministic_sampler_has_the_order_it_claims(name: str, kind: Kind) -> None:
    order = SAMPLERS[name].order
    counts = COUNTS if order < 3 else MORE
    errors = [float((end_of(name, kind, levels) - exact_end()).norm(dim=1).mean()) for levels in counts]
    slope = slope_of(errors, counts)
    told = ", ".join(f"{count}: {error:.1e}" for count, error in zip(counts, errors, strict=True))
    print(f"{name}, {kind}: order {slope:.2f}, claimed {order}; {told}")
    assert slope > order - 0.4
    assert np.argmin(errors) == len(errors) - 1


SCHEDULES = {
    "vp": schedules.linear(),
    "flow": schedules.flow(shift=3.0),
    "ve": schedules.karras(100, time="sigma"),
    "trig": schedules.trigflow(),
}
TOLD = [(name, kind) for name in SAMPLERS for kind in SAMPLERS[name].kinds if len(SAMPLERS[name].predictions) > 1]


@pytest.mark.parametrize(("name", "kind"), TOLD, ids=[f"{name}, {kind}" for name, kind in TOLD])
def test_whatever_one_network_is_trained_to_say_the_run_is_the_same(name: str, kind: Kind) -> None:
    """From where some signal is left; with and without preconditioning."""
    schedule, ends = SCHEDULES[kind], []
    told = [(schedule, "eps"), *((schedule, each) for each in ("x_0", "v", "flow", "score"))] if kind != "trig" else []
    told += [(schedule.preconditioned(SIGMA_DATA), each) for each in ("edm", "v")]
    for each, prediction in told:
        plan = build_plan(name, each, 9, prediction, strength=0.9)
        model = exact_model(three_moons(), plan.levels, prediction)
        ends.append(run_plan(plan, model, plan.init_scale * STARTS, [STARTS] * 9))
    for (_, prediction), end in zip(told, ends, strict=True):
        assert float((end - ends[0]).abs().max()) < 1e-9, prediction


MOMENTS = [(name, options, kind) for name, options in NOISY for kind in SAMPLERS[name].kinds]


@pytest.mark.parametrize(
    ("name", "options", "kind"), MOMENTS, ids=[f"{name}, {options}, {kind}" for name, options, kind in MOMENTS]
)
def test_a_stochastic_sampler_has_the_moments_of_a_gaussian_at_its_order(
    name: str, options: dict[str, float], kind: Kind
) -> None:
    """Without sampling: every row is affine. The mean is right at any number of steps."""
    gaussian, errors = one_gaussian(), []
    eye = torch.eye(2, dtype=torch.float64)
    for levels in COUNTS:
        plan = dense_plan(name, kind, levels, **options)
        assert plan.stochastic
        signal, noise = plan.levels.signal_scale, plan.levels.noise_scale
        start, end = (signal[i] ** 2 * gaussian.covariance + noise[i] ** 2 * eye for i in (0, -1))
        mean, covariance = affine_moments(plan, exact_maps(gaussian, plan), signal[0] * gaussian.mean, start)
        assert float((mean / signal[-1] - gaussian.mean).abs().max()) < 1e-9
        errors.append(float((covariance - end).norm()) / signal[-1] ** 2)
    slope, order = slope_of(errors, COUNTS), SAMPLERS[name].order
    told = ", ".join(f"{count}: {error:.1e}" for count, error in zip(COUNTS, errors, strict=True))
    print(f"{name}, {options}, {kind}: order {slope:.2f}, claimed {order}; {told}")
    assert slope > order - 0.25


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), NOISY, ids=[f"{name}, {options}" for name, options in NOISY])
def test_samples_of_a_stochastic_sampler_have_the_moments_of_a_mixture(name: str, options: dict[str, float]) -> None:
    """And its shares: 8000 samples, whose mean and shares have standard errors below 0.01, and a chain of 40 levels."""
    mixture, generator, count, levels = three_moons(), torch.Generator().manual_seed(3), 8000, 40
    plan = dense_plan(name, "ve", levels, **options)
    first, last = plan.levels.sigmas[[0, -1]].tolist()
    noise = torch.randn(1 + len(plan), count, 2, generator=generator, dtype=torch.float64)
    start = mixture.sample(count, generator) + first * noise[0]
    x = run_plan(plan, exact_model(mixture, plan.levels, plan.prediction), start, noise[1:])
    mean = float((x.mean(0) - mixture.mean).abs().max())
    covariance = float((torch.cov(x.T) - mixture.covariance - last**2 * torch.eye(2)).abs().max())
    shares = float((mixture.responsibility(x, 1.0, last).mean(0) - mixture.weights).abs().max())
    print(f"{name}: mean off by {mean:.3f}, covariance by {covariance:.3f}, shares by {shares:.3f}")
    assert max(mean, covariance, shares) < 3 / levels


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("heun", {"spacing": "karras", "sigma_max": 80.0}),
        ("edm", {"sigma_max": 80.0}),
        ("plms", {"spacing": "leading"}),
    ],
    ids=["heun", "edm", "plms"],
)
def test_what_overshoots_from_the_first_sigma_of_a_cosine_schedule_has_levels_that_do_not(
    name: str, better: dict[str, Any]
) -> None:
    """As docs/samplers.md advises: the first levels are so far apart that the second call looks back over a cliff."""
    eye = torch.eye(2, dtype=torch.float64)
    unit, spread = Mixture(torch.ones(1).double(), 0 * eye[:1], eye[None]), []
    for options in ({}, better):
        plan = make_plan(name, schedules.cosine(), 21, **options)
        _, covariance = affine_moments(plan, exact_maps(unit, plan), 0 * eye[0], eye * plan.init_scale**2)
        spread.append(float(covariance[0, 0].sqrt()))
    assert spread[0] > 2
    assert spread[1] == pytest.approx(1, abs=0.15)
