"""The samplers against models whose answers are known exactly, in float64: no network, no other library."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fewstep import schedules
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import consistency, ddim, ddpm, euler, lcm, make_plan
from fewstep_kernels.row import COLUMN
from support.oracles import (
    Mixture,
    affine_moments,
    exact_denoiser_map,
    exact_flow_map,
    exact_model,
    one_gaussian,
    slope_of,
    three_moons,
)
from support.plan_interpreter import run_plan

CALLS = [20, 40, 80, 160, 320]
EYE = torch.eye(2, dtype=torch.float64)


def normal(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unread(x: Tensor, calls: int) -> list[Tensor]:
    """Noise that would be noticed, for plans that use none."""
    return [torch.full_like(x, 1e3)] * calls


def continuous_path(kind: str, calls: int) -> Levels:
    """Levels that fill the same range ever more densely: the limit is the differential equation."""
    if kind == "vp, even in t":
        return Levels.spaced(schedules.cosine(6400, max_beta=0.9), calls, "trailing")
    if kind == "karras":
        return Levels.karras(calls, 0.02, 20.0)
    return Levels.exponential(calls, 0.02, 20.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vp, even in t", "karras", "exponential"])
def test_ddim_converges_to_the_flow_of_a_mixture_at_order_1(kind: str) -> None:
    """The reference is RK4 in ln sigma, right to 1e-8: to sigma = 1e-4 on levels whose last call grows ever shorter, to
    sigma_min and through the same last call on the others."""
    mixture, z, errors = three_moons(), normal(128), []
    for calls in CALLS:
        levels = continuous_path(kind, calls)
        signal, noise = float(levels.signal_scale[0]), float(levels.noise_scale[0])
        if calls == CALLS[0]:
            if levels.kind == "vp":
                exact = mixture.flow(levels.init_scale * z / signal, noise / signal, 1e-4)
            else:
                exact = mixture.denoise(mixture.flow(levels.init_scale * z, noise, 0.02), 1.0, 0.02)
        plan = ddim(levels)
        x = run_plan(plan, exact_model(mixture, levels, "eps"), plan.init_scale * z, unread(z, calls))
        errors.append(float((x - exact).norm(dim=1).mean()))
    slope = slope_of(errors, CALLS)
    print(f"DDIM, {kind}: order {slope:.3f}; " + ", ".join(f"{n}: {e:.1e}" for n, e in zip(CALLS, errors, strict=True)))
    assert 0.9 < slope < 1.1
    assert errors[-1] < 0.01


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
@pytest.mark.parametrize("kind", ["vp", "flow"])
def test_deterministic_samplers_converge_to_the_flow_map_of_one_gaussian_at_order_1(sampler: str, kind: str) -> None:
    """The reference is the closed form, from pure noise (signal 0) on a flow schedule."""
    gaussian, z, errors = one_gaussian(), normal(64), []
    schedule = schedules.flow(6400) if kind == "flow" else schedules.cosine(6400, max_beta=0.9)
    for calls in CALLS:
        levels = Levels.spaced(schedule, calls, "trailing")
        signal, noise = float(levels.signal_scale[0]), float(levels.noise_scale[0])
        plan = {"ddim": ddim, "euler": euler}[sampler](levels, "v")
        x = z * plan.levels.noise_scale[0] / noise  # the same start, in the plan's own coordinates
        x = run_plan(plan, exact_model(gaussian, levels, "v"), x, unread(z, calls))
        linear, offset = exact_flow_map(gaussian, signal, noise, 1.0, 0.0)
        errors.append(float((x - (z @ linear.T + offset)).norm(dim=1).mean()))
    slope = slope_of(errors, CALLS)
    print(f"{sampler}, {kind}, one Gaussian: order {slope:.3f}")
    assert 0.9 < slope < 1.1


def test_euler_in_karras_time_is_ddim() -> None:
    levels = Levels.spaced(schedules.scaled_linear(), 8, "leading", offset=1)
    mixture, z = three_moons(), normal(32)
    model = exact_model(mixture, levels, "eps")
    by_ddim = run_plan(ddim(levels), model, z, unread(z, 8))
    by_euler = run_plan(euler(levels), model, z / levels.signal_scale[0], unread(z, 8))
    assert float((by_ddim - by_euler).abs().max()) < 1e-12


@pytest.mark.parametrize("prediction", ["x_0", "v", "flow", "score"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "euler", "lcm"])
def test_every_prediction_of_one_model_gives_the_same_run(sampler: str, prediction: str) -> None:
    mixture, z = three_moons(), normal(32)
    noise = [normal(32, seed) for seed in range(1, 9)]

    def run(told: str) -> Tensor:
        options = {"spacing": "lcm"} if sampler == "lcm" else {}
        plan = make_plan(sampler, schedules.linear(), 8, told, **options)
        levels = Levels.spaced(schedules.linear(), 8) if sampler != "lcm" else plan.levels
        return run_plan(plan, exact_model(mixture, levels, told), plan.init_scale * z, noise)

    assert float((run(prediction) - run("eps")).abs().max()) < 1e-9


def with_variance(plan: Plan, factor: float) -> Plan:
    """The plan with its noise variance multiplied."""
    rows = np.array(plan.rows)
    rows[:, COLUMN["s"]] *= factor**0.5
    return replace(plan, rows=rows)


def moment_errors(plan: Plan, levels: Levels, mixture: Mixture, count: int) -> tuple[Tensor, Tensor]:
    """|mean - exact| [D] and |covariance - exact| [D, D] over `count` samples."""
    generator = torch.Generator().manual_seed(3)
    noise = [torch.randn(count, 2, generator=generator, dtype=torch.float64) for _ in range(len(plan) + 1)]
    x = run_plan(plan, exact_model(mixture, levels, "eps"), plan.init_scale * noise[0], noise[1:])
    return (x.mean(0) - mixture.mean).abs(), (torch.cov(x.T) - mixture.covariance).abs()


def moment_bounds(mixture: Mixture, count: int, calls: int) -> tuple[Tensor, Tensor]:
    """Four standard errors of the mean and of the covariance, as exact samples have them, plus 1 / calls.

    1 / calls stands for the O(1/N) of the discretised chain, which 200,000 samples at N = 20 .. 80 show to be 0.2 / N
    for the mean and 0.5 to 0.75 / N for the covariance.
    """
    x = mixture.sample(200_000, torch.Generator().manual_seed(4))
    centred = x - x.mean(0)
    products = centred[:, :, None] * centred[:, None]
    return 4 * x.std(0) / count**0.5 + 1 / calls, 4 * products.std(0) / count**0.5 + 1 / calls


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "right"), [(1.0, True), (1.5, False)], ids=["its variance", "1.5 times it"])
def test_ddpm_fixed_large_has_the_moments_of_a_mixture(factor: float, right: bool) -> None:
    """And a chain with 1.5 times the variance has not: the check can fail."""
    mixture, calls, count = three_moons(), 150, 30_000
    levels = Levels.spaced(schedules.linear(), calls, "trailing")
    plan = with_variance(ddpm(levels, "eps", "fixed_large"), factor)
    errors, bounds = moment_errors(plan, levels, mixture, count), moment_bounds(mixture, count, calls)
    print(
        f"mean off by {errors[0].max():.4f} (bound {bounds[0].max():.4f}), "
        f"covariance by {errors[1].max():.4f} (bound {bounds[1].max():.4f})"
    )
    assert all(bool((error < bound).all()) for error, bound in zip(errors, bounds, strict=True)) == right


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ddpm_covariance_converges_at_order_1_without_any_sampling(variance: str) -> None:
    """For one Gaussian every row is affine, so the moments of the chain are exact."""
    gaussian, errors = one_gaussian(), []
    many = [4 * calls for calls in CALLS]
    for calls in many:
        levels = Levels.spaced(schedules.cosine(6400, max_beta=0.9), calls, "trailing")
        scales = list(zip(levels.signal_scale.tolist(), levels.noise_scale.tolist(), strict=True))
        maps = [exact_denoiser_map(gaussian, *level) for level in scales[:-1]]
        signal, noise = scales[0]
        start = signal**2 * gaussian.covariance + noise**2 * EYE
        mean, covariance = affine_moments(ddpm(levels, "x_0", variance), maps, signal * gaussian.mean, start)
        assert float((mean - gaussian.mean).abs().max()) < 1e-10
        errors.append(float((covariance - gaussian.covariance).norm()))
    slope = slope_of(errors, many)
    print(
        f"DDPM {variance}: order {slope:.3f}, N * error "
        + ", ".join(f"{n * e:.3f}" for n, e in zip(many, errors, strict=True))
    )
    assert 0.9 < slope < 1.1


def learned(function: tuple[Tensor, Tensor], c_skip: float, c_out: float, c_in: float) -> tuple[Tensor, Tensor]:
    """(M, c) of the network m = M x_in + c for which c_skip x + c_out m is x' = R x + c, given x_in = c_in x."""
    linear, offset = function
    return (linear - c_skip * EYE) / (c_out * c_in), offset / c_out


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_lcm_with_the_exact_flow_map_has_exact_moments(steps: int) -> None:
    """From pure noise (zero terminal SNR), by the scalings of the paper: sigma_data 0.5, timestep scaling 10."""
    gaussian = one_gaussian()
    levels = Levels.lcm(schedules.scaled_linear().rescale_zero_terminal_snr(), steps)
    assert levels.signal_scale[0] == 0
    maps = []
    for t, signal, noise in zip(levels.t, levels.signal_scale, levels.noise_scale, strict=False):
        c_skip, c_out = 0.25 / ((10 * t) ** 2 + 0.25), 10 * t / np.sqrt((10 * t) ** 2 + 0.25)
        maps.append(learned(exact_flow_map(gaussian, signal, noise, 1.0, 0.0), c_skip, c_out, 1.0))

    mean, covariance = affine_moments(lcm(levels, "x_0"), maps, torch.zeros(2, dtype=torch.float64), EYE)
    assert float((mean - gaussian.mean).abs().max()) < 1e-12
    assert float((covariance - gaussian.covariance).abs().max()) < 1e-12


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_lcm_with_the_exact_flow_map_gives_exact_samples(steps: int) -> None:
    """Sample by sample: f(x), then f(signal f(x) + noise z), .."""
    gaussian, noise = one_gaussian(), [normal(16, seed) for seed in range(steps + 1)]
    schedule = schedules.scaled_linear()
    plan = make_plan("lcm", schedule, steps, "x_0")
    levels, x, functions = plan.levels, noise[0], {}
    for t, signal, scale in zip(levels.t, levels.signal_scale, levels.noise_scale, strict=False):
        functions[t] = exact_flow_map(gaussian, signal, scale, 1.0, 0.0)

    def model(x_in: Tensor, t: float) -> Tensor:
        c_skip, c_out = 0.25 / ((10 * t) ** 2 + 0.25), 10 * t / np.sqrt((10 * t) ** 2 + 0.25)
        linear, offset = learned(functions[t], c_skip, c_out, 1.0)
        return x_in @ linear.T + offset

    for i, (linear, offset) in enumerate(functions.values()):
        z = noise[1 + i] if i < steps - 1 else torch.zeros_like(x)
        x = levels.signal_scale[i + 1] * (x @ linear.T + offset) + levels.noise_scale[i + 1] * z
    assert float((run_plan(plan, model, noise[0], noise[1:]) - x).abs().max()) < 1e-12


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_consistency_with_the_exact_flow_map_has_exact_moments(steps: int) -> None:
    """The function ends at sigma_min, so the data come with that much noise; by the scalings of the paper."""
    gaussian, sigma_min, sigma_data = one_gaussian(), 0.1, 0.5
    levels = Levels.spaced(schedules.karras(40, sigma_min, 80.0), steps, "trailing")
    maps = []
    for sigma in levels.noise_scale[:-1]:
        c_skip = sigma_data**2 / ((sigma - sigma_min) ** 2 + sigma_data**2)
        c_out = sigma_data * (sigma - sigma_min) / np.sqrt(sigma**2 + sigma_data**2)
        c_in = 1 / np.sqrt(sigma**2 + sigma_data**2)
        maps.append(learned(exact_flow_map(gaussian, 1.0, sigma, 1.0, sigma_min), c_skip, c_out, c_in))

    plan = consistency(levels, sigma_data, sigma_min, clip=None)
    start = gaussian.covariance + levels.noise_scale[0] ** 2 * EYE
    mean, covariance = affine_moments(plan, maps, gaussian.mean, start)
    assert float((mean - gaussian.mean).abs().max()) < 1e-10
    assert float((covariance - gaussian.covariance - sigma_min**2 * EYE).abs().max()) < 1e-10


def test_consistency_with_the_wrong_boundary_has_wrong_moments() -> None:
    """The same check fails for a plan that takes sigma_min for 0."""
    gaussian, sigma_min = one_gaussian(), 0.1
    levels = Levels.spaced(schedules.karras(40, sigma_min, 80.0), 2, "trailing")
    sigma = float(levels.noise_scale[0])
    c_skip, c_in = 0.25 / ((sigma - sigma_min) ** 2 + 0.25), 1 / np.sqrt(sigma**2 + 0.25)
    c_out = 0.5 * (sigma - sigma_min) * c_in
    network = learned(exact_flow_map(gaussian, 1.0, sigma, 1.0, sigma_min), c_skip, c_out, c_in)
    start = gaussian.covariance + sigma**2 * EYE
    plan = consistency(levels, 0.5, 0.0, clip=None)
    _, covariance = affine_moments(plan, [network] * 2, gaussian.mean, start)
    assert float((covariance - gaussian.covariance - sigma_min**2 * EYE).abs().max()) > 1e-3
