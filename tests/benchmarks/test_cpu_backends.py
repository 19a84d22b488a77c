"""benchmarks/cpu_backends.py: contenders agree before they are timed, and one that does not or cannot says why."""

import json
from pathlib import Path
from typing import Any

import pytest

from fewstep.bench.subjects.latents import TINY
from support.gpu_parts import load

table: Any = load("cpu_backends")
process: Any = load("cpu_process")
contenders: Any = load("cpu_contenders")
promises: Any = load("cpu_promises")

STUB = """
import json, os, sys
import numpy as np
task = json.loads(sys.stdin.readline())
kind, dtype = task["kind"], task["dtype"]
print(json.dumps({"absent": "no counterpart"} if kind == "diffusers" and task["steps"] > 1 else {}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if kind == "by hand":
        sys.exit("ImportError: no such library")
    if "images" in asked:
        np.save(asked["images"], np.ones(3) + (0.01 if dtype == "bfloat16" else 0) + (%s if kind == "torch" else 0))
        print(json.dumps({"seconds": 2.0}), flush=True)
    else:
        ms = {"diffusers": 20, "before": 12, "torch": 8, "openvino": 5}[kind] * asked["batch"]
        print(json.dumps({"seconds": [ms / 1e3] * asked["runs"]}), flush=True)
"""


def raced(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str, wrong: float = 0
) -> tuple[int, dict[tuple[Any, ...], dict[str, Any]], dict[str, Any]]:
    """The exit code, the rows and the report, of contenders that only say numbers."""
    (folder / "stub.py").write_text(STUB % wrong)
    monkeypatch.setitem(table.Contender.__init__.__globals__, "SCRIPT", folder / "stub.py")
    code = table.main(["--only", "cifar10", "--repeats", "3", "--out", str(folder / "out"), *arguments])
    report = json.loads((folder / "out/cpu_backends.json").read_text())
    return code, {(row["contender"], row["dtype"], row["batch"]): row for row in report["rows"]}, report


def test_every_contender_has_a_row_with_its_times_or_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, rows, report = raced(monkeypatch, tmp_path)
    assert code == 0
    assert len(rows) == 5 * 2 * 2
    ours = rows["openvino", "float32", 4]
    assert (ours["ms"], ours["ms_per_image"], ours["rounds"]) == (pytest.approx(20), pytest.approx(5), 3)
    assert ours["over diffusers float32"] == pytest.approx(0.25)
    assert rows["before", "float32", 1]["status"] == "not asked for: --base REVISION"
    assert rows["by hand", "bfloat16", 1]["status"] == "failed: ImportError: no such library"
    assert rows["torch", "bfloat16", 1]["difference"] == pytest.approx(0.01)
    verdicts = {promise["text"].split(":")[0] for promise in report["about"]["promises"]}
    assert verdicts == {"met", "not measured"}
    page = capsys.readouterr().out
    assert "met: cifar10, batch 1: openvino float32 over diffusers float32 at most 0.588; it is 0.250" in page
    assert "by hand bf16          failed: ImportError" in page
    assert (tmp_path / "out/cpu_backends.csv").read_text().count("\n") == 21


def test_images_that_differ_have_no_speed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, rows, _ = raced(monkeypatch, tmp_path, wrong=0.001)
    assert code == 1
    assert rows["torch", "float32", 1]["status"].startswith("WRONG: differs by 1.0e-03 (allowed: 1e-04)")
    assert "ms" not in rows["torch", "float32", 1]
    assert rows["torch", "bfloat16", 1]["status"] == "measured"  # its tolerance is another


def test_a_network_that_does_not_fit_into_memory_is_not_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(table, "free_gib", lambda: 1.5)
    _, rows, _ = raced(monkeypatch, tmp_path)
    assert rows["openvino", "float32", 1]["status"] == "may need 2 GiB of memory, and 1.5 are free"
    assert rows["torch", "float32", 1]["status"] == "measured"


def test_what_is_asked_for_and_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--only", "cifar11"], ["--dtypes", "float16"], ["--repeats", "0"]):
        with pytest.raises(SystemExit):
            table.main(arguments)
        assert f"{arguments[0]}: got" in capsys.readouterr().err


def test_a_promise_is_kept_by_the_rows_own_ratio_and_missed_with_its_number() -> None:
    about = {"network": "digits", "batch": 1, "contender": "openvino", "dtype": "float32"}
    (promise,) = promises.kept([{**about, "over before float32": 0.5}])
    assert promise["verdict"] == "MISSED"
    assert promise["text"].endswith("it is 0.500, 2.00 times as fast")
    assert promises.kept([about])[0]["verdict"] == "not measured"
    assert promises.kept([]) == []


@pytest.mark.slow
def test_our_engine_and_their_loop_and_openvino_by_hand_draw_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers")
    pytest.importorskip("openvino")
    monkeypatch.setattr(contenders, "CONDITIONAL", contenders.CONDITIONAL | TINY | {"sample_size": 4})
    images = []
    for kind in ("diffusers", "by hand", "torch"):
        task = {"network": "conditional", "kind": kind, "dtype": "float32", "steps": 4, "folder": ""}
        made, lacks = contenders.made(task)
        assert lacks == ""
        images.append(made(2, 0))
    largest = images[0].abs().max()
    assert [float((each - images[0]).abs().max() / largest) < 1e-5 for each in images] == [True] * 3
