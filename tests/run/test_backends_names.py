"""Which backend a name means, and where."""

from typing import Any

import pytest
import torch

from fewstep import ArgumentError, Engine
from fewstep.run.backends import choose
from fewstep.run.backends.names import ENVIRONMENT, backend_asked, threads_asked
from support.small import small_engine

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
FLOAT, DOUBLE = torch.float32, torch.float64


def asked_of(engine: Engine) -> tuple[str, bool]:
    return engine.stats()["backend"]["asked"], engine._network.auto is not None


@pytest.mark.parametrize(
    ("said", "argument", "found"),
    [
        ("", "auto", ("auto", True)),
        ("auto", "auto", ("auto", True)),
        ("torch", "auto", ("torch", False)),
        ("openvino", "auto", ("openvino", False)),
        ("compile", "auto", ("compile", False)),
        ("torch", "openvino", ("openvino", False)),
        ("openvino", "torch", ("torch", False)),
    ],
)
def test_argument_goes_before_environment_before_auto(
    said: str, argument: Any, found: tuple[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT, said)
    monkeypatch.setattr(choose, "find_spec", lambda name: name)
    assert asked_of(small_engine(backend=argument)) == found


def test_auto_without_openvino_is_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "")
    monkeypatch.setattr(choose, "find_spec", lambda name: None)
    assert asked_of(small_engine()) == ("torch", False)


def test_bits_that_depend_on_nobody_are_torchs_unless_a_backend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "find_spec", lambda name: name)
    monkeypatch.setenv(ENVIRONMENT, "")
    assert asked_of(small_engine(batch_invariant=True)) == ("torch", False)
    assert asked_of(small_engine(batch_invariant=True, backend="openvino")) == ("openvino", False)
    monkeypatch.setenv(ENVIRONMENT, "openvino")
    assert asked_of(small_engine(batch_invariant=True)) == ("openvino", False)


def test_environment_is_for_where_it_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "openvino")
    assert backend_asked("auto", CUDA, FLOAT) == "torch"
    assert backend_asked("auto", CPU, DOUBLE) == "torch"
    assert backend_asked("auto", CPU, torch.bfloat16) == "openvino"


@pytest.mark.parametrize(
    ("backend", "device", "dtype", "error"),
    [
        ("openvno", CPU, FLOAT, "backend: got 'openvno'; allowed: .*did you mean 'openvino'"),
        (None, CPU, FLOAT, "backend: got None; allowed: auto, torch, compile, openvino"),
        ("openvino", CUDA, FLOAT, "backend: got 'openvino'; allowed: torch on cuda"),
        ("compile", CPU, DOUBLE, "backend: got 'compile'; allowed: torch in float64"),
    ],
)
def test_backend_that_is_not_to_be_had_is_refused(
    backend: Any, device: torch.device, dtype: torch.dtype, error: str
) -> None:
    with pytest.raises(ArgumentError, match=error):
        backend_asked(backend, device, dtype)


def test_threads_are_for_what_auto_may_become(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "torch")
    assert asked_of(small_engine(threads=2)) == ("torch", False)
    with pytest.raises(ArgumentError, match="threads: got 0"):
        small_engine(threads=0)


def test_nonsense_in_the_environment_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "fast")
    with pytest.raises(ArgumentError, match="FEWSTEP_BACKEND: got 'fast'; allowed: auto, torch, compile, openvino"):
        small_engine()


@pytest.mark.parametrize(
    ("threads", "backend", "error"),
    [
        (2, "torch", "threads: got 2; allowed: None with backend torch: torch.set_num_threads"),
        (2, "compile", "threads: got 2; allowed: None with backend compile"),
        (0, "openvino", "threads: got 0; allowed: None, or an integer from 1 to 1024"),
        (True, "openvino", "threads: got True"),
        ("2", "auto", "threads: got '2'"),
    ],
)
def test_threads_that_are_not_to_be_had_are_refused(threads: Any, backend: str, error: str) -> None:
    with pytest.raises(ArgumentError, match=error):
        threads_asked(threads, backend)
    assert threads_asked(None, backend) is None
    assert threads_asked(2, "openvino") == 2
