"""The scripts that look first at a GPU: what they make of refusals, hangs and wrong results."""

import itertools
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from support.gpu_parts import load

pytest.importorskip("triton")
ncu: Any = load("ncu")
smoke: Any = load("smoke")
sweep: Any = load("sweep")
golden: Any = load("golden")
build_modules: Any = load("build_modules")
measure: Any = load("measure")
isolated: Any = load("isolated")
prepared: Any = load("prepared")
contenders: Any = load("attention_contenders")

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


@pytest.mark.slow
def test_golden_on_a_device_says_that_the_widths_are_wrong_and_keeps_each_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real, built, odd = golden.cases.Probes, golden.cases.probes().module, "columns along rows, 40"
    products = [product for product in golden.cases.PRODUCTS if product.columns in (40, 64) and not product.a_move]
    monkeypatch.setattr(golden.cases, "BOXES", golden.cases.BOXES[:1])
    monkeypatch.setattr(golden.cases, "PRODUCTS", products)

    class Device(real):  # type: ignore[misc, valid-type]
        def __init__(self, module: str, device: str) -> None:
            assert (module, device) == ("the module of probes", "cuda")
            super().__init__(built)

        def multiply(self, case: Any, kind: str) -> torch.Tensor:
            return super().multiply(case, kind) + (case.name == odd)

    monkeypatch.setattr(golden, "emulator_answers", lambda: None)
    expected = dict(golden.emulated())
    np.savez(tmp_path / "kit.npz", **expected)
    monkeypatch.setattr(golden.cases, "Probes", Device)
    monkeypatch.setattr(golden, "emulator_answers", lambda: tmp_path / "kit.npz")
    monkeypatch.setattr(golden, "module", lambda name: f"the module of {name}")
    monkeypatch.setattr(golden, "describe", lambda device: {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(sys, "argv", ["golden.py", "--out", str(tmp_path / "golden")])
    assert golden.main() == 1
    report = json.loads((tmp_path / "golden.json").read_text())
    assert report["about"]["exact_widths"] is False
    assert report["wrong"] == [f"wgmma {kind}: {odd}" for kind in ("half", "bfloat16")]
    with np.load(tmp_path / "golden.npz") as kept:
        assert {*kept} == {*expected}


def test_a_module_is_called_with_the_device_and_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[Any, ...]] = []
    built = SimpleNamespace(attention_fwd=lambda *given: called.append(given))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(multi_processor_count=132))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=7))
    q, k, v = smoke.Smoke.named("sm_90 d40 few").case(1).tensors(torch.device("cpu"))
    smoke.by_module(built, 90, "lazy")(q, k, v)
    smoke.by_module(built, 80)(q, k, v)
    assert [given[-4:] for given in called] == [("lazy", 132, 90, 7), (contenders.chosen_design(), 132, 80, 7)]
    assert called[0][2] == [1, 1, 67, 77, 40]


def test_each_module_is_made_whatever_becomes_of_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def path_of(name: str, capability: tuple[int, int]) -> Path:
        if name == "smoke":
            raise build_modules.BuildError("nvcc is not installed\nat all")
        path = tmp_path / f"{name}.so"
        path.write_text(name)
        return path

    loads: list[str] = []
    monkeypatch.setattr(build_modules, "path_of", path_of)
    monkeypatch.setattr(build_modules, "loaded", lambda name, path: loads.append(name))
    monkeypatch.setattr(build_modules, "describe", lambda device: {})
    monkeypatch.setattr(build_modules, "PLACE", tmp_path / "_C.so")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sys, "argv", ["build_modules.py", "--out", str(tmp_path / "build")])
    for capability, others in (((9, 0), ["sweep", "probes"]), ((8, 9), ["sweep"])):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        loads.clear()
        assert build_modules.main() == 1
        assert loads == ["library", *others]
    assert (tmp_path / "_C.so").read_text() == "library"
    report = json.loads((tmp_path / "build.json").read_text())
    assert report["rows"][1] == {"module": "smoke", "status": "nvcc is not installed"}


def test_a_device_that_the_kit_has_no_machine_code_for_gets_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setenv("FEWSTEP_CUDA_ARCHS", "")
    monkeypatch.setattr(prepared.kit, "prepared", lambda name: asked.append(f"kit {name}"))
    built = prepared.cuda_build
    monkeypatch.setattr(
        built, "build_cuda", lambda folder, module: asked.append(f"{module.name} {built.architectures()}")
    )
    prepared.path_of("smoke", (9, 0))
    prepared.path_of("smoke", (8, 6))
    prepared.path_of("smoke", (12, 0))
    assert asked == ["kit smoke", "kit smoke", "smoke ['120']"]
