"""The orders that options of the multistep samplers give, measured against the exact flow of a mixture."""

from typing import Any

import pytest
import torch

from fewstep.diffusion.samplers import SAMPLERS
from fewstep.diffusion.schedules import Kind
from support.oracles import exact_model, slope_of, three_moons
from support.plan_interpreter import run_plan
from support.sampler_case import dense

COUNTS = [40, 80, 160]
STARTS = torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

# At least, and at most where a formula is known to lose an order.
ORDERS: dict[str, tuple[str, dict[str, Any], float, float]] = {
    "3M, half of its bend": ("dpmpp_3m", {}, 2, 2.5),
    "3M, exact": ("dpmpp_3m", {"exact": True}, 3, 9),
    "2M, heun": ("dpmpp_2m", {"solver_type": "heun"}, 2, 9),
    "UniPC-1": ("unipc", {"order": 1}, 2, 9),
    "UniPC-2, corrected to the end": ("unipc", {"lower_order_final": False}, 3, 9),
    "UniPC-3, corrected to the end": ("unipc", {"order": 3, "lower_order_final": False}, 4, 9),
    "UniPC-2, bh1": ("unipc", {"solver_type": "bh1"}, 2, 9),
    "DEIS-1": ("deis", {"order": 1}, 1, 1.25),
    "DEIS-3": ("deis", {"order": 3}, 3, 9),
    "LMS-1": ("lms", {"order": 1}, 1, 1.25),
    "LMS-2": ("lms", {"order": 2}, 2, 9),
    "LMS-3": ("lms", {"order": 3}, 2.9, 9),
    "LMS-4": ("lms", {}, 3.75, 9),
}


@pytest.fixture(scope="module")
def exact_end() -> torch.Tensor:
    """Where the flow takes sigma z, at the end of the dense levels, in Karras time."""
    sigmas = dense("ve", 1).sigmas
    return three_moons().flow(float(sigmas[0]) * STARTS, float(sigmas[0]), float(sigmas[1]), substeps=400)


def order_of(name: str, exact_end: torch.Tensor, kind: Kind = "ve", prediction: str = "eps", **own: Any) -> float:
    errors = []
    for levels in COUNTS:
        plan = SAMPLERS[name].build(dense(kind, levels), prediction, **own)
        model = exact_model(three_moons(), plan.levels, prediction)
        x = run_plan(plan, model, plan.levels.noise_scale[0] * STARTS, [1e3 * STARTS] * len(plan))
        errors.append(float((x / plan.levels.signal_scale[-1] - exact_end).norm(dim=1).mean()))
    print(f"{name}, {own}: order {slope_of(errors, COUNTS):.2f}; " + ", ".join(f"{error:.1e}" for error in errors))
    return slope_of(errors, COUNTS)


@pytest.mark.slow
@pytest.mark.parametrize("case", ORDERS)
def test_it_has_its_order(case: str, exact_end: torch.Tensor) -> None:
    name, own, least, most = ORDERS[case]
    assert least - 0.25 < order_of(name, exact_end, **own) < most


@pytest.mark.slow
def test_plms_of_v_loses_its_order_where_the_networks_own_answers_are_combined(exact_end: torch.Tensor) -> None:
    """What diffusers does: it combines v of several levels, and reads the eps in it as of one."""
    assert order_of("plms", exact_end, "vp", "v") > 1.75
    assert order_of("plms", exact_end, "vp", "v", combined="m") < 1.25
