"""`pytest benchmarks/`: it times what is right, fails what is wrong, and writes what pytest-benchmark's JSON holds."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from support.gpu_parts import load
from support.tree import ROOT

pytest.importorskip("pytest_benchmark")
pytest.importorskip("triton")
op_cases: Any = load("op_cases")
op_work: Any = load("op_work")

OPS = ["add_noise, digits 28x28, float32", "layer_norm, SD 16x16, float32"]


@pytest.mark.long
def test_the_json_has_the_parity_and_the_machine_beside_the_times(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    chosen = f"({' or '.join(name.split(',')[0] for name in OPS)}) and (ours or eager) and not network"
    command = [sys.executable, "-m", "pytest", "benchmarks/", "-q", "-p", "no:cacheprovider", "-k", chosen]
    env = {name: value for name, value in os.environ.items() if "XDIST" not in name}  # beside workers it times nothing
    run = subprocess.run([*command, "--benchmark-json", str(file)], cwd=ROOT, env=env, capture_output=True, text=True)
    print(run.stdout, run.stderr)
    assert run.returncode == 0
    data = json.loads(file.read_text())
    assert data["machine_info"]["fewstep"]["torch"] == torch.__version__
    found = {each["group"] for each in data["benchmarks"]}
    assert found >= set(OPS)
    for each in data["benchmarks"]:
        extra = each["extra_info"]
        assert extra["difference"] <= extra["allowed"]
        assert extra["gb_s"] == pytest.approx(extra["bytes"] / each["stats"]["median"] / 1e9)
        assert len(each["stats"]["data"]) == each["stats"]["rounds"] == 30


class Unused:
    """A benchmark that must not be run."""

    def __init__(self) -> None:
        self.extra_info: dict[str, Any] = {}

    def pedantic(self, *_: Any, **__: Any) -> None:
        raise AssertionError("it was timed")


def test_a_wrong_op_fails_before_it_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    timed_ops: Any = load("test_op_speed")
    case = next(each for each in op_cases.tiny_cases() if each.op == "geglu")
    work, parity = timed_ops.ready(case, torch.device("cpu"))
    halved = op_work.Call(lambda **given: work.ours.function(**given) / 2, work.ours.arguments)
    spoiled = op_work.Work(halved, work.eager, work.exact, work.bytes)
    monkeypatch.setattr(timed_ops, "ready", lambda case, device: (spoiled, parity))
    with pytest.raises(pytest.fail.Exception, match=r"geglu, tiny, float32, ours: wrong: off by 5\.0e-01"):
        timed_ops.measured(case, "ours", torch.device("cpu"), lambda: None, Unused())


def test_a_wrong_network_fails_before_it_is_timed_and_an_absent_one_is_skipped_with_its_reason() -> None:
    timed_networks: Any = load("test_network_speed")
    case, contender = timed_networks.Case("ddim", 1, 1), timed_networks.Contender("diffusers")
    agreement = timed_networks.Agreement(0.5, 1e-4, 1.0, 3.0)
    racer = SimpleNamespace(contender=contender, absent=lambda case: "")
    with pytest.raises(pytest.fail.Exception, match=r"wrong: diffusers .* differ by 5\.0e-01"):
        timed_networks.measured(case, racer, agreement, torch.device("cpu"), Unused())
    racer.absent = lambda case: "not installed"
    with pytest.raises(pytest.skip.Exception, match="not installed"):
        timed_networks.measured(case, racer, None, torch.device("cpu"), Unused())


def test_make_test_collects_no_benchmarks(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.getini("testpaths") == ["tests"]
