"""The scripts that look first at a GPU: what they make of refusals, hangs and wrong results."""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from test_gpu_script import load

pytest.importorskip("triton")
ncu: Any = load("ncu")
smoke: Any = load("smoke")
sweep: Any = load("sweep")
golden: Any = load("golden")
build_modules: Any = load("build_modules")
measure: Any = load("measure")
isolated: Any = load("isolated")

TABLE = """==PROF== Connected to process 7
the kernels have run
==PROF== Disconnected from process 7
"ID","Process ID","Kernel Name","Section Name","Metric Name","Metric Unit","Metric Value"
"0","7","attention_fwd","GPU Speed Of Light Throughput","Duration","us","98.1"
"0","7","attention_fwd","Launch Statistics","Registers Per Thread","register/thread","168"
"0","7","attention_fwd","Occupancy","","",""
"""
NOT_ALLOWED = "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access the counters\n"


def looked(monkeypatch: pytest.MonkeyPatch, answers: list[tuple[str, int | None]]) -> Any:
    """The report of ncu.py where the tool answers so, subject by subject."""
    monkeypatch.setattr(ncu, "run", lambda argv, seconds: answers.pop(0))
    report = measure.Report(None, {})
    ncu.look(report, "/bin/ncu", 0.0)
    return report


def test_the_tools_table_becomes_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    report = looked(monkeypatch, [(TABLE, 0)] * 3)
    assert (report.passed, report.failed, report.not_run) == (3, 0, [])
    assert len(report.rows) == 6
    assert report.rows[1] == {
        "subject": "attention d40",
        "kernel": "attention_fwd",
        "section": "Launch Statistics",
        "metric": "Registers Per Thread",
        "unit": "register/thread",
        "value": "168",
    }


def test_a_machine_that_does_not_allow_it_is_asked_once_and_nothing_is_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    report = looked(monkeypatch, [(NOT_ALLOWED, 1)])
    assert (report.passed, report.failed) == (0, 0)
    (reason,) = report.not_run
    assert reason.startswith("ncu on attention d40: ERR_NVGPUCTRPERM - The user does not have permission")
    report = looked(monkeypatch, [("", None), ("what?", 3), (TABLE, 0)])
    assert (report.passed, report.failed) == (1, 0)
    assert [each.split(": ")[1] for each in report.not_run] == ["it did not end in time", "no table, exit code 3"]


def test_without_the_tool_the_reason_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ncu, "tool_path", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ncu, "describe", lambda device: {})
    assert ncu.main(["--out", str(tmp_path / "ncu")]) == 77
    assert json.loads((tmp_path / "ncu.json").read_text())["not_run"] == ["ncu is not on this machine"]


def test_the_tool_waits_for_the_last_launches_alone() -> None:
    argv = ncu.command("/bin/ncu", "group_norm_silu")
    options = dict(itertools.pairwise(argv))
    assert (options["--launch-skip"], options["--launch-count"]) == ("2", "2")
    assert options["--kernel-name"] == "regex:_moments_kernel|_normalise_kernel"


def answered(monkeypatch: pytest.MonkeyPatch, script: Any, answers: dict[str, Any], tmp_path: Path) -> tuple[int, Any]:
    """The exit code and the report of a script whose child answers so, and else that all is right."""

    def run_isolated(command: list[str], cases: list[str], start: float, seconds: float) -> Any:
        for case in cases:
            found = answers.get(case, {"error": 1e-3, "allowed": 2e-3})
            yield isolated.Ended(case, None, found) if isinstance(found, str) else isolated.Ended(case, found)

    monkeypatch.setattr(script, "run_isolated", run_isolated)
    monkeypatch.setattr(sys, "argv", ["script", "--dry-run", "--out", str(tmp_path / "report")])
    return script.main(), json.loads((tmp_path / "report.json").read_text())


