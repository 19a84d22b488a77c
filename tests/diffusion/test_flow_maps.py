"""Networks that answer for a whole step, with the exact flow of one Gaussian: their samplers have no error at all."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fewstep import schedules
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import make_plan
from fewstep.diffusion.schedules import Schedule
from support.oracles import affine_moments, exact_flow_map, one_gaussian
from support.plan_interpreter import run_plan

EYE = torch.eye(2, dtype=torch.float64)
Scales = tuple[float, float]

# The prediction, and what a network that was trained to give it says of the way from x to x_r: (signal, noise) of both.
SIGMA_DATA = 0.5
MAPS: dict[str, tuple[Schedule, str]] = {
    "MeanFlow, on a flow": (schedules.flow(), "flow"),
    "on a shifted flow": (schedules.flow(shift=3.0), "flow"),
    "a consistency trajectory, in Karras time": (schedules.karras(40, 0.01, 80.0, time="sigma"), "x_0"),
    "Align Your Flow, on TrigFlow's levels": (schedules.trigflow(1000, SIGMA_DATA), "v"),
}


def answer(prediction: str, here: Scales, there: Scales) -> tuple[Tensor, Tensor]:
    """(M, c) of m = M x + c, by the definition of each in its paper, where x_r = R x + c is exact."""
    linear, offset = exact_flow_map(one_gaussian(), *here, *there)
    (_, t), (_, r) = here, there
    if prediction == "flow":  # the mean velocity: u = (x - x_r) / (t - r)
        return (EYE - linear) / (t - r), -offset / (t - r)
    if prediction == "x_0":  # x_r = (r / t) x + (1 - r / t) g
        return (linear - r / t * EYE) / (1 - r / t), offset / (1 - r / t)
    angle = np.arctan2(here[1] / SIGMA_DATA, here[0]) - np.arctan2(there[1] / SIGMA_DATA, there[0])
    length = SIGMA_DATA * np.sin(angle)  # x_r = cos(t - r) x - sigma_data sin(t - r) F
    return (np.cos(angle) * EYE - linear) / length, -offset / length


def below(plan: Plan) -> list[Scales]:
    """Where each step goes before noise is added: what its r says, read in the words of its schedule."""
    levels = plan.levels
    if levels.kind == "flow":
        return [(1 - r / 1000, r / 1000) for r in plan.column("r").tolist()]
    if levels.kind == "ve":
        return [(1.0, r) for r in plan.column("r").tolist()]
    return [(float(np.cos(r)), SIGMA_DATA * float(np.sin(r))) for r in plan.column("r").tolist()]


def maps_of(plan: Plan) -> list[tuple[Tensor, Tensor]]:
    """(M, c) of m = M x_in + c in each row."""
    scales = zip(plan.levels.signal_scale.tolist(), plan.levels.noise_scale.tolist(), strict=True)
    each = [answer(plan.prediction, here, there) for here, there in zip(scales, below(plan), strict=False)]
    return [(linear / c_in, offset) for (linear, offset), c_in in zip(each, plan.column("c_in"), strict=True)]


def right_start(plan: Plan) -> tuple[Tensor, Tensor]:
    signal, noise = plan.levels.signal_scale[0], plan.levels.noise_scale[0]
    return signal * one_gaussian().mean, signal**2 * one_gaussian().covariance + noise**2 * EYE


def told_at(plan: Plan, maps: list[tuple[Tensor, Tensor]]) -> dict[float, tuple[Tensor, Tensor]]:
    """The map of each row by its t."""
    return dict(zip(plan.levels.t.tolist(), maps, strict=True))


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("case", MAPS)
def test_a_flow_map_gives_exact_samples(case: str, steps: int) -> None:
    """Sample by sample: so many steps are the flow map from where the run starts to the end."""
    schedule, prediction = MAPS[case]
    plan = make_plan("flow_map", schedule, steps, prediction)
    told = told_at(plan, maps_of(plan))
    z = torch.randn(32, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = plan.init_scale * z
    signal, noise = plan.levels.signal_scale.tolist(), plan.levels.noise_scale.tolist()
    linear, offset = exact_flow_map(one_gaussian(), signal[0], noise[0], signal[-1], noise[-1])
    end = run_plan(plan, lambda x_in, t: x_in @ told[t][0].T + told[t][1], start, [1e3 * z] * steps)
    assert float((end - (start @ linear.T + offset)).abs().max()) < 1e-12 * max(1.0, noise[0])


@pytest.mark.parametrize("case", MAPS)
def test_a_flow_map_composed_is_the_flow_map(case: str) -> None:
    """From t to s to r is from t to r, wherever s is."""
    schedule, prediction = MAPS[case]
    top = len(schedule) - 1
    direct = make_plan("flow_map", schedule, 1, prediction, [top], final="first")
    z = torch.randn(32, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ends = []
    for plan in (
        direct,
        *(make_plan("flow_map", schedule, 2, prediction, [top, s], final="first") for s in (1, 7, 30)),
    ):
        told = told_at(plan, maps_of(plan))

        def model(x_in: Tensor, t: float, told: dict[float, tuple[Tensor, Tensor]] = told) -> Tensor:
            return x_in @ told[t][0].T + told[t][1]

        ends.append(run_plan(plan, model, plan.init_scale * z, [1e3 * z] * len(plan)))
    for end in ends[1:]:
        assert float((end - ends[0]).abs().max()) < 1e-12 * max(1.0, float(direct.levels.noise_scale[0]))


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("case", MAPS)
def test_a_flow_map_that_adds_noise_has_exact_moments(case: str, eta: float) -> None:
    schedule, prediction = MAPS[case]
    plan = make_plan("flow_map", schedule, 4, prediction, eta=eta)
    assert plan.stochastic == (eta > 0)
    mean, covariance = affine_moments(plan, maps_of(plan), *right_start(plan))
    assert float((mean - one_gaussian().mean).abs().max()) < 1e-10
    assert float((covariance - one_gaussian().covariance).abs().max()) < 1e-10


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize(
    ("schedule", "prediction"),
    [(schedules.trigflow(1000, SIGMA_DATA), "v"), (schedules.flow(), "flow"), (schedules.linear(), "x_0")],
    ids=["sCM, on TrigFlow's levels", "on a flow", "on a vp schedule"],
)
def test_scm_with_the_exact_consistency_function_has_exact_moments(
    schedule: Schedule, prediction: str, steps: int
) -> None:
    """The network says where the flow ends; what it predicts leads to x_0 = f(x)."""
    plan = make_plan("scm", schedule, steps, prediction)
    maps = []
    for signal, noise, c_in in zip(
        plan.levels.signal_scale[:-1].tolist(), plan.levels.noise_scale[:-1].tolist(), plan.column("c_in"), strict=True
    ):
        linear, offset = exact_flow_map(one_gaussian(), signal, noise, 1.0, 0.0)
        if prediction == "x_0":
            maps.append((linear, offset))
        elif prediction == "flow":  # x_0 = x - noise m
            maps.append(((EYE - linear) / noise, -offset / noise))
        else:  # x_0 = cos(t) x - sigma_data sin(t) F, with noise = sigma_data sin(t)
            maps.append(((signal * EYE - linear) / noise / c_in, -offset / noise))
    mean, covariance = affine_moments(plan, maps, *right_start(plan))
    assert float((mean - one_gaussian().mean).abs().max()) < 1e-12
    assert float((covariance - one_gaussian().covariance).abs().max()) < 1e-12
    assert plan.stochastic == (steps > 1)


def test_a_flow_map_that_is_told_another_end_is_wrong() -> None:
    """The check can fail: with the answers for the clean end in every row the samples are others."""
    plan = make_plan("flow_map", schedules.flow(), 4, "flow")
    scales = zip(plan.levels.signal_scale.tolist(), plan.levels.noise_scale.tolist(), strict=True)
    maps = [answer("flow", here, (1.0, 0.0)) for here in list(scales)[:-1]]
    _, covariance = affine_moments(plan, maps, *right_start(plan))
    assert float((covariance - one_gaussian().covariance).abs().max()) > 1e-3
