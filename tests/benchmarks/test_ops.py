"""benchmarks/ops.py on a CPU: each op beside eager torch, what is wrong has no speed, and ours alone fails the run."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep_kernels import reference
from support.gpu_parts import BENCHMARKS, load
from support.tree import ROOT

pytest.importorskip("triton")  # of the exponentials' rate, which attention's cases import
measure: Any = load("measure")
op_cases: Any = load("op_cases")
op_contenders: Any = load("op_contenders")
op_parity: Any = load("op_parity")
op_rows: Any = load("op_rows")
op_steps: Any = load("op_steps")
op_work: Any = load("op_work")
ops: Any = load("ops")

CPU, GPU = torch.device("cpu"), torch.device("cuda")
TINY = {case.op: case for case in op_cases.tiny_cases()}
ASKED = {
    "add_noise",
    "cfg_combine",
    "posterior_update",
    "denoise_step",
    "group_norm_silu",
    "layer_norm",
    "add_layer_norm",
    "geglu",
    "attention",
}
STEPS = [op for op in op_cases.OPS if "step" in op and op != "timestep_embedding"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("op", list(op_cases.OPS))
def test_ours_and_eager_are_the_same_op(op: str, dtype: torch.dtype) -> None:
    work = replace(TINY[op], dtype=dtype).work(CPU)
    parity = op_parity.Parity.of(work)
    for name, call in op_contenders.contenders(work, compiles=False).items():
        verdict = op_contenders.Verdict.of(name, call, work, parity)
        print(op, name, verdict.errors, parity.allowed)
        assert not verdict.why_not
    assert work.bytes > 0
    assert bool(work.operations) == (op == "attention")


def wrong(call: Any, how: Callable[[Tensor], Tensor]) -> Any:
    """A call whose first result has been spoiled."""

    def function(**arguments: Any) -> tuple[Tensor, ...]:
        first, *others = op_work.Call(call.function, arguments)()
        return how(first), *others

    return op_work.Call(function, call.arguments)


def one_value(x: Tensor) -> Tensor:
    spoiled = x.clone()
    spoiled[(-1,) * x.ndim] += 0.01 * x.abs().max()
    return spoiled


FAULTS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "off by a ten-thousandth": lambda x: x * 1.0001,
    "one value off": one_value,
    "one value not a number": lambda x: x.index_fill(0, torch.tensor([0]), float("nan")),
    "too short": lambda x: x[:-1],
}


@pytest.mark.parametrize("fault", list(FAULTS))
@pytest.mark.parametrize("op", list(op_cases.OPS))
def test_parity_sees_a_fault(op: str, fault: str) -> None:
    work = TINY[op].work(CPU)
    parity = op_parity.Parity.of(work)
    verdict = op_contenders.Verdict.of("ours", wrong(work.ours, FAULTS[fault]), work, parity)
    print(verdict.why_not)
    assert verdict.why_not.startswith("wrong: ")


@pytest.mark.parametrize("op", STEPS)
def test_a_step_that_writes_no_input_or_draws_no_noise_is_wrong(op: str) -> None:
    work = TINY[op].work(CPU)
    parity = op_parity.Parity.of(work)

    def skips(b: Any, m: Tensor) -> tuple[Tensor, Tensor]:
        written = b.x_in.clone()
        work.ours.function(b, m)
        written[:-1] = b.x_in[:-1]
        return b.x, written

    def quiet(b: Any, m: Tensor) -> tuple[Tensor, Tensor]:
        from fewstep_kernels import COLUMN

        for rows in (b.table, b.row):
            rows[..., COLUMN["s"]] = 0
        found: tuple[Tensor, Tensor] = work.ours.function(b, m)
        return found

    faults = [skips] if op == "step no noise" else [skips, quiet]
    for fault in faults:
        verdict = op_contenders.Verdict.of("ours", op_work.Call(fault, work.ours.arguments), work, parity)
        assert verdict.why_not.startswith("wrong: "), fault


def test_the_exact_normals_are_those_of_the_twin() -> None:
    seed, step, shape = torch.tensor([5, -7, 2**62]), torch.tensor([0, 3, 1]), (3, 5, 7)
    exact = op_steps.exact_normals(seed, step, shape)
    assert float((exact - reference.normal(seed, step, 1, shape)).abs().max()) < 2e-6


@pytest.mark.parametrize("device", [CPU, GPU], ids=["CPU", "GPU"])
def test_every_op_comes_once_before_any_comes_twice(device: torch.device) -> None:
    found = op_cases.cases(device)
    names = [case.op for case in found]
    assert set(names) >= ASKED
    assert names[: len(op_cases.OPS)] == list(op_cases.OPS)
    assert len(set(map(str, found))) == len(found)
    for op, entry in op_cases.OPS.items():
        assert {case.dtype for case in found if case.op == op} == set(entry.dtypes)
    usual = torch.bfloat16 if device.type == "cuda" else torch.float32
    assert all(case.dtype == usual for case in found[: len(op_cases.OPS)] if case.op != "timestep_embedding")


def test_a_cpu_is_asked_for_what_takes_long_only_by_name() -> None:
    name = "attention, SDXL 64x64 self, float32"
    assert name not in map(str, op_cases.cases(CPU))
    assert [str(case) for case in op_cases.cases(CPU, name)] == [name]


Run = Callable[..., tuple[int, dict[str, dict[str, Any]], Any]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the script on a CPU with one op, some of its work replaced; gives the exit code, the rows, the report."""

    def measured(op: str, seconds: float = 60.0, out: Path | None = None, **change: Any) -> tuple[int, Any, Any]:
        case = TINY[op]
        work = make(case, CPU)
        changed = replace(work, **{name: value(work) for name, value in change.items()})
        monkeypatch.setattr(op_cases.OpCase, "work", lambda self, device: changed)
        monkeypatch.setattr(ops, "cases", lambda device, only: [case])
        options = argparse.Namespace(out=out, dry_run=False, device=CPU, only="", seconds=seconds, compile_seconds=-1.0)
        script = ops.Bench(options)
        return script.run(), {row.get("contender", ""): row for row in script.report.rows}, script.report

    make = op_cases.OpCase.work
    ceilings = iter([op_rows.Ceilings(rate, {"float32": rate, "bfloat16": rate}) for rate in (5e8, 1e9)] * 9)
    monkeypatch.setattr(op_rows.Ceilings, "of", lambda device, dry_run: next(ceilings))
    monkeypatch.setattr(ops, "flusher", lambda device: measure.nothing)
    monkeypatch.setattr(ops, "ROUNDS", 9)
    return measured


