"""benchmarks/sanitizer.py without its tool: what it runs, and what it makes of each answer."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from support.gpu_parts import CLEAN, load
from support.simulation import builder

sanitizer: Any = load("sanitizer")
exercises: Any = load("exercise_attention")
measure: Any = load("measure")

EVERY = [("attention", tool) for tool in ("memcheck", "racecheck", "synccheck", "initcheck")]
EVERY += [("ops", tool) for tool in ("memcheck", "racecheck", "synccheck")]


def judged(monkeypatch: pytest.MonkeyPatch, answers: dict[tuple[str, str], tuple[str, str]]) -> Any:
    """The report after every tool gave these answers, or else that all is clean."""
    by_command = {each.command: name for name, each in sanitizer.EXERCISES.items()}

    def under(tool: str, path: str, what: tuple[str, ...], seconds: float) -> tuple[str, str]:
        return answers.get((by_command[what], tool), ("clean", "0 found"))

    monkeypatch.setattr(sanitizer, "under", under)
    report = measure.Report(None, {})
    sanitizer.judge(report, "compute-sanitizer", ["attention", "ops"], 0.0)
    return report


def test_every_tool_looks_at_every_exercise(monkeypatch: pytest.MonkeyPatch) -> None:
    report = judged(monkeypatch, {})
    assert [(row["kernels"], row["tool"]) for row in report.rows] == EVERY
    assert (report.passed, report.failed, report.not_run) == (7, 0, [])


def test_what_is_found_fails_and_what_did_not_run_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {("attention", "racecheck"): ("errors", "3 found"), ("ops", "memcheck"): ("not run", "it did not end")}
    report = judged(monkeypatch, found)
    assert (report.passed, report.failed, report.not_run) == (5, 1, ["memcheck on ops: it did not end"])


def test_the_tool_is_asked_for_an_exit_code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], seconds: float) -> tuple[str, int]:
        commands.append(command)
        return CLEAN, 0

    monkeypatch.setattr(sanitizer, "run", run)
    assert sanitizer.under("initcheck", "/bin/tool", ("a.py",), 5.0) == ("clean", "0 found")
    assert commands[0][:5] == ["/bin/tool", "--tool", "initcheck", "--error-exitcode", "86"]
    assert commands[0][-1] == "a.py"


@pytest.mark.parametrize("built", [True, False], ids=["built", "not built"])
def test_attention_that_is_not_built_is_not_run(built: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sanitizer, "own_refusal", lambda device: None if built else "it is not built")
    monkeypatch.setattr(sanitizer, "run", lambda command, seconds: (CLEAN, 0))
    report = measure.Report(None, {})
    names = sanitizer.runnable(report, list(sanitizer.EXERCISES), torch.device("cpu"), 0.0)
    assert names == (["attention", "ops"] if built else ["ops"])
    assert report.not_run == ([] if built else ["attention: it is not built"])


def test_kernels_that_fail_alone_are_not_put_under_a_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sanitizer, "own_refusal", lambda device: None)
    monkeypatch.setattr(sanitizer, "run", lambda command, seconds: (CLEAN, int("exercise_attention" in command[1])))
    report = measure.Report(None, {})
    assert sanitizer.runnable(report, list(sanitizer.EXERCISES), torch.device("cpu"), 0.0) == ["ops"]
    assert (report.passed, report.failed) == (1, 1)


def test_attention_is_exercised_at_every_head_dim_and_in_both_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[tuple[int, torch.dtype, int]] = set()

    def record(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen.add((q.shape[3], q.dtype, k.shape[1]))
        return q

    monkeypatch.setattr(exercises, "kernels", lambda device: [record])
    exercises.exercise(torch.device("cpu"))
    assert {D for D, _, _ in seen} > set(builder().HEAD_DIMS)
    assert {dtype for _, dtype, _ in seen} == {torch.bfloat16, torch.float16}
    assert all({keys for D, _, keys in seen if each == D} == {77, 100, 201} for each in builder().HEAD_DIMS)


def test_a_result_that_is_not_finite_ends_the_exercise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exercises, "kernels", lambda device: [lambda q, k, v: torch.full_like(q, torch.nan)])
    with pytest.raises(RuntimeError, match=r"head dim 32, torch\.bfloat16, 2 heads, 67 x 77: not finite"):
        exercises.exercise(torch.device("cpu"))


@pytest.mark.long
def test_the_walk_without_the_tool_runs_every_exercise(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    assert sanitizer.main(["--dry-run", "--seconds=600", "--out", str(tmp_path / "sanitizer")]) == 0
    report = json.loads((tmp_path / "sanitizer.json").read_text())
    assert report["checks"] == {"passed": 2, "failed": 0}


def test_only_the_exercises_asked_for_are_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], seconds: float) -> tuple[str, int]:
        commands.append(command)
        return CLEAN, 0

    monkeypatch.setattr(sanitizer, "run", run)
    assert sanitizer.main(["--dry-run", "--seconds=600", "--attention", "--out", str(tmp_path / "sanitizer")]) == 0
    assert [Path(command[1]).name for command in commands] == ["exercise_attention.py"]
    report = json.loads((tmp_path / "sanitizer.json").read_text())
    assert report["checks"] == {"passed": 1, "failed": 0}
