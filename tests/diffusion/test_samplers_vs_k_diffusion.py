"""Whole loops against k-diffusion on Karras and exponential sigmas, in float64: same denoiser, same noise."""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import edm, edm_euler, euler, euler_ancestral, heun, kdpm2
from support.diffusers_loops import TOLERANCE, difference, draw, dummy_model, run_ours
from support.k_diffusion import samplers

LEVELS = (1, 2, 3, 4, 8, 20)
LADDERS = {
    "karras": (Levels.karras, "get_sigmas_karras"),
    "exponential": (Levels.exponential, "get_sigmas_exponential"),
}


@pytest.fixture(scope="module")
def theirs() -> ModuleType:
    return samplers()


class Drawing:
    """torch, whose next random numbers are given."""

    def __init__(self, noise: Iterator[Tensor]) -> None:
        self.randn_like = lambda _: next(noise)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
    return dummy_model()(x, float(sigma[0]))


def levels_of(ladder: str, count: int, theirs: ModuleType) -> tuple[Levels, Tensor]:
    """The same ladder of both, from 80 to 0.02; k-diffusion's of one level is its upper end too."""
    ours, name = LADDERS[ladder]
    levels = ours(count, 0.02, 80.0, time="sigma")
    sigmas = getattr(theirs, name)(count, 0.02, 80.0)
    assert levels.sigmas == pytest.approx(sigmas.numpy(), rel=1e-12, abs=0)
    return levels, sigmas


def calls_of(plan: Plan, noise: list[Tensor]) -> list[Tensor]:
    """The noise of the start and of each step, given to the rows that end one."""
    per_step = iter(noise)
    start, zero = next(per_step), torch.zeros_like(noise[0])
    return [start, *(next(per_step) if s != 0 else zero for s in plan.column("s"))]


DETERMINISTIC: dict[str, tuple[Callable[..., Plan], str]] = {
    "euler": (euler, "sample_euler"),
    "heun": (heun, "sample_heun"),
    "kdpm2": (kdpm2, "sample_dpm_2"),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("count", LEVELS)
@pytest.mark.parametrize("ladder", LADDERS)
@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_solvers_of_the_ode_are_k_diffusions(sampler: str, ladder: str, count: int, theirs: ModuleType) -> None:
    build, name = DETERMINISTIC[sampler]
    levels, sigmas = levels_of(ladder, count, theirs)
    plan = build(levels, "x_0")
    noise = calls_of(plan, draw(1))
    expected = getattr(theirs, name)(denoiser, 80.0 * noise[0], sigmas, disable=True)
    assert difference(run_ours(plan, dummy_model(), noise), expected) < TOLERANCE


ANCESTRAL: dict[str, tuple[Callable[..., Plan], str]] = {
    "euler_ancestral": (euler_ancestral, "sample_euler_ancestral"),
    "kdpm2": (kdpm2, "sample_dpm_2_ancestral"),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("count", LEVELS)
@pytest.mark.parametrize("ladder", LADDERS)
@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("sampler", ANCESTRAL)
def test_ancestral_samplers_are_k_diffusions(
    sampler: str, eta: float, ladder: str, count: int, theirs: ModuleType
) -> None:
    build, name = ANCESTRAL[sampler]
    levels, sigmas = levels_of(ladder, count, theirs)
    noise = draw(count)
    fresh = iter(noise[1:])
    expected = getattr(theirs, name)(
        denoiser, 80.0 * noise[0], sigmas, eta=eta, noise_sampler=lambda *_: next(fresh), disable=True
    )
    plan = build(levels, "x_0", eta=eta)
    assert difference(run_ours(plan, dummy_model(), calls_of(plan, noise)), expected) < TOLERANCE


STOCHASTIC: dict[str, tuple[Callable[..., Plan], str]] = {
    "edm": (edm, "sample_heun"),
    "edm_euler": (edm_euler, "sample_euler"),
}
CHURNS: dict[str, dict[str, float]] = {
    "none": {},
    "everywhere": {"s_churn": 1.0},
    "as much as can be": {"s_churn": 40.0, "s_noise": 1.003},
    "in the middle": {"s_churn": 4.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.007},
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("count", LEVELS)
@pytest.mark.parametrize("churn", CHURNS)
@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_edms_stochastic_samplers_are_k_diffusions(
    sampler: str, churn: str, count: int, theirs: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The noise of the first churn is one with the start: theirs is given in two parts what ours is in one."""
    build, name = STOCHASTIC[sampler]
    levels, sigmas = levels_of("karras", count, theirs)
    noise = draw(count + 1)
    monkeypatch.setattr(theirs, "torch", Drawing(iter(noise[1:])))
    expected = getattr(theirs, name)(denoiser, 80.0 * noise[0], sigmas, disable=True, **CHURNS[churn])

    plan = build(levels, "x_0", **CHURNS[churn])
    added = (plan.init_scale**2 - 80.0**2) ** 0.5
    start = (80.0 * noise[0] + added * noise[1]) / plan.init_scale
    steps = plan.column("s")[1::2] if sampler == "edm" else plan.column("s")[:-1]
    fresh = [z for z, s in zip(noise[2:], steps, strict=True) if s != 0]
    assert difference(run_ours(plan, dummy_model(), calls_of(plan, [start, *fresh])), expected) < TOLERANCE