def test_a_row_has_its_rates_its_quantiles_and_all_samples(run: Run, tmp_path: Path) -> None:
    code, rows, report = run("geglu", out=tmp_path / "ops")
    assert (code, report.failed, set(rows)) == (0, 0, {"ours", "eager", "compiled", "copy"})
    assert rows["compiled"]["status"] == "not run: no time left to compile it"
    for name in ("ours", "eager", "copy"):
        row = rows[name]
        assert (row["status"], row["repeats"], len(row["seconds"])) == ("measured", 9, 9)
        assert row["min_us"] <= row["median_us"] <= row["p90_us"] <= row["p99_us"] == row["max_us"]
        assert row["gb_s"] == pytest.approx(row["bytes"] / row["median_us"] / 1e3)
        assert row["gb_s_share"] == pytest.approx(row["gb_s"])
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
    assert rows["eager"]["ratio"] == 1
    data = json.loads((tmp_path / "ops.json").read_text())
    assert data["about"]["ceilings"]["before"]["copy"] == 5e8
    assert data["about"]["copy_bytes_per_second"] == 1e9
    assert data["about"]["timed_region"] == "one call, by the host's clock"
    assert len(data["rows"][0]["seconds"]) == 9
    assert '"seconds": [ ' in (tmp_path / "ops.json").read_text()
    assert "seconds" not in (tmp_path / "ops.csv").read_text().splitlines()[0].split(",")


def test_attention_is_counted_in_operations(run: Run) -> None:
    _, rows, _ = run("attention")
    assert "copy" not in rows
    row = rows["ours"]
    assert row["tflops"] == pytest.approx(row["operations"] / row["median_us"] / 1e6)
    assert row["tflops_share"] == pytest.approx(1e3 * row["tflops"])


def raises(**_: Tensor) -> Tensor:
    raise RuntimeError("the kernel broke\nand said more")


