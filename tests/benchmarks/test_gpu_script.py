"""`make gpu` on a CPU: what it makes of parts that pass, fail, hang or test nothing; and what its scripts refuse."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from support.gpu_parts import BENCHMARKS, CLEAN, REPORT, a_run, load, part, reporting

gpu: Any = load("gpu")
partwise: Any = load("partwise")

HANGS = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("child", child.pid, flush=True)
time.sleep(60)
"""


def ended(pid: int) -> bool:
    for _ in range(50):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return True  # nobody has asked for its exit code yet
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_a_run_of_parts_that_pass_fail_hang_and_test_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = a_run(tmp_path)
    parts = {
        "passes": reporting("passes", passed=3),
        "hangs": part("hangs", HANGS, seconds=2.0),
        "fails": reporting("fails", passed=2, failed=1, code=1),
        "empty": reporting("empty", passed=0),
        "absent": reporting("absent", passed=1, code=77, not_run=("no such tool",)),
    }
    assert run.run(parts) == 1
    statuses = {result.part: result.status for result in run.done}
    assert statuses == {
        "passes": "PROVEN",
        "hangs": "FAILED",
        "fails": "FAILED",
        "empty": "NOT RUN",
        "absent": "NOT RUN",
    }
    table = capsys.readouterr().out.split("\npart ")[1].splitlines()[1:6]
    assert [line.split()[0] for line in table] == list(parts)
    assert "over its time limit of 2 s" in table[1]
    assert "no such tool" in table[4]
    child = int((tmp_path / "results/hangs.log").read_text().split()[1])
    assert ended(child)
    with tarfile.open(tmp_path / "out/results.tar") as tar:
        names = set(tar.getnames())
        assert {f"a-machine/{name}-result.json" for name in parts} <= names
        assert {f"a-machine/{name}.log" for name in parts} <= names
        assert {entry.uname for entry in tar} == {""}
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert {row["part"]: row["status"] for row in summary["parts"]} == statuses


def test_the_exit_code_is_0_only_where_all_is_proven(tmp_path: Path) -> None:
    good, empty, bad = reporting("good"), reporting("empty", passed=0), reporting("bad", failed=1)
    assert a_run(tmp_path).run({"good": good}) == 0
    assert a_run(tmp_path).run({"good": good, "empty": empty}) == 3
    assert a_run(tmp_path).run({"empty": empty, "bad": bad}) == 1
    assert a_run(tmp_path).run({}) == 3


