"""benchmarks/unets.py on a CPU: what it times, what it says of what it cannot, and that what is wrong has no speed."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from support.gpu_parts import load

unets: Any = load("unets")
cases: Any = load("unet_cases")

pytestmark = pytest.mark.slow

CALLS = ["fewstep", "fewstep, graph", "diffusers", "diffusers, channels last", "diffusers, compiled"]


def walked(part: str, folder: Path) -> tuple[int, dict[str, Any]]:
    """The exit code and the report of a dry run."""
    options = {"part": part, "out": folder / part, "device": torch.device("cpu"), "dry_run": True, "compile": False}
    code = unets.Unets(argparse.Namespace(**options)).run()
    report: dict[str, Any] = json.loads((folder / f"{part}.json").read_text())
    return code, report


def statuses(report: dict[str, Any], **about: Any) -> dict[str, str]:
    rows = [row for row in report["rows"] if about.items() <= row.items()]
    return {row["contender"]: row["status"].split(":")[0] for row in rows}


def test_a_call_and_a_run_and_a_decode_stand_beside_diffusers(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    code, report = walked("sd15", tmp_path)
    assert (code, report["checks"]["failed"]) == (0, 0)
    assert report["checks"]["passed"] == 3 + 1 + 2 + 2  # of a network, its call's graph, its runs', the decode
    expected = dict.fromkeys(CALLS, "measured") | {"diffusers, compiled": "not run"}
    assert statuses(report, network="sd15", work="call", batch=2) == expected
    for steps in (1, 4):
        assert statuses(report, work="run", steps=steps) == dict.fromkeys(CALLS[:2], "measured")
    assert statuses(report, work="decode") == {"diffusers": "measured", "fewstep": "measured"}
    assert {row["weights"] for row in report["rows"] if "weights" in row} == {cases.RANDOM_WEIGHTS}
    assert (tmp_path / "sd15.csv").exists()


def test_small_models_are_measured_at_the_steps_that_they_are_for(tmp_path: Path) -> None:
    code, report = walked("small", tmp_path)
    assert (code, report["checks"]["failed"]) == (0, 0)
    ran = {(row["network"], row["steps"]) for row in report["rows"] if row["work"] == "run"}
    assert ran == {("cifar10-ddpm", 1), ("cifar10-ddpm", 4), ("digits/4-step", 4), ("digits/1-step", 1)}
    assert statuses(report, network="digits/4-step", work="call")["diffusers"] == "not run"


def test_without_diffusers_fewstep_is_checked_against_torchs_own_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    code, report = walked("sdxl", tmp_path)
    assert (code, report["checks"]["failed"]) == (0, 0)
    expected = {name: "not run" if "diffusers" in name else "measured" for name in CALLS}
    assert statuses(report, network="sdxl", work="call") == expected
    assert [row["status"] for row in report["rows"] if row["work"] == "decode"] == [f"not run: {cases.NOT_INSTALLED}"]


def test_what_is_wrong_has_no_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = unets.our_call

    def off(network: Any, x: Tensor, t: Tensor) -> Any:
        wrong = 1.01 if not torch.is_grad_enabled() else 1.0  # with gradients it is what it is checked against
        return lambda: wrong * right(network, x, t)()

    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.setattr(unets, "our_call", off)
    code, report = walked("sd15", tmp_path)
    assert code == 1
    assert report["checks"]["failed"] == 1
    assert not [row for row in report["rows"] if row["status"] == "measured"]
