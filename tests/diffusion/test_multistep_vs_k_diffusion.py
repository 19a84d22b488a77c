"""The multistep samplers against k-diffusion's, whole loops in float64: same denoiser, same noise, same sigmas."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.diffusion.levels import Levels
from fewstep.diffusion.samplers import SAMPLERS
from support.diffusers_loops import TOLERANCE, difference, dummy_model, noise_for, run_ours
from support.k_diffusion import samplers
from support.pairwise import pairwise

STEPS = (1, 2, 3, 4, 8, 20)
LADDERS = {"karras": "get_sigmas_karras", "exponential": "get_sigmas_exponential"}
pytestmark = pytest.mark.usefixtures("float64")


def same(sampler: str, steps: int, ladder: str, own: dict[str, Any], given: dict[str, Any], clean: bool = True) -> bool:
    """Whether our sampler, with options of its own, ends where k-diffusion's does with what it is given."""
    k_diffusion = samplers()
    sigmas = getattr(k_diffusion, LADDERS[ladder])(steps + (not clean), 0.03, 15.0).double()
    sigmas = sigmas if clean else sigmas[:-1]
    levels = Levels(sigmas[:-1].numpy(), torch.ones_like(sigmas).numpy(), sigmas.numpy(), "ve", ladder, "sigma")
    plan = SAMPLERS[sampler].build(levels, "x_0", **own)
    noise, model, drawn = noise_for(steps), dummy_model(), []

    def sampled(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        drawn.append(float(sigma))
        return noise[1 + levels.t.tolist().index(float(sigma))]

    if "eta" in given:
        given = given | {"noise_sampler": sampled}
    theirs = getattr(k_diffusion, f"sample_{sampler}")(
        lambda x, sigma: model(x, float(sigma[0])), float(sigmas[0]) * noise[0], sigmas, disable=True, **given
    )
    assert len(drawn) == (steps - 1 if given.get("eta") else 0)
    return difference(run_ours(plan, model, noise), theirs) < TOLERANCE


@pytest.mark.parametrize(
    ("steps", "ladder", "clean", "sampler"),
    pairwise(steps=STEPS, ladder=tuple(LADDERS), clean=(True, False), sampler=("dpmpp_2m", "lms")),
)
def test_they_are_k_diffusions(steps: int, ladder: str, clean: bool, sampler: str) -> None:
    assert same(sampler, steps, ladder, {"lower_order_final": False} if sampler == "dpmpp_2m" else {}, {}, clean)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_lms_of_lower_order_is_k_diffusions(order: int) -> None:
    assert same("lms", 8, "karras", {"order": order}, {"order": order})


@pytest.mark.parametrize(
    ("steps", "ladder", "eta", "s_noise", "sampler", "solver_type"),
    pairwise(
        steps=STEPS[1:],
        ladder=tuple(LADDERS),
        eta=(1.0, 0.4, 0.0),
        s_noise=(1.0, 1.003),
        sampler=("dpmpp_2m_sde", "dpmpp_3m_sde"),
        solver_type=("midpoint", "heun"),
    ),
)
def test_those_of_the_sde_are_k_diffusions(
    steps: int, ladder: str, eta: float, s_noise: float, sampler: str, solver_type: str
) -> None:
    """Its 3M takes heun's way in the row of order 2, and has no other. One step of either is a NameError there."""
    given = {"eta": eta, "s_noise": s_noise} | ({"solver_type": solver_type} if "2m" in sampler else {})
    assert same(sampler, steps, ladder, {"lower_order_final": False} | given, given)
