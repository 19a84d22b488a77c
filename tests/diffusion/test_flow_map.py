"""Flow maps and sCM: what the network is told, and that exact answers make an exact run."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fewstep import schedules
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import euler, flow_map, make_plan
from fewstep.errors import ArgumentError
from support.oracles import affine_moments, exact_flow_map, one_gaussian

EYE = torch.eye(2, dtype=torch.float64)
UNIT = schedules.trigflow(1200, 0.5)


def maps_of(plan: Plan, to: list[tuple[float, float]]) -> list[tuple[Tensor, Tensor]]:
    """(M, c) of the network m = M x_in + c whose row leads to the exact end of the flow at the scales in `to`."""
    maps, levels = [], plan.levels
    for i, (signal, noise) in enumerate(to):
        linear, offset = exact_flow_map(one_gaussian(), levels.signal_scale[i], levels.noise_scale[i], signal, noise)
        columns = {n: float(plan.column(n)[i]) for n in ("c_in", "k_x", "k_m", "a", "b", "e", "known_signal")}
        ratio = float(levels.signal_scale[i + 1]) / signal  # from r back up to where the row lands
        x, m = columns["a"] + columns["b"] * columns["k_x"], columns["b"] * columns["k_m"] + columns["e"]
        maps.append(((ratio * linear - x * EYE) / (m * columns["c_in"]), ratio * offset / m))
    return maps


def moments(plan: Plan, to: list[tuple[float, float]]) -> tuple[Tensor, Tensor]:
    gaussian, signal, noise = one_gaussian(), plan.levels.signal_scale[0], plan.levels.noise_scale[0]
    start = signal**2 * gaussian.covariance + noise**2 * EYE
    return affine_moments(plan, maps_of(plan, to), signal * gaussian.mean, start)


CASES = {
    "flow": (schedules.flow(1200, 3.0), "flow"),
    "Karras time": (schedules.karras(40, 0.002, 80.0, time="sigma"), "x_0"),
    "TrigFlow": (UNIT, "v"),
}


@pytest.mark.parametrize("eta", [0.0, 0.4])
@pytest.mark.parametrize("steps", [1, 2, 3, 8])
@pytest.mark.parametrize("case", CASES)
def test_the_exact_flow_map_makes_exact_samples_in_any_number_of_steps(case: str, steps: int, eta: float) -> None:
    schedule, prediction = CASES[case]
    plan = make_plan("flow_map", schedule, steps, prediction, eta=eta)
    sigmas = np.append(np.sqrt(1 - eta**2) * plan.levels.sigmas[1:-1], plan.levels.sigmas[-1])
    kind = plan.levels.kind
    signal = {"flow": 1 / (1 + sigmas), "ve": 0 * sigmas + 1, "trig": np.cos(np.arctan(sigmas / 0.5))}[kind]
    mean, covariance = moments(plan, list(zip(signal.tolist(), (signal * sigmas).tolist(), strict=True)))
    assert float((mean - one_gaussian().mean).abs().max()) < 1e-10
    assert float((covariance - one_gaussian().covariance).abs().max()) < 1e-10


@pytest.mark.parametrize("kind", ["flow", "TrigFlow"])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_scm_with_the_exact_map_to_x_0_has_exact_moments(kind: str, steps: int) -> None:
    schedule, prediction = CASES[kind]
    plan = make_plan("scm", schedule, steps, prediction)
    maps, levels = [], plan.levels
    for i in range(steps):
        linear, offset = exact_flow_map(one_gaussian(), levels.signal_scale[i], levels.noise_scale[i], 1.0, 0.0)
        c_in, k_x, k_m = (float(plan.column(name)[i]) for name in ("c_in", "k_x", "k_m"))
        maps.append(((linear - k_x * EYE) / (k_m * c_in), offset / k_m))
    mean, covariance = affine_moments(plan, maps, 0 * one_gaussian().mean, levels.noise_scale[0] ** 2 * EYE)
    assert float((mean - one_gaussian().mean).abs().max()) < 1e-10
    assert float((covariance - one_gaussian().covariance).abs().max()) < 1e-10


def test_on_a_flow_a_row_is_the_line_of_meanflow() -> None:
    """x_r = x - (t - r) u: the row's m, through x_0 and by itself, weighs r - t, and x 1."""
    plan = make_plan("flow_map", schedules.flow(1000, 3.0), 4)
    t, r = plan.column("t") / 1000, plan.column("r") / 1000
    a, b, e, k_x, k_m = (plan.column(name) for name in ("a", "b", "e", "k_x", "k_m"))
    assert a + b * k_x == pytest.approx(1.0, abs=1e-12)
    assert b * k_m + e == pytest.approx(r - t, abs=1e-12)


@pytest.mark.parametrize(
    ("schedule", "end"),
    [
        (schedules.flow(), 0.0),
        (schedules.flow().told("unit"), 0.0),
        (schedules.karras(40, time="sigma"), 0.0),
        (schedules.karras(40, time="consistency"), 250 * np.log(1e-44)),
        (UNIT, 0.0),
    ],
    ids=["timestep", "unit", "sigma", "consistency", "trigflow"],
)
def test_the_network_is_told_where_a_step_goes(schedule: schedules.Schedule, end: float) -> None:
    said = "v" if schedule is UNIT else "flow"
    plan = make_plan("flow_map", schedule, 4, said)
    assert plan.column("r").tolist() == [*plan.levels.t[1:], pytest.approx(end)]
    first = make_plan("flow_map", schedule, 4, said, final="first")
    assert first.column("r")[-1] == pytest.approx(float(schedule.t[0]), rel=1e-12)
    below = make_plan("flow_map", schedule, 4, said, eta=0.6)
    assert schedule.t_to_sigma(below.column("r"))[:-1] == pytest.approx(0.8 * below.levels.sigmas[1:-1], rel=1e-9)
    assert below.column("s")[-1] == 0


def test_a_clean_end_that_has_no_word_is_refused() -> None:
    with pytest.raises(ArgumentError, match="time: got 'edm'; allowed: sigma, consistency or trigflow"):
        make_plan("flow_map", schedules.karras(40, time="edm"), 4)
    with pytest.raises(ArgumentError, match=r"eta: got 1; allowed: a number in \[0, 1\)"):
        make_plan("flow_map", schedules.flow(), 4, eta=1)


@pytest.mark.parametrize("eta", [1e-6, 1e-9, 1e-300])
def test_next_to_no_eta_is_next_to_no_noise(eta: float) -> None:
    """The variance that leads back up is then less than its own rounding."""
    for schedule, said in ((schedules.flow(), "flow"), (UNIT, "v")):
        plan, none = (make_plan("flow_map", schedule, 9, said, eta=each) for each in (eta, 0.0))
        assert plan.column("s").max() <= max(eta, 1e-7)
        assert plan.column("b") == pytest.approx(none.column("b"), rel=1e-9)


def test_on_a_flow_it_takes_the_steps_of_euler() -> None:
    levels = Levels.spaced(schedules.flow(), 5)
    ours, straight = flow_map(levels), euler(levels, "flow")
    for own, through in (("a", "k_x"), ("e", "k_m")):
        weights = (plan.column(own) + plan.column("b") * plan.column(through) for plan in (ours, straight))
        assert next(weights) == pytest.approx(next(weights), abs=1e-12)
