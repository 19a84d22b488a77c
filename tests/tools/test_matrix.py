"""`make matrix` with a Python, a pip and a pytest that only play theirs: what it plans, refuses and skips."""

import importlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from support.tree import ROOT

pytestmark = pytest.mark.slow

sys.path.append(str(ROOT / "tools"))
matrix: Any = importlib.import_module("matrix")
matrix_results: Any = importlib.import_module("matrix_results")
matrix_venv: Any = importlib.import_module("matrix_venv")

# What runs as `python` here and in each venv: stage.json beside the first says what pip finds and what the tests do.
PLAYED = """#!{real} -IS
import json, os, shutil, sys, time
from pathlib import Path

me, arguments = Path(sys.argv[0]), sys.argv[1:]
stage = json.loads(Path({stage!r}).read_text())
with open({calls!r}, "a") as file:
    print(*arguments, file=file)
if arguments[0] == "-c" and "sys.version_info" in arguments[1]:
    print(stage["python"])
elif arguments[0] == "-c" and "importlib.metadata" in arguments[1]:
    pins = json.loads((me.parent.parent / "pins.json").read_text())
    print(json.dumps(pins | {{"python": stage["python"] + ".1"}}))
elif arguments[0] == "-c":
    sys.exit(1)  # no pytest-xdist
elif arguments[:2] == ["-m", "venv"]:
    (Path(arguments[2]) / "bin").mkdir(parents=True)
    shutil.copy(me, Path(arguments[2]) / "bin" / "python")
elif arguments[:3] == ["-m", "pip", "install"] and "--dry-run" in arguments:
    asked = next((each[len("torch=="):-len(".*")] for each in arguments if each.startswith("torch==")), "newest")
    if asked not in stage["resolves"]:
        print("ERROR: No matching distribution found for torch==" + asked)
        sys.exit(1)
    pins = {{"torch": stage["resolves"][asked], "triton": "3.9.9", "numpy": "2.9", "safetensors": "1", "pytest": "9",
            "hypothesis": "6"}}
    found = [{{"metadata": {{"name": name, "version": version}}, "download_info": {{"url": "https://x/" + name}}}}
             for name, version in pins.items()]
    found[0]["metadata"]["requires_dist"] = [] if "+cpu" in pins["torch"] else ["triton==3.9.9"]
    Path(arguments[arguments.index("--report") + 1]).write_text(json.dumps({{"install": found}}))
elif arguments[:3] == ["-m", "pip", "install"]:
    pins = dict(each.split("==") for each in arguments if "==" in each)
    (me.parent.parent / "pins.json").write_text(json.dumps(pins))
    if pins["torch"] in stage["breaks"]:
        print("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device")
        sys.exit(1)
elif arguments[:2] == ["-m", "pytest"]:
    torch = json.loads((me.parent.parent / "pins.json").read_text())["torch"]
    failed, skipped = torch in stage["fails"], torch in stage["skips"]
    if torch in stage["hangs"]:
        print("hanging 1%]", flush=True)
        time.sleep(60)
    inside = "<failure/>" if failed else "<skipped/>" if skipped else ""
    report = next(each for each in arguments if each.startswith("--junitxml="))[len("--junitxml="):]
    case = "<testcase name='test_{{}}'>{{}}</testcase>"
    cases = case.format("a", inside if skipped else "") + case.format("b", inside)
    Path(report).write_text("<testsuites><testsuite>" + cases + "</testsuite></testsuites>")
    sys.exit(int(failed))
elif arguments[0].endswith("compile_gate.py"):
    torch = json.loads((me.parent.parent / "pins.json").read_text())["torch"]
    at_fault = int(torch in stage["at_fault"])
    print("compile gate: 7 rows, " + str(at_fault) + " at fault")
    sys.exit(at_fault)
"""
STAGE = {
    "python": "3.12",
    "resolves": {"2.10": "2.10.0", "2.11": "2.11.0", "2.13": "2.13.0+cpu", "newest": "2.14.1"},
    "breaks": [],
    "fails": [],
    "skips": [],
    "hangs": [],
    "at_fault": [],
}