def test_a_crash_fails_and_what_reports_no_check_is_not_run(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    run.run({"crash": reporting("crash", passed=5, code=139), "silent": part("silent", "print('all is well')")})
    assert [result.status for result in run.done] == ["FAILED", "NOT RUN"]


def test_a_part_is_proven_only_if_each_of_its_commands_is(tmp_path: Path) -> None:
    both = gpu.Part("two commands", (*reporting("good").commands, *reporting("empty", passed=0).commands))
    run = a_run(tmp_path)
    assert run.run({"both": both}) == 3
    assert run.done[0].status == "NOT RUN"


@pytest.mark.slow
def test_a_pytest_part_counts_tests_and_none_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    body = "import pytest\ndef test_a(): pass\ndef test_b(): assert 0\n@pytest.mark.skip\ndef test_c(): pass\n"
    (tmp_path / "tests/test_things.py").write_text(body)
    tests = gpu.Part("tests", (gpu.gpu_tests("tests", 60, "tests/test_th*.py"),))
    run = a_run(tmp_path, dry_run=True)
    assert run.run({"tests": tests}) == 1
    (outcome,) = run.done[0].outcomes
    assert (outcome.passed, outcome.failed, outcome.skipped) == (1, 1, 1)
    assert outcome.notes == ["test_b failed"]
    assert a_run(tmp_path).run({"tests": tests}) == 3  # none of them is marked gpu
    missing = gpu.Part("tests", (gpu.gpu_tests("tests", 60, "tests/test_no*.py"),))
    assert a_run(tmp_path).run({"tests": missing}) == 3


@pytest.mark.slow
def test_workers_share_the_tests_where_there_are_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("xdist")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_things.py").write_text("def test_a(): pass\ndef test_b(): pass\n")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    run = a_run(tmp_path, dry_run=True)
    assert run.run({"tests": gpu.Part("tests", (gpu.gpu_tests("tests", 60, "tests/*.py", workers=8),))}) == 0
    assert run.done[0].outcomes[0].passed == 2
    assert "bringing up nodes" in (tmp_path / "results/tests.log").read_text()


def test_a_dry_run_proves_nothing_and_keeps_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(BENCHMARKS.glob("results/**/*"))
    assert gpu.main(["--dry-run", "--out", str(tmp_path)], {"good": reporting("good")}) == 0
    out = capsys.readouterr().out
    assert "WALKED" in out
    assert "PROVEN" not in out
    assert (tmp_path / "dry-run/good-result.json").exists()
    assert sorted(BENCHMARKS.glob("results/**/*")) == before


def test_results_are_kept_by_the_name_of_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    monkeypatch.setattr(gpu, "gpu_name", lambda: "NVIDIA H200 (MIG 1g.18gb)")
    assert gpu.main(["--out", str(tmp_path / "out")], {"good": reporting("good")}) == 0
    kept = tmp_path / "benchmarks/results/nvidia-h200-mig-1g-18gb"
    assert json.loads((kept / "good-result.json").read_text())["status"] == "PROVEN"


def test_without_a_gpu_nothing_is_proven(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gpu, "gpu_name", lambda: None)
    assert gpu.main([], {"good": reporting("good")}) == 3
    assert "nothing was proven" in capsys.readouterr().out


def test_an_unknown_part_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--dry-run", "--parts", "graphs grphs"])
    assert "got grphs; allowed: info build golden" in capsys.readouterr().err


def test_the_python_that_is_named_runs_it_else_that_of_the_tree(tmp_path: Path) -> None:
    shutil.copy(BENCHMARKS.parent / "Makefile", tmp_path)

    def python(*given: str, **variables: str) -> str:
        outer = ("PYTHON", "MAKE", "MFLAGS")  # a make around this test hands its own on
        environment = {name: value for name, value in os.environ.items() if not name.startswith(outer)} | variables
        command = ["make", "-n", "gpu", "BUDGET=100", *given]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        interpreter, script, *rest = done.stdout.split()
        assert (script, rest) == ("benchmarks/gpu.py", ["--budget-seconds", "100"])
        return interpreter

    assert python() == "python3"
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").touch()
    assert python() == ".venv/bin/python"
    assert python("PYTHON=python3.12") == "python3.12"
    assert python(PYTHON="other/python") == "other/python"


def test_every_script_of_a_part_is_there() -> None:
    commands = [command for each in gpu.registry().values() for command in each.commands if not command.pytest]
    assert not [command.name for command in commands if not (BENCHMARKS.parent / command.arguments[0]).exists()]


def test_no_test_marked_gpu_is_left_out(tmp_path: Path) -> None:
    for name, text in {
        "run/test_graphs": "mark.gpu",
        "run/test_new": "mark.gpu",
        "engine/test_by_fixture": "def test_a(\n    w: float, device: str\n) -> None: ...",
        "engine/test_plain": "def helper(device: str): ...",
    }.items():
        path = tmp_path / f"tests/{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert gpu.other_gpu_tests(tmp_path) == ("tests/engine/test_by_fixture.py", "tests/run/test_new.py")


def test_a_run_stopped_from_outside_leaves_what_was_done(tmp_path: Path) -> None:
    driver = f"""
import sys
sys.path.insert(0, {str(BENCHMARKS)!r})
import gpu
from pathlib import Path
from progress import Progress
script = {HANGS!r}
report = {REPORT.format(passed=1, failed=0, code=0, not_run=[])!r}
parts = {{name: gpu.Part(name, (gpu.Command(name, 60, ("-c", text)),))
         for name, text in (("done", report), ("hangs", script), ("never", report))}}
folder = Path({str(tmp_path)!r})
so_far = Progress(folder / "state", folder, "torch 1")
sys.exit(gpu.Run("a-machine", folder / "out", folder / "results", False, folder, so_far).run(parts))
"""
    process = subprocess.Popen([sys.executable, "-c", driver], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = next(int(line.split()[1]) for line in process.stdout if line.strip().startswith("child"))
    process.send_signal(signal.SIGTERM)
    rest = process.stdout.read()
    assert process.wait(20) == 1
    assert ended(child)
    rows = [line.split()[:2] for line in rest.splitlines() if line.split()[:1] in (["done"], ["hangs"], ["never"])]
    assert rows == [["done", "PROVEN"], ["hangs", "FAILED"], ["never", "NOT"]]
    with tarfile.open(tmp_path / "out/results.tar") as tar:
        log = tar.extractfile("a-machine/hangs.log")
        assert log is not None
        assert log.read().decode().startswith("child")


def test_what_is_kept_names_no_machine(tmp_path: Path) -> None:
    scrub = partwise.Scrubber(tmp_path, Path("/opt/some/venv"))
    scrub._who = re.compile(r"\bnode-17\b")
    home = str(Path.home())
    text = f"{tmp_path}/tests/test_a.py:3 in {tmp_path} by /opt/some/venv/bin/python3 at /srv/x/y/z.py on node-17"
    clean = scrub(text)
    assert clean == "tests/test_a.py:3 in . by python/bin/python3 at <path>/z.py on <name>"
    assert scrub(clean) == clean
    assert scrub(f"{home}/.triton/cache") == "~/.triton/cache"
    for kept in ("4300 GB/s, 12 us/step, 1/2", "https://pytorch.org/docs/stable/notes.html", "a/b/c.py"):
        assert scrub(kept) == kept


@pytest.mark.parametrize(
    ("output", "code", "expected"),
    [
        pytest.param(CLEAN, 0, "clean", id="clean"),
        pytest.param(
            CLEAN.replace("ERROR SUMMARY: 0 errors", "RACECHECK SUMMARY: 0 hazards"), 0, "clean", id="no race"
        ),
        pytest.param(CLEAN.replace("0 errors", "1 error"), 86, "errors", id="an error"),
        pytest.param("========= RACECHECK SUMMARY: 2 hazards displayed (2 errors)", 86, "errors", id="a race"),
        pytest.param(CLEAN, 1, "errors", id="a crash after a clean summary"),
        pytest.param("========= ERROR SUMMARY: 0 errors\n", 0, "not run", id="the kernels never ran"),
        pytest.param("every kernel has run\n", 0, "not run", id="the tool never ran"),
        pytest.param("Error: Device not supported\n" + CLEAN, 0, "not run", id="a machine that refuses it"),
        pytest.param("", None, "not run", id="out of time"),
    ],
)
def test_the_sanitizer_is_believed_only_on_its_own_word(output: str, code: int | None, expected: str) -> None:
    assert load("sanitizer").verdict(output, code)[0] == expected
