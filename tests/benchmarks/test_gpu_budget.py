"""`make gpu` call by call: what fits into one, what the next goes on with, and what makes it run a part again."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from support.gpu_parts import MEASURED, REPORT, a_run, load, part, reporting
from support.sources import imported, parsed

gpu: Any = load("gpu")
adopt: Any = load("adopt")
budget: Any = load("budget")
progress: Any = load("progress")
isolated: Any = load("isolated")

COUNTS = "open('runs.txt', 'a').write('x')\n"  # in the root: how often a part ran


def so_far(folder: Path, versions: str = "torch 1") -> Any:
    return progress.Progress(folder / "state", folder, versions)


def sized(name: str, seconds: float, **more: Any) -> Any:
    return gpu.Part(f"a fake {name}", (gpu.Command(name, seconds, ("-c", "")),), **more)


def names(planned: list[Any], what: str) -> list[str]:
    """The planned parts that hold, are left out, or run."""
    kinds = {each.name: "holds" if each.holds else "left out" if each.left_out else "runs" for each in planned}
    return [name for name, kind in kinds.items() if kind == what]


def test_a_plan_takes_what_fits_and_names_what_does_not(tmp_path: Path) -> None:
    parts = {"a": sized("a", 50), "b": sized("b", 60, expected=40), "c": sized("c", 30), "d": sized("d", 5)}
    planned = budget.plan(parts, so_far(tmp_path), 100 + budget.FINISH)
    assert (names(planned, "runs"), names(planned, "left out")) == (["a", "b", "d"], ["c"])
    assert planned[2].left_out == "needs about 30 s, 10 s are left; the next call goes on here"
    lines = list(budget.table(planned, 105))
    assert lines[0] == "plan: about 95 s of the 105 s that this call may take"
    assert lines[2].split() == ["b", "about", "40", "s,", "at", "most", "60", "s"]
    assert lines[3].startswith("  c           left out: needs about 30 s")


def test_what_failed_comes_after_what_was_never_begun(tmp_path: Path) -> None:
    parts = {name: sized(name, 10) for name in ("failed", "proven", "refused", "new", "newer")}
    earlier = so_far(tmp_path)
    for name, status in (("failed", "FAILED"), ("proven", "PROVEN"), ("refused", "NOT RUN")):
        earlier.record(name, parts[name], status)
    (tmp_path / "state/proven-result.json").write_text('{"commands": []}')
    planned = budget.plan(parts, so_far(tmp_path), 540)
    assert names(planned, "holds") == ["proven"]
    assert names(planned, "runs") == ["new", "newer", "failed", "refused"]


def test_three_calls_are_enough_for_everything_even_at_its_limit(tmp_path: Path) -> None:
    parts = {name: sized(name, each.limit) for name, each in gpu.registry().items() if each.default}
    earlier = so_far(tmp_path)
    for _ in range(3):
        for name in names(budget.plan(parts, earlier, gpu.BUDGET_SECONDS), "runs"):
            earlier.record(name, parts[name], "PROVEN")
            (earlier.folder / f"{name}-result.json").write_text('{"commands": []}')
    assert names(budget.plan(parts, earlier, gpu.BUDGET_SECONDS), "holds") == [*parts]


def test_with_a_kit_the_first_call_gets_as_far_as_the_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "KIT", Path(__file__))
    runs: list[str] = []
    left = gpu.BUDGET_SECONDS - budget.FINISH
    for name, each in gpu.registry().items():
        left -= each.seconds
        runs += [name] if left >= 0 and each.default else []
    assert runs == ["info", "build", "golden", "smoke", "attention", "sweep", "ncu", "kernels", "graphs"]


def test_the_next_call_goes_on_and_repeats_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = REPORT.format(passed=2, failed=0, code=0, not_run=[])
    parts = {
        "good": part("good", COUNTS + good, seconds=20),
        "bad": reporting("bad", failed=1, code=1),
        "later": part("later", COUNTS + good, seconds=30),
    }
    assert a_run(tmp_path).run(parts, seconds=28) == 1
    assert "later       LEFT OUT" in capsys.readouterr().out
    run = a_run(tmp_path)
    assert run.run(parts, seconds=60) == 1
    assert [result.part for result in run.done] == ["good", "later", "bad"]
    assert [result.status for result in run.done] == ["PROVEN", "PROVEN", "FAILED"]
    assert "good        proven by an earlier call" in capsys.readouterr().out
    assert (tmp_path / "runs.txt").read_text() == "xx"
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert [(row["part"], row["passed"]) for row in summary["parts"]] == [("good", 2), ("later", 2), ("bad", 1)]
    assert a_run(tmp_path).run({"good": parts["good"]}, again=True) == 0
    assert (tmp_path / "runs.txt").read_text() == "xxx"


def test_a_part_runs_again_once_what_it_is_about_has_changed(tmp_path: Path) -> None:
    measured = tmp_path / progress.ADOPTED
    measured.parent.mkdir(parents=True)
    measured.write_text("EXACT_WIDTHS: bool = True  # so far\nAHEAD = ()\n")
    (tmp_path / "csrc").mkdir()
    parts = {
        "decides": sized("decides", 1, sources=("csrc",), decides=True),
        "kernels": sized("kernels", 1, sources=("kernels",)),
        "csrc": sized("csrc", 1, sources=("csrc",)),
    }
    earlier = so_far(tmp_path)

    def stale(versions: str = "torch 1") -> set[str]:
        for name, each in parts.items():
            earlier.record(name, each, "PROVEN")
        change()
        now = so_far(tmp_path, versions)
        now.forget_stale(parts)
        return {*parts} - {*now.ended}

    def change() -> None:
        path, text = changes.pop(0)
        path.write_text(text)

    changes = [
        (measured, "EXACT_WIDTHS: bool = True  # by a result\nAHEAD = (1,)\n"),
        (measured, "EXACT_WIDTHS: bool = False\nAHEAD = (1,)\n"),
        (tmp_path / "csrc/a.h", "int a;\n"),
        (tmp_path / "kernels/a.py", "a = 1\n"),
        (tmp_path / "kernels/a.txt", "no code\n"),
    ]
    assert stale() == set()
    assert stale() == {"kernels", "csrc"}
    assert stale() == {"decides", "csrc"}
    assert stale() == {"kernels"}
    assert stale("torch 2") == {*parts}


def test_a_report_of_an_earlier_call_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    assert a_run(tmp_path).run({"a": reporting("a", failed=1)}) == 1
    run = a_run(tmp_path)
    assert run.run({"a": part("a", "raise SystemExit(0)")}) == 3
    assert run.done[0].outcomes[0].notes == ["wrote no report of its checks"]


@pytest.mark.slow
def test_the_end_of_the_budget_is_no_fault_of_what_it_ends(tmp_path: Path) -> None:
    slow = gpu.Part("slow", (gpu.Command("slow", 60, ("-c", "import time; time.sleep(60)")),), expected=1)
    run, started = a_run(tmp_path), time.monotonic()
    assert run.run({"slow": slow}, seconds=budget.FINISH + 1.5) == 3
    assert time.monotonic() - started < 30
    (outcome,) = run.done[0].outcomes
    assert (outcome.status, outcome.notes[0]) == ("NOT RUN", "the budget ended after 1 s")
    assert not a_run(tmp_path).progress.holds("slow")


def test_a_call_that_was_killed_is_not_begun_with_the_part_that_it_died_in(tmp_path: Path) -> None:
    parts = {"kills": sized("kills", 5), "next": sized("next", 5)}
    so_far(tmp_path).begin("kills", parts["kills"])
    assert names(budget.plan(parts, so_far(tmp_path), 540), "runs") == ["next", "kills"]


def test_a_broken_state_is_none(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    for text in ("", "[]", '{"a": 1}', '{"a": {"status": "PROVEN"}}'):
        (tmp_path / "state/state.json").write_text(text)
        assert so_far(tmp_path).ended == {}


CHILD = f"""
import os, sys, time
sys.path.insert(0, {str(Path(isolated.__file__).parent)!r})
from isolated import child
def run(case):
    if case == "hangs":
        print("barrier 3 of phase 1 never came", flush=True)
        time.sleep(60)
    if case == "traps":
        print("barrier 5, parity 0", flush=True)
        os._exit(9)
    if case == "raises":
        raise RuntimeError("unspecified launch failure")
    return case.upper()