def test_what_is_wrong_has_no_speed_and_ours_fails_the_run(run: Run) -> None:
    double = FAULTS["off by a ten-thousandth"]
    code, rows, report = run("geglu", ours=lambda work: wrong(work.ours, double))
    assert (code, report.failed) == (1, 1)
    assert rows["ours"]["status"].startswith("wrong: off by 1.0e-04")
    assert "median_us" not in rows["ours"]
    assert rows["eager"]["status"] == "measured"
    code, rows, _ = run("geglu", ours=lambda work: op_work.Call(raises, work.ours.arguments))
    assert code == 1
    assert rows["ours"]["status"] == "failed: RuntimeError: the kernel broke"
    code, rows, _ = run("geglu", more=lambda work: {"ours, dependent": wrong(work.ours, one_value)})
    assert code == 1
    assert rows["ours, dependent"]["status"].startswith("wrong: ")


def test_a_wrong_baseline_has_no_speed_and_is_no_fault_of_ours(run: Run) -> None:
    def own(work: Any) -> Any:
        return work.eager

    code, rows, report = run("geglu", own=own, eager=lambda work: wrong(work.eager, one_value))
    assert (code, report.failed) == (0, 0)
    assert rows["eager"]["status"].startswith("wrong: ")
    assert rows["ours"]["status"] == "measured"
    assert "ratio" not in rows["ours"]


class Replayed:
    """In a graph's place: it runs the call again."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.replay = call


@pytest.mark.parametrize("op", ["geglu", "step", "group_norm_silu"])
def test_a_graph_must_give_the_bits_of_the_call(op: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    captures: list[int] = []

    def captured(call: Callable[[], object], calls: int) -> Replayed:
        captures.append(calls)
        call()
        return Replayed(call)

    monkeypatch.setattr(ops.Bench, "gpu", True)
    monkeypatch.setattr(ops, "captured", captured)
    code, rows, report = run(op)
    assert (code, report.failed, report.passed) == (0, 0, 2)  # parity, and the graph
    assert set(captures) == {1}
    assert rows["ours"]["called_us"] > 0
    monkeypatch.setattr(ops, "equal", lambda work, one, other: False)
    code, rows, report = run(op)
    assert code == 1
    assert rows["ours"]["status"] == "failed in a graph: RuntimeError"
    assert "median_us" not in rows["ours"]
    assert rows["eager"]["status"] == "measured"


def test_without_time_a_case_says_so_and_nothing_is_proven(run: Run) -> None:
    code, rows, _ = run("geglu", seconds=-1.0)
    assert (code, rows[""]["status"]) == (measure.NOT_RUN, "not run: no time left")


def test_in_every_round_each_runs_once_in_a_new_order_with_what_goes_before() -> None:
    seen: list[str] = []
    works = {name: (lambda name=name: seen.append(name)) for name in "abc"}
    times = measure.in_turn(works, CPU, 20, before=lambda: seen.append("before"))
    assert {name: len(each) for name, each in times.items()} == dict.fromkeys("abc", 20)
    assert seen[::2] == ["before"] * 60
    rounds = {tuple(seen[i + 1 : i + 6 : 2]) for i in range(0, 120, 6)}
    assert all(set(each) == set("abc") for each in rounds)
    assert len(rounds) > 3


def test_the_cache_is_overwritten_by_more_than_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def empty(size: int, device: torch.device) -> Tensor:
        made.append(4 * size)
        return torch.zeros(1, device=device)

    monkeypatch.setattr(measure, "cache_bytes", lambda device: 2**27)
    monkeypatch.setattr(torch, "empty", empty)
    measure.flusher(CPU)()
    assert made == [2**28]


def test_a_sweep_of_the_norm_puts_the_librarys_settings_back() -> None:
    sweep: Any = load("norm_sweep")
    own = sweep.chosen()
    other = tuple(values[0] for values in sweep.GRID.values())
    assert other != own
    with sweep.settings(other):
        assert sweep.chosen() == other
    assert sweep.chosen() == own


@pytest.mark.slow
def test_a_dry_run_decides_how_triton_runs_before_anything_imports_it() -> None:
    script = "import sys; import norm_sweep, ops; print('triton' in sys.modules)"
    paths = [ROOT / "engine", ROOT / "kernels", BENCHMARKS]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    run = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    print(run.stderr)
    assert run.stdout.strip() == "False"
