"""Whatever an engine is asked for, its backends draw torch's images."""

from collections.abc import Callable

import pytest
import torch

from fewstep.run.backends.backend import Backend
from fewstep.run.backends.compiled import Compiled
from fewstep.run.backends.openvino import OpenVino
from fewstep.run.backends.parity import BOUNDS
from support.backends import Copying, on_backend
from support.requests import CHANNELS, REQUESTS, Pair, pair
from support.small import PureNet


def on(backend: Callable[[], Backend], dtype: torch.dtype = torch.float32) -> Pair:
    whole, parts = pair(PureNet(CHANNELS), dtype=dtype)
    return on_backend(whole, backend()), on_backend(parts, backend())


@pytest.fixture(scope="module")
def torchs() -> Pair:
    return pair(PureNet(CHANNELS))


@pytest.fixture(scope="module")
def copying() -> Pair:
    return on(Copying)


@pytest.mark.parametrize("asked", REQUESTS)
def test_nobody_keeps_an_answer_that_the_next_call_overwrites(asked: str, torchs: Pair, copying: Pair) -> None:
    torch.testing.assert_close(REQUESTS[asked](copying), REQUESTS[asked](torchs), rtol=0, atol=0, equal_nan=True)
    assert {engine.stats()["backend"]["name"] for engine in copying} <= {"copying", "torch"}


def check(asked: str, ours: Pair, torchs: Pair, name: str) -> None:
    dtype = ours[0].dtype
    found, expected = REQUESTS[asked](ours), REQUESTS[asked](torchs)
    finite = expected.isfinite()
    assert torch.equal(finite, found.isfinite())
    error = float((found - expected)[finite].norm() / expected[finite].norm())
    bound = BOUNDS[dtype] + ("bytes" in asked) / 127.5
    print(f"{asked}, {name}, {dtype}: {error:.1e} of {bound:.0e}")
    assert error <= bound
    calls = [call for engine in ours for call in engine.stats()["backend"]["calls"]]
    assert {call["backend"] for call in calls} == {name}, calls


@pytest.fixture(scope="module")
def openvino() -> Pair:
    pytest.importorskip("openvino")
    return on(lambda: OpenVino(torch.float32))


@pytest.mark.slow
@pytest.mark.parametrize("asked", REQUESTS)
def test_openvino_draws_torchs_images(asked: str, openvino: Pair, torchs: Pair) -> None:
    check(asked, openvino, torchs, "openvino")


LONGER: dict[str, Callable[[], tuple[Pair, Pair, str]]] = {
    "openvino bfloat16": lambda: longer(lambda: OpenVino(torch.bfloat16), torch.bfloat16),
    "compile float32": lambda: longer(Compiled, torch.float32),
    "compile bfloat16": lambda: longer(Compiled, torch.bfloat16),
}


def longer(backend: Callable[[], Backend], dtype: torch.dtype) -> tuple[Pair, Pair, str]:
    return on(backend, dtype), pair(PureNet(CHANNELS), dtype=dtype), backend().name


@pytest.mark.long
@pytest.mark.parametrize("backend", LONGER)
def test_other_backends_draw_torchs_images(backend: str) -> None:
    ours, torchs, name = LONGER[backend]()
    for asked in REQUESTS:
        check(asked, ours, torchs, name)
