"""A matrix: each race in a process, each cell kept once it is there, and a further call goes on."""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fewstep.bench.cells import Cell, Cells
from fewstep.bench.contenders import EAGER, ENGINE, Case, Contender
from fewstep.bench.matrix import Race
from fewstep.bench.race import Settings
from fewstep.bench.runs import Runs

CASES = [Case("ddim", steps, batch) for batch in (1, 2) for steps in (1, 4)]
ENGINE_ROW = Contender(ENGINE)
STUB = """
import json, os, signal, sys, time
task = json.load(sys.stdin)
with open({log!r}, "a") as file:
    for case in task["cases"]:
        file.write(f"{{task['model']}} {{case['steps']}} {{case['batch']}}\\n")
def say(kind, **more):
    print(json.dumps({{"kind": kind, **more}}), flush=True)
timing = {{"wall": 2.0, "network": 1.0, "loop": 1.5, "calls": 1}}
reference = timing | {{"wall": 4.0}}
say("about", machine={{"cpu": "a stub"}}, model={{"title": task["model"] + ", made up"}})
for index, case in enumerate(task["cases"]):
    say("begun", index=index)
    say("tick", done=1, total=2)
    what = {does}.get((task["model"], case["steps"], case["batch"]), "")
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "hangs":
        time.sleep(60)
    if what == "raises":
        sys.exit("no such op: fold")
    if what == "fails":
        say("failed", index=index, why="does not fit into memory")
        continue
    readings = [
        {{"model": task["model"], "case": case, "contender": {{"kind": kind, "backend": "torch", "dtype": "float32"}},
          "status": "wrong: off by 1" if what == "red" else "measured", "agreement": {{}}, "figures": task["figures"],
          "timings": [] if what == "red" else [timing] * 3, "reference": [] if what == "red" else [reference] * 3}}
        for kind in ("engine", "eager")
    ]
    say("cell", index=index, readings=readings)
if task["cold"]:
    say("cold", starts=[{{"contender": "engine", "status": "measured"}}])
"""


def race(model: str = "a", cases: Sequence[Case] = CASES, **settings: Any) -> Race:
    return Race(model, {"name": model}, cases, Settings(backends=("torch",), beside=(), **settings), cold=False)


def runs(folder: Path, races: Sequence[Race], count: int = 2, does: dict[Any, str] | None = None, **more: Any) -> Runs:
    script = STUB.format(log=str(folder / "log"), does=repr(does or {}))
    return Runs(races, count, folder, command=("-c", script), **more)


def begun(folder: Path) -> list[str]:
    """The cells that processes were asked for since the last look."""
    lines = (folder / "log").read_text().splitlines() if (folder / "log").exists() else []
    (folder / "log").unlink(missing_ok=True)
    return lines


def test_run_1_of_all_races_comes_before_run_2_of_any(tmp_path: Path) -> None:
    matrix = runs(tmp_path, [race("a"), race("b")])
    told: list[str] = []
    bar: list[tuple[int, int]] = []
    matrix.go(lambda done, total: bar.append((done, total)), told.append)
    assert told == [f"run {run} of 2: {name}, 4 cells" for run in (1, 2) for name in ("a", "b")]
    assert [line.split()[0] for line in begun(tmp_path)] == [name for name in "abab" for _ in CASES]
    assert bar == sorted(bar)
    assert bar[-1] == (1600, 1600)
    report = matrix.report()
    row = report.row(CASES[1], ENGINE_ROW, "b")
    assert (row.runs, row.repeats, row.ratio) == (2, 6, 0.5)
    assert report.models["b"]["title"] == "b, made up"


def test_what_is_measured_is_not_measured_again(tmp_path: Path) -> None:
    runs(tmp_path, [race("a")], 1).go()
    begun(tmp_path)
    runs(tmp_path, [race("a")], 1).go()
    assert begun(tmp_path) == []
    runs(tmp_path, [race("a")], 2).go()
    assert len(begun(tmp_path)) == 4
    runs(tmp_path, [race("a", [*CASES, Case("ddim", 8, 1)])], 2).go()
    assert begun(tmp_path) == ["a 8 1"] * 2


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda patch: None, id="nothing"),
        pytest.param(lambda patch: patch.setattr("fewstep.bench.cells.code_digest", lambda: "new"), id="code"),
        pytest.param(
            lambda patch: patch.setattr("fewstep.bench.runs.describe_machine", lambda device: {"cpu": "new"}),
            id="processor",
        ),
    ],
)
def test_another_key_is_measured_again(tmp_path: Path, change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runs(tmp_path, [race("a")], 1).go()
    begun(tmp_path)
    change(monkeypatch)
    runs(tmp_path, [race("a")], 1).go()
    changed = change.__code__.co_names != ()
    assert len(begun(tmp_path)) == (4 if changed else 0)
    runs(tmp_path, [race("a", repeats=9)], 1).go()
    assert len(begun(tmp_path)) == 4


def test_a_broken_file_is_no_record(tmp_path: Path) -> None:
    matrix = runs(tmp_path, [race("a")], 1)
    matrix.go()
    begun(tmp_path)
    path = next((tmp_path / "cells").glob("a.ddim.4-steps.batch-2.run1.json"))
    path.write_text(path.read_text()[:100])
    matrix.go()
    assert begun(tmp_path) == ["a 4 2"]


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("killed", "failed: killed, as a system does that is out of memory"),
        ("raises", "failed: exit code 1; no such op: fold"),
        ("hangs", "failed: over its limit of 3 s"),
        ("fails", "does not fit into memory"),
    ],
)
def test_a_cell_that_ends_its_process_costs_itself_alone_and_is_named(tmp_path: Path, what: str, why: str) -> None:
    matrix = runs(tmp_path, [race("a"), race("b")], 1, {("a", 4, 1): what}, patience=3.0 if what == "hangs" else 60.0)
    told: list[str] = []
    matrix.go(tell=told.append)
    assert told[1] == f"a, ddim, 4 steps, batch 1: {why}"
    report = matrix.report()
    statuses = {(row.model, row.steps, row.batch): row.status for row in report.rows if row.contender == ENGINE}
    assert statuses.pop(("a", 4, 1)) == why
    assert set(statuses.values()) == {"measured"}
    assert len(statuses) == 7
    begun(tmp_path)
    runs(tmp_path, [race("a"), race("b")], 2).go()  # what failed is tried again, behind all that was never tried
    assert begun(tmp_path)[-1] == "a 4 1"