class Stage:
    """A folder with the played Python, and a way to call `make matrix` on it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.python, self.calls = folder / "matrix", folder / "python", folder / "calls"
        self.stage = folder / "stage.json"
        self.python.write_text(PLAYED.format(real=sys.executable, stage=str(self.stage), calls=str(self.calls)))
        self.python.chmod(self.python.stat().st_mode | stat.S_IXUSR)

    def arguments(self, *arguments: str, **changes: object) -> list[str]:
        self.calls.write_text("")
        self.stage.write_text(json.dumps(STAGE | changes))
        return ["--folder", str(self.folder), "--python", str(self.python), *arguments]

    def __call__(self, *arguments: str, **changes: object) -> int:
        return int(matrix.main(self.arguments(*arguments, **changes)))

    def rows(self) -> dict[str, Any]:
        return {row["torch"]: row for row in json.loads((self.folder / "matrix.json").read_text())["rows"]}

    def left(self) -> set[str]:
        """What is in the folder beside logs."""
        return {path.name for path in self.folder.iterdir() if path.suffix != ".log"}

    def tested(self) -> int:
        return self.calls.read_text().count("-m pytest")


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_every_version_is_resolved_tested_in_turn_and_removed(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert stage() == 0
    rows = stage.rows()
    assert list(rows) == ["2.10.0", "2.11.0", "2.13.0+cpu", "2.14.1"]
    assert {(row["status"], row["passed"], row["compiled"]) for row in rows.values()} == {("PROVEN", 2, 7)}
    assert rows["2.11.0"]["triton"] == "3.9.9"
    assert rows["2.13.0+cpu"]["triton"] == "3.7.1", "a CPU build of torch pins no triton"
    assert stage.left() == {"lock", "matrix.json"}
    out = capsys.readouterr().out
    sizes = [matrix_venv.SIZES[each] for each in ("2.10", "2.11", "2.14")] + [matrix_venv.CPU_SIZE]
    assert f"together about {sum(each[0] for each in sizes):.1f} GB to download" in out
    assert f"and {max(sum(each) for each in sizes):.1f} GB of disk at a time" in out
    assert out.index("of disk at a time") < out.index("== torch 2.10 on 3.12, 1 of 4")
    for line, torch in zip(out.split("\ntorch ")[1].splitlines()[1:5], rows, strict=True):
        assert line.split()[:5] == [torch, rows[torch]["triton"], "2.9", "3.12", "PROVEN"]


def test_the_newest_is_tested_once_where_it_is_named_too(stage: Stage) -> None:
    assert stage("--versions", "2.11 newest", resolves={"2.11": "2.11.0", "newest": "2.11.0"}) == 0
    assert stage.tested() == 1


def test_one_that_fails_is_red_and_the_others_still_run(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert stage(fails=["2.10.0"], at_fault=["2.11.0"], skips=["2.14.1"]) == 1
    assert {torch: row["status"] for torch, row in stage.rows().items()} == {
        "2.10.0": "FAILED",
        "2.11.0": "FAILED",
        "2.13.0+cpu": "PROVEN",
        "2.14.1": "NOT RUN",
    }
    out = capsys.readouterr().out
    assert "test_b failed" in out
    assert "compile gate: 1 kernels at fault" in out
    assert "no test ran" in out
    assert stage("--versions", "2.10") == 1, "a failure that is remembered is red as well"
    assert stage.tested() == 0
    assert stage("--versions", "2.14 2.13", resolves={"2.14": "2.14.1"}, skips=["2.14.1"]) == 3


def test_a_version_that_is_not_there_or_does_not_install_is_not_run(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stage("--versions", "2.9 2.10 2.11", breaks=["2.10.0"]) == 3
    assert {torch: row["status"] for torch, row in stage.rows().items()} == {
        "2.9": "NOT RUN",
        "2.10.0": "NOT RUN",
        "2.11.0": "PROVEN",
    }
    assert "does not resolve: pip: No matching distribution found for torch==2.9" in stage.rows()["2.9"]["notes"]
    assert "No space left on device" in stage.rows()["2.10.0"]["notes"][0]
    assert stage.left() == {"lock", "matrix.json"}
    assert stage("--versions", "2.10") == 0, "what was not run is tried again"
    assert stage("--versions", "2.10", "--again", breaks=["2.10.0"]) == 3
    assert stage.rows()["2.10.0"]["status"] == "PROVEN", "what was found is not forgotten"
    monkeypatch.setattr(matrix, "source_digest", lambda tests: "another")
    assert stage("--versions", "2.10", breaks=["2.10.0"]) == 3
    assert stage.rows()["2.10.0"]["status"] == "NOT RUN", "unless it was found of other code"


def test_what_is_done_is_skipped_until_the_code_or_the_version_changes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stage("--versions", "2.11 newest") == 0
    assert stage("--versions", "2.10 2.11 newest") == 0
    assert stage.tested() == 1
    assert stage("--versions", "2.11", "--again") == 0
    assert stage.tested() == 1
    assert stage("--versions", "newest", resolves={"newest": "2.14.2"}) == 0
    assert stage.tested() == 1
    assert stage("--versions", "2.11", python="3.13") == 0
    assert stage.tested() == 1
    monkeypatch.setattr(matrix, "source_digest", lambda tests: "another")
    assert stage("--versions", "2.11") == 0
    assert stage.tested() == 1


def test_a_tree_that_changes_meanwhile_proves_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = iter(["planned", "begun", "ended"])
    monkeypatch.setattr(matrix, "source_digest", lambda tests: next(digests))
    assert stage("--versions", "2.11") == 3
    assert stage.rows()["2.11.0"]["notes"] == ["the tree changed while it was tested"]


def test_too_small_a_disk_is_refused_before_anything_is_installed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = namedtuple("usage", "free")
    need = {name: sum(matrix_venv.SIZES[name]) for name in ("2.10", "2.11")}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(int((max(need.values()) + 1.5) * 1e9)))
    assert stage("--versions", "2.10 2.11", "--keep") == 2
    assert f"nothing was begun: {sum(need.values()) + 1:.1f} GB have to be free" in capsys.readouterr().err
    assert stage.tested() == 0
    assert stage.left() == {"lock"}
    assert stage("--versions", "2.10 2.11") == 0, "one at a time fits"


def test_a_venv_is_kept_on_request_and_used_again_or_taken_from_elsewhere(stage: Stage) -> None:
    assert stage("--versions", "2.11", "--keep") == 0
    venv = stage.folder / "venv-2.11-on-3.12"
    assert venv.is_dir()
    assert stage("--versions", "2.11", "--keep", "--again") == 0
    assert stage.calls.read_text().count("--no-deps") == 0
    assert stage("--venv", str(venv), "--again") == 0
    assert venv.is_dir()
    assert "pip" not in stage.calls.read_text()
    (venv / "resolved.json").unlink()
    assert stage("--plan") == 0
    assert not venv.exists(), "one that a killed run left half-made"
    assert stage("--venv", str(venv)) == 2


def test_a_run_over_its_limit_has_failed(stage: Stage) -> None:
    assert stage("--versions", "2.11", "--minutes", "0.02", hangs=["2.11.0"]) == 1
    assert stage.rows()["2.11.0"]["notes"] == ["the tests were over their limit of 0.02 minutes"]


def test_a_run_that_is_stopped_tidies_up_and_goes_on_from_there(stage: Stage) -> None:
    command = [sys.executable, ROOT / "tools/matrix.py", *stage.arguments("--versions", "2.10 2.11", hangs=["2.11.0"])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    lines = []
    for line in process.stdout or ():
        lines.append(line)
        if "hanging" in line:
            process.send_signal(signal.SIGTERM)
    assert process.wait() == 130
    assert "the same command goes on from here" in lines[-1]
    assert list(stage.rows()) == ["2.10.0"]
    assert stage.left() == {"lock", "matrix.json"}
    assert stage("--versions", "2.10 2.11") == 0
    assert stage.tested() == 1


def test_a_result_is_kept_before_its_venv_is_removed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    remove = shutil.rmtree

    def stopped(path: Path, **options: Any) -> None:
        if path.name == "venv-2.11-on-3.12" and path.exists():
            raise KeyboardInterrupt
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", stopped)
    assert stage("--versions", "2.11") == 130
    assert stage.rows()["2.11.0"]["status"] == "PROVEN"
    monkeypatch.undo()
    assert stage("--versions", "2.11") == 0
    assert stage.tested() == 0
    assert stage.left() == {"lock", "matrix.json"}


def test_bad_arguments_are_named(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        stage("--versions", "2.13.0")
    assert "versions: got 2.13.0; allowed: newest, or two numbers such as 2.13" in capsys.readouterr().err
    assert stage(python="3.10") == 2
    assert "allowed: a Python 3.11 to 3.13; here: " in capsys.readouterr().err


def test_every_pattern_of_tests_names_files() -> None:
    assert [pattern for pattern in matrix.TESTS if not list(ROOT.glob(pattern))] == []


def test_a_bound_that_is_an_array_is_read_by_tritons_old_interpreter_too() -> None:
    pytest.importorskip("triton")
    from fewstep_kernels.fused.interpreter import read_bounds_by_item

    class Tensor:
        handle = SimpleNamespace(data=np.array([3], dtype=np.int32))

    class Interpreter:
        @staticmethod
        def _patch_lang_tensor(tensor: Any, scope: Any) -> None:
            scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data[:, None]))

    class Scope:
        set_attr = staticmethod(setattr)

    read_bounds_by_item(Interpreter)
    Interpreter._patch_lang_tensor(Tensor, Scope)
    assert list(range(Tensor())) == [0, 1, 2]
