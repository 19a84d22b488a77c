"""A module of convolutions along a sequence, that the engine knows nothing of: a diffusion policy, x [B, C, L]."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep import Engine, Model, schedules
from fewstep.errors import ArgumentError
from fewstep.run.graphs.runner import GraphRunner
from support.policy import PolicyUNet
from support.recorder import RecorderCapturer

ACTIONS, LENGTH, SEEN, LEVELS = 7, 16, 10, 100
BUDGET = 10**9  # bytes of graphs, more than any test takes


def policy(runner: Any = "eager", dtype: torch.dtype = torch.float64) -> Engine:
    """As such policies are trained: a cosine schedule of 100 levels, eps."""
    net = PolicyUNet(ACTIONS, SEEN).to(dtype)
    model = Model(net, schedule=schedules.cosine(LEVELS), shape=(ACTIONS, LENGTH))
    return Engine(model, runner=runner)


def seen(batch: int) -> Tensor:
    return torch.randn(batch, SEEN, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


@torch.no_grad()
def plain_loop(engine: Engine, sampler: str, steps: int, noise: Tensor, condition: Tensor) -> Tensor:
    """DDIM with eta 0 (Song et al. 2021, equation 12) or DDPM (Ho et al. 2020, equation 7), written out.

    noise [N + 1, B, C, L]: where it begins, then that of each step.
    """
    kept = torch.tensor(engine.model.schedule.alphas_cumprod, dtype=torch.float64)
    times = [LEVELS - 1 - step * (LEVELS // steps) for step in range(steps)]
    x = noise[0]
    for step, t in enumerate(times):
        now, then = kept[t], kept[times[step + 1]] if step + 1 < steps else torch.ones((), dtype=torch.float64)
        eps = engine.model.module(x, torch.full((len(x),), t), global_cond=condition)
        x_0 = ((x - (1 - now).sqrt() * eps) / now.sqrt()).clamp(-1, 1)
        if sampler == "ddim":
            x = then.sqrt() * x_0 + (1 - then).sqrt() * eps
        else:
            beta = 1 - now / then
            mean = then.sqrt() * beta / (1 - now) * x_0 + (1 - beta).sqrt() * (1 - then) / (1 - now) * x
            x = mean + (beta * (1 - then) / (1 - now)).sqrt() * noise[step + 1]
    return x


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_four_steps_are_those_of_a_plain_loop(sampler: str) -> None:
    engine, condition = policy(), seen(3)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(5, 3, ACTIONS, LENGTH, generator=generator, dtype=torch.float64)
    expected = plain_loop(engine, sampler, 4, noise, condition)
    given = {"global_cond": condition}
    found = engine.sample(3, steps=4, sampler=sampler, clip=1.0, noise=noise, condition=given).images
    assert found.shape == (3, ACTIONS, LENGTH)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


def test_a_batch_of_mixed_plans_gives_each_what_it_is_alone() -> None:
    engine, condition = policy(), seen(4)
    asked = [("ddim", 4), ("ddpm", 3), ("euler", 2), ("dpmpp_2m", 6)]
    plans = [engine.plan(steps=steps, sampler=sampler) for sampler, steps in asked]
    together = engine.sample(plan=plans, seeds=5, condition={"global_cond": condition}).images
    for place, plan in enumerate(plans):
        own = {"global_cond": condition[place : place + 1]}
        alone = engine.sample(plan=[plan], seeds=[5 + place], condition=own).images
        torch.testing.assert_close(together[place : place + 1], alone, rtol=1e-10, atol=1e-11)


def test_a_graph_replays_it_for_every_condition() -> None:
    runner = GraphRunner(RecorderCapturer(), BUDGET)
    eager, graph = policy(dtype=torch.float32), policy(runner, torch.float32)
    for seed, condition in enumerate((seen(2), seen(3)[1:], -seen(2), 2 * seen(2))):
        given = {"steps": 4, "sampler": "ddpm", "seeds": seed, "condition": {"global_cond": condition}}
        assert torch.equal(graph.sample(2, **given).images, eager.sample(2, **given).images)
    assert runner.stats()["captures"] == 1
    assert runner.stats()["hits"] > 1


def test_a_session_takes_sequences_as_they_come() -> None:
    engine, condition = policy(), seen(2)
    first, second = engine.samples(2, steps=3, seeds=0, condition={"global_cond": condition})
    wanted = engine.sample(2, steps=3, seeds=0, condition={"global_cond": condition}).images
    with engine.session(2, like=first) as session:
        session.admit(first)
        session.advance(1)
        session.admit(second)
        done: dict[int, Tensor] = {}
        while session.left:
            done |= {slot: session.take(slot).values for slot in session.advance(1)}
    found = [done[slot].view(ACTIONS, LENGTH) for slot in (0, 1)]
    torch.testing.assert_close(torch.stack(found), wanted, rtol=1e-10, atol=1e-11)


def test_a_policy_without_what_it_sees_or_of_another_shape_is_told_so() -> None:
    engine = policy()
    with pytest.raises(ArgumentError, match="global_cond"):
        engine.sample(1)
    with pytest.raises(ArgumentError, match="noise"):
        engine.sample(1, noise=torch.zeros(1, ACTIONS, LENGTH + 2), condition={"global_cond": seen(1)})