child(sys.argv[1:], run)
"""


@pytest.mark.slow
def test_a_case_that_hangs_traps_or_raises_costs_itself_alone() -> None:
    cases = ["a", "hangs", "b", "traps", "raises", "c"]
    found = list(isolated.run_isolated(["-c", CHILD], cases, start=20, seconds=1.0))
    assert [each.case for each in found] == cases
    assert [each.found for each in found] == ["A", None, "B", None, None, "C"]
    assert found[1].said == "silent for 1 s; barrier 3 of phase 1 never came"
    assert found[3].said.startswith("exit code")
    assert found[3].said.endswith("; barrier 5, parity 0")
    assert found[4].said.endswith("; RuntimeError: unspecified launch failure")


def test_a_process_that_comes_to_no_case_costs_one_each() -> None:
    found = list(isolated.run_isolated(["-c", "raise SystemExit('no module')"], ["a", "b"], start=20, seconds=1.0))
    assert [(each.case, each.found) for each in found] == [("a", None), ("b", None)]
    assert "no module" in found[0].said


def test_nothing_in_the_runner_needs_more_than_the_standard_library() -> None:
    allowed = {*sys.stdlib_module_names, "adopt", "budget", "commands", "partwise", "progress", "scrub", "verdicts"}
    for name in ("gpu", "adopt", "budget", "commands", "partwise", "progress", "scrub", "verdicts"):
        tree = parsed(Path(load(name).__file__))
        assert {each.split(".")[0] for each in imported(tree, "")} - {""} <= allowed


GOLDEN = """
import json, sys
stem = sys.argv[sys.argv.index("--out") + 1]
about = {"about": {"exact_widths": False}, "rows": [], "checks": {"passed": 1, "failed": 1}}
json.dump(about, open(stem + ".json", "w"))
"""
READS = "assert 'EXACT_WIDTHS: bool = False' in open('kernels/fewstep_kernels/measured.py').read()\n"


@pytest.mark.parametrize("dry_run", [False, True], ids=["on a GPU", "dry run"])
def test_what_golden_decides_holds_for_all_that_comes_after_it(tmp_path: Path, dry_run: bool) -> None:
    measured = tmp_path / progress.ADOPTED
    for place, text in ((measured, MEASURED), (tmp_path / "benchmarks/adopt.py", Path(adopt.__file__).read_text())):
        place.parent.mkdir(parents=True)
        place.write_text(text)
    good = REPORT.format(passed=1, failed=0, code=0, not_run=[])
    golden = gpu.Part("golden", (*part("golden", GOLDEN).commands, gpu.adopted("golden")), decides=True, sources=())
    parts = {"golden": golden, "later": part("later", good if dry_run else READS + good)}
    run = a_run(tmp_path, dry_run)
    assert run.run(parts) == 1
    assert [result.status for result in run.done] == ["FAILED", "WALKED" if dry_run else "PROVEN"]
    assert [each.status for each in run.done[0].outcomes][1] == ("WALKED" if dry_run else "PROVEN")
    assert (measured.read_text() == MEASURED) == dry_run
    if dry_run:
        assert "EXACT_WIDTHS: bool = False" in (tmp_path / "results/measured.py").read_text()
    else:
        again = a_run(tmp_path)
        again.progress.forget_stale(parts)
        assert [*again.progress.ended] == ["golden", "later"]


def test_a_dry_run_is_planned_by_its_own_times_and_is_patient() -> None:
    parts = [each for each in gpu.registry().values() if each.default]
    assert sum(each.walk().seconds for each in parts) <= gpu.BUDGET_SECONDS - budget.FINISH
    assert all(each.walk().limit == 3 * each.limit for each in parts)


def test_what_runs_by_name_alone_fits_into_one_call_even_at_its_limit() -> None:
    parts = gpu.registry()
    named = {name: each for name, each in parts.items() if not each.default and name != "tests"}
    matrix = named.pop("matrix")  # which takes calls of its own, and goes on in each
    assert matrix.limit <= gpu.BUDGET_SECONDS - budget.FINISH
    assert matrix.walk().seconds <= 60
    assert list(named) == ["sd15", "sdxl", "small"]
    assert sum(each.limit for each in named.values()) <= gpu.BUDGET_SECONDS - budget.FINISH
    assert sum(each.walk().seconds for each in named.values()) <= 60