def test_a_red_cell_has_no_speed_and_the_others_have(tmp_path: Path) -> None:
    matrix = runs(tmp_path, [race("a")], 2, {("a", 1, 2): "red"})
    matrix.go()
    rows = [row for row in matrix.report().rows if row.contender in (ENGINE, EAGER)]
    red = [row for row in rows if row.status == "wrong: off by 1"]
    assert {(row.steps, row.batch) for row in red} == {(1, 2)}
    assert all(row.median_ms is None and row.ratio is None for row in red)
    assert all(row.median_ms for row in rows if row not in red)
    begun(tmp_path)
    matrix.go()
    assert begun(tmp_path) == []  # the same code would be as wrong


def test_what_was_not_begun_in_time_is_left_for_the_next_call(tmp_path: Path) -> None:
    over = runs(tmp_path, [race("a")], 1, seconds=0.0)
    over.go()
    assert {row.status for row in over.report().rows if row.contender == ENGINE} == {"not measured yet"}
    cut = runs(tmp_path, [race("a", CASES[:2])], 1, {("a", 4, 1): "hangs"}, seconds=3.0)
    cut.go()
    assert begun(tmp_path) == ["a 1 1", "a 4 1"]
    assert cut.done() == 1
    runs(tmp_path, [race("a", CASES[:2])], 1).go()
    assert begun(tmp_path) == ["a 4 1"]


def test_what_cannot_fit_is_named_and_never_begun(tmp_path: Path) -> None:
    matrix = runs(tmp_path, [replace(race("a"), lacks="a in float32 takes at least 9 GiB, and 2 GiB are free")], 1)
    matrix.go()
    assert begun(tmp_path) == []
    assert {row.status for row in matrix.report().rows} == {"a in float32 takes at least 9 GiB, and 2 GiB are free"}


def test_cold_starts_are_measured_once_and_kept(tmp_path: Path) -> None:
    cold = replace(race("a"), cold=True)
    runs(tmp_path, [cold], 2).go()
    again = runs(tmp_path, [cold], 2)
    assert [dict(start) for start in again.report().cold] == [
        {"model": "a", "contender": "engine", "status": "measured"}
    ]


DRIVER = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from fewstep.bench.contenders import Case
from fewstep.bench.matrix import Race
from fewstep.bench.race import Settings
from fewstep.bench.runs import Runs
cases = [Case("ddim", steps, batch) for batch in (1, 2) for steps in (1, 4)]
race = Race("a", {{"name": "a"}}, cases, Settings(backends=("torch",), beside=()), cold=False)
Runs([race], 1, Path({folder!r}), threads=1, command=("-c", {script!r})).go(tell=lambda text: print(text, flush=True))
"""


@pytest.mark.slow
def test_a_call_that_is_killed_in_the_middle_leaves_what_was_done(tmp_path: Path) -> None:
    script = STUB.format(log=str(tmp_path / "log"), does=repr({("a", 1, 2): "hangs"}))
    driver = DRIVER.format(path=sys.path, folder=str(tmp_path), script=script)
    process = subprocess.Popen([sys.executable, "-c", driver], stderr=subprocess.DEVNULL)
    half = tmp_path / "cells" / "a.ddim.4-steps.batch-1.run1.json"
    for _ in range(300):
        if half.exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    assert process.wait(20) != 0
    begun(tmp_path)
    matrix = runs(tmp_path, [race("a")], 1, threads=1)
    assert matrix.done() == 2
    matrix.go()
    assert begun(tmp_path) == ["a 1 2", "a 4 2"]
    assert matrix.done() == 4


def test_ctrl_c_leaves_what_was_done_and_no_process(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 250:  # within the third cell
            raise KeyboardInterrupt

    matrix = runs(tmp_path, [race("a")], 1)
    with pytest.raises(KeyboardInterrupt):
        matrix.go(interrupt)
    begun(tmp_path)
    assert matrix.done() == 2
    matrix.go()
    assert begun(tmp_path) == ["a 1 2", "a 4 2"]


def test_cells_have_names_that_any_disk_takes(tmp_path: Path) -> None:
    own = Cell("my file.py:make_model", Case("ddim", 4, 1))
    assert own.stem == "my-file-py-make_model.ddim.4-steps.batch-1"
    assert Cells(tmp_path).record(own, 1, "key") is None
