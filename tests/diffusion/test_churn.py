"""Levels that rise: the churn of EDM's stochastic sampler, and Restart."""

from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from fewstep import schedules
from fewstep.diffusion.ladders import karras_sigmas
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import edm, edm_euler, euler, heun, make_plan
from fewstep.errors import ArgumentError
from support.diffusers_loops import TOLERANCE, difference, dummy_model, noise_for, run_diffusers, run_ours
from support.oracles import affine_moments, exact_maps, one_gaussian, slope_of

EYE = torch.eye(2, dtype=torch.float64)


def test_without_churn_edm_is_heun_and_euler_to_the_bit() -> None:
    levels = Levels.karras(6, time="sigma")
    assert edm(levels, "x_0").rows.tolist() == heun(levels, "x_0").rows.tolist()
    assert edm_euler(levels, "x_0").rows.tolist() == euler(levels, "x_0").rows.tolist()


def test_a_churn_asks_above_the_schedule_at_its_last_time() -> None:
    plan = make_plan("edm", schedules.linear(), 7, s_churn=40.0)
    assert plan.levels.sigmas[0] == pytest.approx(2**0.5 * schedules.linear().sigmas[-1])
    assert plan.levels.t[0] == 999
    assert plan.init_scale == pytest.approx(plan.levels.sigmas[0])


def test_a_churn_is_in_the_band_that_is_asked_for() -> None:
    plan = make_plan("edm_euler", schedules.karras(time="sigma"), 8, "x_0", s_churn=2.0, s_tmin=0.05, s_tmax=50.0)
    own = Levels.karras(8, time="sigma").sigmas[:-1]
    inside = (own >= 0.05) & (own <= 50)
    assert 0 < inside.sum() < 8
    assert plan.levels.sigmas[:-1] == pytest.approx(np.where(inside, 1.25 * own, own), rel=1e-12)
    with pytest.raises(ArgumentError, match=r"s_tmax: got 0.01; allowed: a number in \[0.05, inf\]"):
        make_plan("edm", schedules.karras(), 3, s_tmin=0.05, s_tmax=0.01)


@pytest.mark.parametrize(("build", "order"), [(edm, 2), (edm_euler, 1)], ids=["edm", "edm_euler"])
def test_with_churn_the_moments_of_a_gaussian_are_those_of_an_exact_run(build: Any, order: int) -> None:
    """At the solver's own order: the noise of a churn is exact. Without sampling, since every row is affine."""
    gaussian, counts, errors = one_gaussian(), [20, 40, 80], []
    for count in counts:
        sigmas = karras_sigmas(count + 1, 0.05, 20.0)
        plan = build(Levels(sigmas[:-1], np.ones(count + 1), sigmas, "ve", time="sigma"), "x_0", s_churn=4.0)
        start, end = (gaussian.covariance + sigma**2 * EYE for sigma in (plan.levels.sigmas[0], 0.05))
        mean, covariance = affine_moments(plan, exact_maps(gaussian, plan), gaussian.mean, start)
        assert float((mean - gaussian.mean).abs().max()) < 1e-10
        errors.append(float((covariance - end).norm()))
    print(f"order {(slope := slope_of(errors, counts)):.2f}; off by {', '.join(f'{error:.1e}' for error in errors)}")
    assert slope > order - 0.25


@pytest.mark.usefixtures("float64")
def test_our_network_is_asked_at_the_raised_level_where_that_of_diffusers_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """diffusers' Euler calls it before the noise is added, at the level below, and uses the answer above."""
    scheduler = diffusers.EulerDiscreteScheduler(use_karras_sigmas=True, interpolation_type="linear")
    scheduler.set_timesteps(4)
    asked, model, noise = [], dummy_model(), noise_for(4, last=1.0)
    theirs, _ = run_diffusers(scheduler, lambda x, t: asked.append(t) or model(x, t), noise, monkeypatch, s_churn=1.0)
    schedule = schedules.linear(1000, 1e-4, 0.02)
    plan = make_plan("edm_euler", schedule, 4, spacing="karras", s_churn=1.0)
    assert asked == pytest.approx(make_plan("euler", schedule, 4, spacing="karras").levels.t, abs=1e-9)
    assert (plan.levels.t[1:] > np.array(asked[1:])).all()
    assert difference(run_ours(plan, model, noise), theirs) > 1e-3 > TOLERANCE


def falling(start: float, end: float, steps: int) -> np.ndarray:
    """[steps] levels at equal ratios, of which a next one would be the end."""
    return start * (end / start) ** (np.arange(steps) / steps)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_restart_is_a_row_that_lands_where_it_rises_to(times: int) -> None:
    """Xu et al., Restart Sampling (2306.14878), algorithm 1: from a low level noise leads back to a high one.

    x = x + sqrt(high^2 - low^2) z, and the ODE is followed down again. With the exact denoiser of a Gaussian the end is
    right however often that is done, and each time leaves less of an error that was there before.
    """
    high, low, steps = 3.0, 0.3, 100
    fall = falling(high, low, steps)
    ratio = np.append(fall[1:], low) / fall
    count = steps * (1 + times)
    levels = Levels(
        np.tile(fall, 1 + times), np.ones(count + 1), np.append(np.tile(fall, 1 + times), low), "ve", time="sigma"
    )
    s = np.zeros(count)
    s[steps - 1 : -1 : steps] = np.sqrt(high**2 - low**2)
    a = np.tile(ratio, 1 + times)
    plan = Plan.build("restart", "x_0", levels, a=a, b=1 - a, s=s)
    assert plan.levels.sigmas[steps] == high

    gaussian = one_gaussian()
    start, end = (gaussian.covariance + sigma**2 * EYE for sigma in (high, low))
    maps = exact_maps(gaussian, plan)
    mean, covariance = affine_moments(plan, maps, gaussian.mean, start)
    assert float((mean - gaussian.mean).abs().max()) < 1e-10
    assert float((covariance - end).abs().max()) < 2 / steps
    off = [
        float((affine_moments(each, maps[: len(each)], gaussian.mean, 3 * start)[1] - end).abs().max())
        for each in (euler(Levels(fall, np.ones(steps + 1), np.append(fall, low), "ve", time="sigma"), "x_0"), plan)
    ]
    assert off[1] < 0.5 * off[0]
