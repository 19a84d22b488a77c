"""When a network is made ready for a request that is all that comes: where that saves more time than it costs."""

import time
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from fewstep import Engine, Model, schedules
from fewstep.run.backends import auto as of_auto
from fewstep.run.backends.worth import pays
from support.backends import Copying, on_backend
from support.small import SmallNet, small_engine

TWICE = {"milliseconds": 50.0, "torch_milliseconds": 100.0}


@pytest.mark.parametrize(
    ("calls", "seconds", "found", "parameters", "expected"),
    [
        (4, 0.01, TWICE, 1e6, False),  # a digit
        (400, 0.01, None, 1e6, False),
        (1600, 0.01, None, 1e6, True),
        (400, 0.01, TWICE, 1e6, True),
        (400, 0.01, {"milliseconds": 95.0, "torch_milliseconds": 100.0}, 1e6, False),
        (20, 5.0, None, 860e6, False),
        (50, 5.0, None, 860e6, True),
        (4, 5.0, TWICE, 860e6, True),
    ],
)
def test_it_pays_where_more_is_saved_than_spent(
    calls: int, seconds: float, found: Mapping[str, Any] | None, parameters: float, expected: bool
) -> None:
    assert pays(calls, seconds, lambda: time.sleep(min(seconds, 0.01)), lambda: found, int(parameters)) == expected


def test_a_short_request_neither_calls_again_nor_asks_what_is_known() -> None:
    asked: list[str] = []
    assert not pays(4, 0.1, lambda: asked.append("again"), lambda: asked.append("found"), 1)  # type: ignore[func-returns-value]
    assert asked == []


def test_a_first_call_that_was_slow_is_timed_again() -> None:
    assert not pays(100, 0.9, lambda: None, lambda: TWICE, 1)


def test_a_long_call_is_not_made_twice() -> None:
    def again() -> None:
        raise AssertionError

    assert pays(100, 5.0, again, lambda: TWICE, 1)


def test_an_engine_for_one_small_request_stays_with_torch_and_says_why() -> None:
    request: dict[str, Any] = {"labels": [1, 2], "seeds": 0, "steps": 3}
    one, all_day = Copying(), Copying()
    engine = on_backend(small_engine(SmallNet(), once=True), one, only_if_faster=True)
    samples = engine.sample(**request)
    assert (one.made, engine.backend, samples.parameters_of(0)["backend"]) == ([], "torch", "torch")
    assert engine.stats()["backend"]["calls"][0]["why"] == "too few calls to save what it costs"
    other = on_backend(small_engine(SmallNet()), all_day, only_if_faster=True)
    assert torch.equal(samples.images, other.sample(**request).images)
    assert len(all_day.made) == 1


def test_batches_of_a_request_that_is_all_are_decided_together(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(of_auto, "pays", lambda calls, *_: bool(asked.append(calls)) or len(asked) == 1)  # type: ignore[func-returns-value]
    backend = Copying()
    engine = on_backend(small_engine(SmallNet(), once=True, max_batch=4), backend, only_if_faster=True)
    samples = engine.sample(labels=[1] * 10, seeds=0, steps=3)
    assert asked == [9]  # three batches of three steps
    assert len(backend.made) == 2  # of four lanes and of two
    assert samples.ready_seconds > 0
    assert engine.sample(labels=[1] * 10, seeds=0, steps=3).ready_seconds == 0


def test_auto_that_takes_torch_has_the_bits_of_torch_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch by name packs weights, and a packed layer rounds otherwise."""
    pytest.importorskip("openvino")
    monkeypatch.setenv("FEWSTEP_BACKEND", "")
    request: dict[str, Any] = {"n": 2, "seeds": 0, "steps": 2}
    how: dict[str, Any] = {"backend": "torch", "device": "cpu"}
    net = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.Tanh(), nn.Conv2d(64, 64, 1))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return self.net(x)  # type: ignore[no-any-return]

    model = Model(Net(), schedule=schedules.linear(), shape=(64, 8, 8))
    named = Engine(model, **how)
    by_itself = Engine(model, device="cpu", backend="auto", once=True)
    assert torch.equal(by_itself.sample(**request).images, named.sample(**request).images)
    assert by_itself.backend == "torch"
    assert by_itself._network.otherwise is not None
    assert named.stats()["backend"]["calls"][0]["packed"] > 0
    assert by_itself._network.otherwise.stats()["calls"][0]["packed"] > 0
