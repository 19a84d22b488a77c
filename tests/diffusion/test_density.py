"""log p(x' | x) of a row, given everything: torch's own Normal, gradients, what does not count, what is refused."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fewstep
from fewstep import ArgumentError, Plan, schedules
from fewstep.diffusion.samplers import make_plan
from fewstep_kernels import COLUMN
from support.plan_interpreter import clip_estimate

SHAPE = (2, 3, 5, 4)
SCHEDULE = schedules.linear()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def looking_back() -> Plan:
    base = make_plan("ddpm", SCHEDULE, 4)
    rows = np.array(base.rows)
    rows[2:, COLUMN["c_1"]], rows[2:, COLUMN["c_3"]] = 0.3, -0.2
    return Plan(base.sampler, base.prediction, base.levels, rows, base.init_scale, history=3)


PLANS = {
    "ddpm": make_plan("ddpm", SCHEDULE, 4),
    "ddim with noise, clipped": make_plan("ddim", SCHEDULE, 4, eta=0.7, clip=1.0),
    "dynamic threshold": make_plan("ddpm", SCHEDULE, 4, clip={"limit": 2.0, "ratio": 0.9}),
    "learned variance": make_plan("ddpm", SCHEDULE, 4, variance="learned_range"),
    "history": looking_back(),
}


def arguments(plan: Plan) -> dict[str, Any]:
    batch, channels, *size = SHAPE
    m = random(batch, channels * (1 + plan.learned_variance), *size, seed=1)
    history = random(plan.history, *SHAPE, seed=3) if plan.history else None
    return {"x": random(*SHAPE), "m": m, "x_next": random(*SHAPE, seed=2), "history": history}


def written_again(plan: Plan, step: int, x: Tensor, m: Tensor, x_next: Tensor, history: Tensor | None) -> Tensor:
    """Per element."""
    r = {name: float(plan.rows[step, index]) for name, index in COLUMN.items()}
    std = torch.full_like(x, r["s"])
    if plan.learned_variance:
        m, v = m.chunk(2, dim=1)
        std = std * torch.exp(0.5 * (r["log_var_min"] + (v + 1) / 2 * (r["log_var_max"] - r["log_var_min"])))
    x_0 = clip_estimate(r["k_x"] * x + r["k_m"] * m, r["clip"], r["clip_ratio"])
    mean = r["a"] * x + r["b"] * x_0 + r["e"] * m
    if history is not None:
        mean = mean + sum(r[f"c_{j}"] * h for j, h in enumerate(history, start=1))
    return torch.distributions.Normal(mean, std).log_prob(x_next)


@pytest.mark.parametrize("name", PLANS)
def test_it_is_the_normal_density_of_the_update(name: str) -> None:
    plan = PLANS[name]
    given = arguments(plan)
    for step in range(len(plan) - 1):
        each = written_again(plan, step, **given)
        found = fewstep.log_prob(plan, step, **given)
        torch.testing.assert_close(found, each.flatten(1).sum(1), rtol=1e-12, atol=1e-10)
        mask = torch.tensor([1.0, 0.5, 0.0, 1.0], dtype=torch.float64).expand(1, 1, 5, 4)
        masked = fewstep.log_prob(plan, step, **given, mask=mask)
        torch.testing.assert_close(masked, each[..., [0, 3]].flatten(1).sum(1), rtol=1e-12, atol=1e-10)
        narrow = {"x": given["x"].float(), "m": given["m"].float(), "dtype": torch.float64}
        wide = fewstep.log_prob(plan, step, **(given | narrow))
        assert wide.dtype == torch.float64
        torch.testing.assert_close(wide, found, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", PLANS)
def test_it_has_gradients_in_what_the_network_said(name: str) -> None:
    plan = PLANS[name]
    given = arguments(plan)
    m = (0.3 * given.pop("m")).requires_grad_()  # mostly within the clip
    assert torch.autograd.gradcheck(lambda m: fewstep.log_prob(plan, 2, m=m, **given), (m,))


def test_the_gradient_is_zero_at_the_mean_and_its_maximum_there() -> None:
    plan = PLANS["ddpm"]
    x, m = random(*SHAPE), random(*SHAPE, seed=1).requires_grad_()
    r = {name: float(plan.rows[1, index]) for name, index in COLUMN.items()}
    mean = (r["a"] * x + r["b"] * (r["k_x"] * x + r["k_m"] * m) + r["e"] * m).detach()
    best = fewstep.log_prob(plan, 1, x, m, mean)
    (gradient,) = torch.autograd.grad(best.sum(), m)
    assert float(gradient.abs().max()) < 1e-9
    assert best.tolist() == pytest.approx([-60 * (math.log(r["s"]) + 0.5 * math.log(2 * math.pi))] * 2)


def test_bfloat16_is_widened() -> None:
    given = {name: each.bfloat16() for name, each in arguments(PLANS["ddpm"]).items() if each is not None}
    assert fewstep.log_prob(PLANS["ddpm"], 0, **given).dtype == torch.float32


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a row without noise": (
        "ddpm",
        {"step": 3},
        r"step: got 3; allowed: a row that adds noise: of this plan \[0, 1, 2\]",
    ),
    "no such row": ("ddpm", {"step": 4}, r"step: got 4; allowed: .*0 to 3"),
    "m of another shape": (
        "ddpm",
        {"m": torch.zeros(2, 6, 5, 4)},
        r"m: got shape \[2, 6, 5, 4\]; allowed: \[2, 3, 5",
    ),
    "no variance in m": ("learned variance", {"m": torch.zeros(SHAPE)}, r"m: got .*; allowed: \[2, 6, 5, 4\]"),
    "x' of another shape": ("ddpm", {"x_next": torch.zeros(1, 3, 5, 4)}, "x_next: got shape"),
    "no history": ("history", {"history": None}, r"history: got None; allowed: \[3 or more, 2, 3, 5, 4\]: row 2 looks"),
    "a short one": ("history", {"history": torch.zeros(2, *SHAPE)}, r"history: got shape \[2, 2, 3"),
}


@pytest.mark.parametrize(("plan", "change", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_density_or_does_not_fit_is_refused(plan: str, change: dict[str, Any], message: str) -> None:
    given = arguments(PLANS[plan]) | {"step": 2} | change
    with pytest.raises(ArgumentError, match=message):
        fewstep.log_prob(PLANS[plan], **given)


def test_a_plan_that_adds_no_noise_says_so() -> None:
    with pytest.raises(ArgumentError, match="of this plan none does"):
        fewstep.log_prob(make_plan("ddim", SCHEDULE, 2), 0, *(random(*SHAPE) for _ in range(3)))
