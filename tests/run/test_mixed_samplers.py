"""One batch of samplers of all families, step counts and guidance: each sample has the bits that it has alone."""

from typing import Any

import pytest
import torch

from fewstep import ArgumentError, Engine
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import SAMPLERS
from fewstep.diffusion.samplers import build_plan as plan_for
from fewstep.run.graphs.runner import GraphRunner
from fewstep_kernels.row import MAX_HISTORY
from support.recorder import RecorderCapturer
from support.runners import BUDGET
from support.small import small_engine

SLOTS, STEPS = 8, 16
GUIDANCE: tuple[dict[str, float], ...] = (
    {},
    {"guidance_scale": 3.0},
    {"guidance_scale": 0.0},
    {"guidance_scale": 1.5, "guidance_rescale": 0.5},
)
OWN: dict[str, dict[str, Any]] = {
    "ddpm": {"clip": 1.0},
    "ddim": {"eta": 0.5, "clip": {"limit": 2.0, "ratio": 0.9}},
    "edm": {"s_churn": 4.0},
    "lms": {"clip": 1.0},
}


def possible(name: str, steps: int) -> int:
    """This budget, or the next that the sampler can spend."""
    try:
        SAMPLERS[name].levels(name, steps)
    except ArgumentError:
        return possible(name, steps + 1)
    return steps


NAMES = [name for name, sampler in SAMPLERS.items() if "vp" in sampler.kinds]


@pytest.fixture(scope="module", params=["eager", "graph"])
def engine(request: pytest.FixtureRequest) -> Engine:
    runner = GraphRunner(RecorderCapturer(), BUDGET) if request.param == "graph" else "eager"
    return small_engine(batch_invariant=True, max_batch=2 * len(NAMES), runner=runner, device="cpu")


def plans(engine: Engine) -> list[Plan]:
    """One of every sampler for the schedule, of 1 to 9 model calls."""
    return [
        plan_for(
            name,
            engine.model.schedule,
            possible(name, 1 + (i * 4 + 2) % 9),
            **GUIDANCE[i % len(GUIDANCE)],
            **OWN.get(name, {}),
        )
        for i, name in enumerate(NAMES)
    ]


def alone(engine: Engine, plan: Plan, seed: int) -> torch.Tensor:
    return engine.sample(labels=[seed % 10], seeds=[seed], plan=plan).images[0]


@pytest.mark.slow
def test_a_batch_of_all_samplers_is_bitwise_each_alone(engine: Engine) -> None:
    each = plans(engine)
    assert {plan.history for plan in each} == {0, 1, 2, 3, 4}
    assert {plan.stochastic for plan in each} == {plan.guided for plan in each} == {True, False}
    assert any(plan.closed for plan in each)
    assert len({len(plan) for plan in each}) >= 5
    seeds = list(range(40, 40 + len(each)))
    for _ in range(3):  # a graph is captured at the third time
        company = engine.sample(labels=[seed % 10 for seed in seeds], seeds=seeds, plan=each).images
    assert engine.stats().get("captures", 1) == 1
    for plan, seed, image in zip(each, seeds, company, strict=True):
        assert torch.isfinite(image).all()
        assert torch.equal(image, alone(engine, plan, seed)), plan.sampler


@pytest.mark.slow
def test_samplers_that_come_and_go_are_bitwise_each_alone(engine: Engine) -> None:
    """Eight at once, the next as soon as one is done: each in the company of those that happen to be there."""
    waiting = list(enumerate(plans(engine), start=40))
    found: dict[int, torch.Tensor] = {}
    running: dict[int, tuple[int, Plan]] = {}
    with engine.session(
        SLOTS, 2 * len(NAMES), steps=STEPS, history=MAX_HISTORY, features=("stochastic", "statistics")
    ) as session:
        while waiting or running:
            while waiting and session.accepts(*engine.samples(labels=[0], seeds=0, plan=waiting[0][1])):
                seed, plan = waiting.pop(0)
                (slot,) = session.admit(*engine.samples(labels=[seed % 10], seeds=[seed], plan=plan))
                running[slot] = seed, plan
            for slot in session.advance(1):
                seed, plan = running.pop(slot)
                found[seed] = session.take(slot).values[0]
                assert torch.equal(found[seed], alone(engine, plan, seed)), plan.sampler
    assert len(found) == len(NAMES) >= 8
