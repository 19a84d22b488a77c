"""POST /v1/rollouts: what is told of a trajectory, and that its bits do not depend on company."""

import base64
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from fewstep.errors import ArgumentError
from fewstep.serve.http.routes.rollouts import check_states
from support.serving import Remote, running_server, tiny_engine, tiny_family


@pytest.fixture(scope="module")
def remote() -> Iterator[Remote]:
    with running_server(tiny_family(batch_invariant=True)) as remote:
        yield remote


def rollout(remote: Remote, **fields: Any) -> Any:
    answer = remote.post("/v1/rollouts", {"sampler": "ddpm", "steps": 3, "seed": 1, "labels": [2]} | fields)
    assert answer.status == 200, answer.body
    return answer.json


def states(trajectory: Any) -> Any:
    raw = np.frombuffer(base64.b64decode(trajectory["states"]), "<f4")
    return raw.reshape(trajectory["states_shape"])


def test_a_trajectory_is_the_engines(remote: Remote) -> None:
    told = rollout(remote, states=True)
    assert told["batch_invariant"] is True
    one = told["data"][0]
    engine = tiny_engine(batch_invariant=True)
    seen = []
    samples = engine.sample(
        labels=[2], steps=3, sampler="ddpm", seeds=[1], log_prob=True, callback=lambda step: seen.append(step.x.clone())
    )
    assert samples.log_prob is not None
    assert one["fewstep"]["steps"] == 3
    assert one["log_prob"][:2] == pytest.approx(samples.log_prob[0, :2].tolist(), rel=1e-5)
    assert one["log_prob"][2] is None  # the last step of ddpm adds no noise
    assert one["states_shape"] == [4, 3, 8, 8]
    np.testing.assert_allclose(states(one)[1:], torch.stack(seen)[:, 0].numpy(), atol=1e-5)


def test_without_pictures_or_states(remote: Remote) -> None:
    one = rollout(remote, images=False, n=2)["data"][1]
    assert one["b64_json"] is one["states"] is one["states_shape"] is None
    assert one["fewstep"]["seed"] == 2


def test_bits_do_not_depend_on_company(remote: Remote) -> None:
    alone = [rollout(remote, seed=seed, steps=steps, states=True)["data"][0] for seed, steps in ((7, 2), (8, 6))]
    found: dict[int, Any] = {}

    def ask(seed: int, steps: int) -> None:
        found[seed] = rollout(remote, seed=seed, steps=steps, states=True, n=1)["data"][0]

    asked = [(7, 2), (8, 6), *((seed, 1 + seed % 5) for seed in range(20, 32))]
    threads = [threading.Thread(target=ask, args=each) for each in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for before, seed in zip(alone, (7, 8), strict=True):
        for field in ("b64_json", "log_prob", "states"):
            assert found[seed][field] == before[field]


def test_a_server_that_is_not_invariant_says_so() -> None:
    with running_server(tiny_family()) as remote:
        refused = remote.post("/v1/rollouts", {"labels": [1], "steps": 1})
        assert (refused.status, refused.error["param"]) == (400, "require_batch_invariant")
        told = rollout(remote, require_batch_invariant=False)
        assert told["batch_invariant"] is False
        assert len(told["data"][0]["log_prob"]) == 3
        deterministic = rollout(remote, require_batch_invariant=False, sampler="ddim")
        assert deterministic["data"][0]["log_prob"] == [None, None, None]


def test_states_that_are_too_large_are_refused() -> None:
    check_states(10, 8, (4, 128, 128))
    with pytest.raises(ArgumentError, match="at most 33,554,432 bytes"):
        check_states(1, 128, (3, 512, 512))
