"""The integrals that linear multistep methods are made of, and our plans beside those traced from diffusers."""

from typing import Any

import diffusers
import numpy as np
import pytest

from fewstep import schedules
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import make_plan
from fewstep.diffusion.samplers.lms import HEAVIEST
from fewstep.diffusion.samplers.lms import weights as lms_weights
from fewstep.diffusion.samplers.multistep import adams, half_log_snr, moments, nodes, orders, steps
from support.composed import composed

POINTS, SHARES = np.polynomial.legendre.leggauss(64)
U, SHARES = (POINTS + 1) / 2, SHARES / 2  # a quadrature on 0 to 1


@pytest.mark.parametrize("z", [0.0, 1e-12, -1e-3, 0.5, -1.0, 1.0, np.nextafter(1, 2), -1.5, 4.0, -30.0, 20.0])
def test_moments_are_the_integrals(z: float) -> None:
    exact = [(SHARES * np.exp((1 - U) * z) * U**k).sum() for k in range(4)]
    assert moments(np.array([z]), 4)[:, 0] == pytest.approx(exact, rel=1e-13)


@pytest.mark.parametrize("z", [0.0, 0.3, -5.0])
def test_adams_integrates_every_polynomial_through_its_nodes(z: float) -> None:
    """Of three nodes of which one is infinitely far, every line."""
    at = np.array([[0.0, 0.0], [-0.7, -0.2], [-2.5, -np.inf]])
    w = adams(np.full(2, z), at)
    assert w[2, 1] == 0
    for k in range(3):
        exact = (SHARES * np.exp((1 - U) * z) * U**k).sum()
        powers = np.where(np.isfinite(at), at, 0.0) ** k
        assert (w * powers).sum(0)[: 1 + (k < 2)] == pytest.approx(exact, rel=1e-12)


def test_adams_of_equal_steps_are_the_textbook_weights() -> None:
    at = -np.arange(4.0)[:, None]
    assert 24 * adams(np.zeros(1), at)[:, 0] == pytest.approx([55, -59, 37, -9], rel=1e-12)


@pytest.mark.parametrize(
    ("schedule", "steps", "how", "usual"),
    [
        (schedules.flow(1000, 1000.0), 8, {"spacing": "trailing"}, 1.1e8),
        (schedules.scaled_linear(), 50, {"spacing": "beta", "strength": 0.02}, 4e4),
        (schedules.flow(1000, 10.0), 4, {"spacing": "trailing"}, 1100.0),
    ],
    ids=["a flow shifted by 1000", "many steps from an image", "a flow shifted by 10"],
)
def test_weights_of_lms_that_float32_would_lose_are_of_a_lower_order(
    schedule: Any, steps: int, how: dict[str, Any], usual: float
) -> None:
    """Where the usual weights are no more than that, they stay."""
    at = make_plan("lms", schedule, steps, "flow" if schedule.kind == "flow" else "eps", **how).levels.noise_scale
    length, each = np.diff(at), np.minimum(4, np.arange(1, len(at)))
    full, found = length * adams(np.zeros(steps), nodes(at, each, 4)), lms_weights(at, 4)
    heavy = np.abs(full / length).sum(0)
    assert heavy.max() > usual
    assert np.abs(found / length).sum(0).max() <= HEAVIEST
    assert found.sum(0) == pytest.approx(length, rel=1e-9)
    kept = heavy <= HEAVIEST
    assert np.array_equal(found[:, kept], full[:, kept])


def test_orders_rise_at_the_start_and_fall_at_the_end() -> None:
    clean, short = Levels.karras(6), Levels.spaced(schedules.linear(), 6, final="first")
    assert orders(clean, 3).tolist() == [1, 2, 3, 3, 2, 1]
    assert orders(clean, 3, lower_order_final=False).tolist() == [1, 2, 3, 3, 3, 1]
    assert orders(short, 3, lower_order_final=False).tolist() == [1, 2, 3, 3, 3, 3]
    assert orders(short, 2, lower_order_final=False, euler_at_final=True).tolist() == [1, 2, 2, 2, 2, 1]
    assert orders(Levels.karras(15), 3)[-3:].tolist() == [3, 3, 1]
    assert orders(Levels.karras(1), 3).tolist() == [1]


def test_what_is_infinitely_far_has_no_step_and_is_no_node() -> None:
    zero = schedules.linear().rescale_zero_terminal_snr()
    at = half_log_snr(Levels.spaced(zero, 4))
    assert steps(at)[[0, 3]].tolist() == [0, 0]
    u = nodes(at, np.array([1, 2, 3, 1]), 3)
    assert u[0].tolist() == [0, 0, 0, 0]
    assert np.isneginf(u[1:, [0, 1, 3]]).all()
    assert np.isneginf(u[2, 2])
    assert u[1, 2] == pytest.approx(-steps(at)[1] / steps(at)[2])


VP = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "timestep_spacing": "trailing"}
TRACED: dict[str, tuple[str, dict[str, Any], dict[str, Any], int]] = {
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}, {}, 8),
    "dpmpp_3m": ("DPMSolverMultistepScheduler", {"solver_order": 3}, {}, 8),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, {}, 8),
    "unipc": ("UniPCMultistepScheduler", {"solver_order": 3}, {"order": 3}, 8),
    "deis": ("DEISMultistepScheduler", {"solver_order": 3}, {"order": 3, "final": "first"}, 8),
    "lms": ("LMSDiscreteScheduler", {}, {}, 8),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": True}, {"combined": "m"}, 9),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.filterwarnings("ignore:.*__array:DeprecationWarning")  # diffusers' own, of numpy 2
@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("sampler", TRACED)
def test_ours_composes_to_what_is_traced(sampler: str, prediction: str) -> None:
    """x before every call, in terms of the start, all answers and all noise."""
    name, settings, own, calls = TRACED[sampler]
    told = {"eps": "epsilon", "v": "v_prediction"}[prediction]
    traced = Plan.from_diffusers(getattr(diffusers, name)(**VP, **settings, prediction_type=told), calls)
    ours = make_plan(sampler, schedules.scaled_linear(), calls, prediction, **own)
    assert len(traced) == len(ours) == calls
    assert ours.levels.t == pytest.approx(traced.levels.t)
    maps, scale = composed(ours), np.abs(composed(traced)).max()
    print(f"{sampler}: {len(maps) - 1} calls, {ours.history} and {traced.history} values kept")
    assert np.abs(maps - composed(traced)).max() < 1e-8 * scale