def test_a_hang_names_the_kernel_the_head_dim_and_the_barrier(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers = {
        "sm_90 d40 many": "exit code 1; barrier 3, parity 1",
        "sm_80 d64 few": {"error": 3e-3, "allowed": 2e-3},
        "sm_80 d80 few": {"error": float("nan"), "allowed": 2e-3},
    }
    code, report = answered(monkeypatch, smoke, answers, tmp_path)
    assert code == 1
    assert report["checks"]["failed"] == 3
    assert report["wrong"][2] == "sm_90 d40 many: ended its process: exit code 1; barrier 3, parity 1"
    kinds = {(row["case"].split()[0], row["case"].split()[2]) for row in report["rows"]}
    assert kinds == {(kernel, lengths) for kernel in ("sm_90", "sm_80") for lengths in ("few", "many")}


def test_many_tiles_are_more_than_there_are_blocks() -> None:
    case = smoke.Smoke.named("sm_90 d40 many").case(132)
    assert case.H * -(-case.Lq // 128) > 4 * 132
    assert case.Lk > 2 * 128


def test_a_kernel_is_really_run_and_compared() -> None:
    found = smoke.run("sm_90 d40 few", torch.device("cpu"))
    assert 0 < found["error"] <= found["allowed"] < 1e-2


def swept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wrong: dict[str, Any]) -> tuple[int, dict[str, Any], Any]:
    """The exit code, the rows of one case by design, and the report, where designs answer so and else are right."""
    asked: list[list[str]] = []

    def run_isolated(command: list[str], items: list[str], start: float, seconds: float) -> Any:
        for item in items:
            case = json.loads(item)
            if "design" in case:
                found = wrong.get(case["design"], {"error": 1e-3, "allowed": 2e-3})
                yield isolated.Ended(item, None, found) if isinstance(found, str) else isolated.Ended(item, found)
            else:
                asked.append(case["designs"])
                names = ["torch", *case["designs"]]
                timing = {
                    name: {"us": 4.0 + i, "us_p10": 3.0, "us_p90": 9.0, "repeats": 7} for i, name in enumerate(names)
                }
                yield isolated.Ended(item, timing)

    monkeypatch.setattr(sweep, "run_isolated", run_isolated)
    monkeypatch.setattr(sweep, "designs", lambda device, D: ["exact", "padded", "lazy"])
    monkeypatch.setattr(sys, "argv", ["sweep.py", "--dry-run", "--out", str(tmp_path / "sweep")])
    code = sweep.main()
    report = json.loads((tmp_path / "sweep.json").read_text())
    return code, {row["design"]: row for row in report["rows"] if row["case"] == "tiny self"}, asked[0]


def test_a_design_is_timed_beside_the_chosen_one_only_if_it_is_right(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, rows, timed = swept(
        monkeypatch, tmp_path, {"lazy": {"error": 3e-3, "allowed": 2e-3}, "padded": "exit code 1"}
    )
    assert (code, timed) == (1, ["exact"])
    assert {name: row["status"] for name, row in rows.items()} == {
        "torch": "measured",
        "exact": "measured",
        "padded": "ended its process: exit code 1",
        "lazy": "wrong: off by 3.0e-03",
    }
    code, rows, timed = swept(monkeypatch, tmp_path, {})
    assert (code, timed) == (0, ["exact", "padded", "lazy"])
    assert (rows["padded"]["of_torch"], rows["padded"]["of_chosen"]) == (4 / 6, 5 / 6)


def test_exact_designs_may_be_wrong_where_the_library_pads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sweep, "EXACT_WIDTHS", False)
    monkeypatch.setattr(sweep, "chosen_design", lambda: "padded")
    wrong = {"error": 3e-3, "allowed": 2e-3}
    monkeypatch.setattr(sweep, "TINY", sweep.TINY[:1])
    code, rows, timed = swept(monkeypatch, tmp_path, {"exact": wrong, "lazy": wrong})
    assert (code, timed) == (0, ["padded"])
    assert rows["exact"]["status"] == "wrong: off by 3.0e-03"
    assert swept(monkeypatch, tmp_path, {"padded": wrong})[0] == 1
    assert sweep.must_be_right("exact", 64)
