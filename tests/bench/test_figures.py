"""Figures beside the times: operations and bytes of a call, ceilings of the machine, the floor of a run."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import fewstep_kernels
from fewstep import Engine, Model, schedules
from fewstep.bench import Settings, Subject, run
from fewstep.bench.ceilings import best, ceilings_of, copy_bandwidth, matmul_rate, rates
from fewstep.bench.clock import Stopwatch, Timing
from fewstep.bench.contenders import EAGER, ENGINE, Case, Contender
from fewstep.bench.floor import columns, count, counted_call, work_of
from fewstep.bench.machine import describe_machine, lasting
from fewstep.bench.race import race
from fewstep.bench.results import MEASURED, Reading, Report, finite, row_of

CPU = torch.device("cpu")
B, C, H, W = 2, 6, 5, 7


class Small(nn.Module):
    """A convolution and a table of classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.table = nn.Embedding(10, 3)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        shifted: Tensor = self.conv(x) + self.table(labels)[:, :, None, None].to(x.dtype)
        return shifted


def small() -> Subject:
    torch.manual_seed(0)
    conditions = {"kind": "classes", "count": 10}
    model = Model(Small(), schedule=schedules.linear(), shape=(3, 8, 8), conditions=conditions, prediction="x_0")
    return Subject(Engine(model, device="cpu"), "small", {}, lacks_diffusers="not asked for")


def parse_strictly(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(
    ("call", "operations"),
    [
        (lambda: nn.Conv2d(C, 8, 3, padding=1)(torch.ones(B, C, H, W)), 2 * B * H * W * 8 * C * 3 * 3),
        (lambda: nn.Conv2d(C, 6, 3, padding=1, groups=3)(torch.ones(B, C, H, W)), 2 * B * H * W * 6 * (C // 3) * 9),
        (lambda: nn.Conv1d(C, 8, 5, stride=2)(torch.ones(B, C, 11)), 2 * B * 4 * 8 * C * 5),
        (lambda: nn.Linear(C, 9)(torch.ones(B, W, C)), 2 * B * W * C * 9),
        (
            lambda: functional.scaled_dot_product_attention(
                torch.ones(B, 3, 5, 4), torch.ones(B, 3, 7, 4), torch.ones(B, 3, 7, 4)
            ),
            4 * B * 3 * 5 * 7 * 4,
        ),
        (
            lambda: fewstep_kernels.attention(torch.ones(B, 5, 3, 4), torch.ones(B, 7, 3, 4), torch.ones(B, 7, 3, 4)),
            4 * B * 3 * 5 * 7 * 4,
        ),
        (
            lambda: fewstep_kernels.attention_laid_out(torch.ones(B, 5, 3, 4), torch.ones(B, 2, 3, 7, 4)),
            4 * B * 3 * 5 * 7 * 4,
        ),
        (lambda: torch.ones(B, C).tanh(), 0),
    ],
    ids=["conv", "grouped conv", "conv in 1-D", "linear", "torch's attention", "attention", "laid out", "elements"],
)
def test_operations_are_those_of_the_formula(call: Callable[[], object], operations: int) -> None:
    assert counted_call(call)[0] == operations


def test_a_call_moves_weights_once_and_each_sample_in_and_out() -> None:
    subject = small()
    counted = count(subject)
    exact, half = (work_of(each, counted) for each in (subject, subject.on("torch", torch.bfloat16)))
    sample, times_and_labels = 3 * 8 * 8, 4 + 8
    weights = 3 * 3 * 9 + 3  # the table of classes is not read as a whole
    assert exact.call(4) == {
        "flops": 4 * 2 * sample * 3 * 9,
        "bytes": 4 * weights + 4 * (2 * 4 * sample + times_and_labels),
    }
    assert half.flops == exact.flops
    assert half.weights * 2 == exact.weights
    assert half.moved == 2 * 2 * sample + times_and_labels


def test_what_cannot_be_counted_is_left_out() -> None:
    calls = iter([ValueError("once"), None])

    def call() -> int:
        if error := next(calls):
            raise error
        return 7

    assert counted_call(call) == (None, 7)
    found = columns(Case("ddim", 2, 1), 0.5, {"flops": None, "bytes": 1e9, "ceiling": {"tflops": 1.0, "gb_s": 8.0}})
    assert found == {"gb_s": 4.0, "gb_s_share": 0.5}


@pytest.mark.parametrize(("gb_s", "floor_ms"), [(100.0, 200.0), (10.0, 400.0)])
def test_a_floor_is_the_longer_of_operations_and_bytes(gb_s: float, floor_ms: float) -> None:
    figures = {"flops": 1e10, "bytes": 1e9, "ceiling": {"tflops": 0.2, "gb_s": gb_s}}
    timings = [Timing(seconds, 0.0, 0.0, 0) for seconds in (0.7, 0.8, 2.0)]
    case = Case("ddim", 4, 2)
    reading = Reading("m", case, Contender(ENGINE), MEASURED, timings, timings, {}, figures)
    row = row_of([reading])
    assert row.tflops == pytest.approx(4e10 / 0.8 / 1e12)
    assert row.tflops_share == pytest.approx(4e10 / 0.8 / 0.2e12)
    assert row.gb_s == pytest.approx(4 / 0.8)
    assert row.gb_s_share == pytest.approx(4 / 0.8 / gb_s)
    assert row.floor_ms == pytest.approx(floor_ms)
    assert row.of_floor == pytest.approx(800 / floor_ms)
    halved = replace(reading, figures=figures | {"ceiling": {"tflops": 0.1, "gb_s": gb_s / 2}})
    assert row_of([reading, halved]).floor_ms == pytest.approx(1.5 * floor_ms)  # each run's own ceilings


def test_ceilings_are_the_better_of_before_and_after() -> None:
    before, after = {"tflops": 1.0, "gb_s": 8.0}, {"tflops": 2.0, "gb_s": 7.0}
    told = ceilings_of({"float32": before}, {"float32": after})
    assert told == {"float32": {"tflops": 2.0, "gb_s": 8.0, "before": before, "after": after}}
    assert best([told]) == told
    assert best([told, ceilings_of({"float32": after}, {"float32": {"tflops": 3.0, "gb_s": 1.0}})])["float32"] == {
        "tflops": 3.0,
        "gb_s": 8.0,
        "runs": [told["float32"], {"tflops": 3.0, "gb_s": 7.0, "before": after, "after": {"tflops": 3.0, "gb_s": 1.0}}],
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rates_are_positive(dtype: torch.dtype) -> None:
    assert matmul_rate(CPU, quick=True, dtype=dtype).median > 0
    assert copy_bandwidth(CPU, quick=True).median > 0


def test_no_dtype_is_held_to_less_than_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    def rate(device: torch.device, quick: bool, dtype: torch.dtype) -> Any:
        return type("Told", (), {"median": 4e12 if dtype == torch.float32 else 1e12})

    monkeypatch.setattr("fewstep.bench.ceilings.matmul_rate", rate)
    assert rates(CPU, ["bfloat16"], quick=True)["bfloat16"]["tflops"] == pytest.approx(4.0)


def test_what_json_has_no_number_for_is_none() -> None:
    assert finite({"psnr": float("inf"), "difference": float("nan"), "max_abs": 0.0}) == {
        "psnr": None,
        "difference": None,
        "max_abs": 0.0,
    }


class Ticking:
    """A clock that moves by itself, and a device whose work is done so much later."""

    def __init__(self) -> None:
        self.host, self.device = 0.0, 0.0

    def now(self) -> float:
        self.host = max(self.host, self.device)
        return self.host

    def launch(self) -> None:
        self.host += 1
        self.device = self.host + 9


def test_host_time_is_until_the_run_returned() -> None:
    ticking = Ticking()
    timing = Stopwatch([], ticking.now, lambda: ticking.host).time(ticking.launch)
    assert timing == Timing(wall=10, network=0, loop=0, calls=0, host=1)
    assert Stopwatch([], ticking.now).time(ticking.launch).host is None
    row = row_of([Reading("m", Case("ddim", 4, 2), Contender(ENGINE), MEASURED, [timing], [timing])])
    assert (row.host_us_request, row.host_us_step) == (1e6, 0.25e6)


def test_shares_come_from_rounds_under_the_watch_and_times_from_those_without() -> None:
    case, plain, watched = Case("ddim", 2, 1), Timing(1.0, 0.0, 0.0, 0, 0.1), Timing(3.0, 2.0, 2.5, 2)
    reading = Reading("m", case, Contender(ENGINE), MEASURED, [plain], [plain], watched=[watched])
    assert Reading.from_dict(json.loads(json.dumps(reading.to_dict()))) == reading
    row = row_of([reading])
    assert (row.median_ms, row.calls) == (1000, 2)
    assert (row.outside_us, row.loop_median_us, row.setup_us) == (0.5e6, 0.25e6, 0.5e6)


def test_where_a_clock_distorts_a_run_it_is_timed_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewstep.bench.race.distorts", lambda _: True)
    settings = Settings(steps=(2,), batches=(1,), samplers=["ddim"], repeats=1, beside=())
    measured = [each for each in race("small", small(), settings) if each.status == MEASURED]
    assert {each.contender.kind for each in measured} == {ENGINE, EAGER}
    for reading in measured:
        assert [(timing.calls, timing.network) for timing in reading.timings] == [(0, 0.0)]
        assert all(timing.host is not None for timing in reading.timings)
        assert [timing.calls for timing in reading.watched] == [2, 2, 2]
        assert row_of([reading]).outside_us is not None


def test_a_machine_stays_the_same_while_its_load_and_clocks_change() -> None:
    machine = describe_machine(CPU)
    later = machine | {"date": "2031-01-01", "load": 9.0, "mhz": 1.0}
    assert lasting(later) == lasting(machine)
    assert lasting(machine | {"torch": "1.0"}) != lasting(machine)


@pytest.mark.slow
def test_a_report_has_the_figures_of_every_row_as_strict_json(tmp_path: Path) -> None:
    settings = Settings(steps=(1, 2), batches=(2,), samplers=["ddim"], repeats=2, cold=False, beside=())
    report = run(small(), settings)
    report.save(tmp_path, {})
    kept = parse_strictly((tmp_path / "bench.json").read_text())
    told = kept["ceilings"]["float32"]
    for name in ("tflops", "gb_s"):
        assert 0 < min(told["before"][name], told["after"][name]) <= told[name]
    (model,) = kept["models"].values()
    assert model["flops"] == 2 * 3 * 8 * 8 * 3 * 9
    measured = [row for row in kept["rows"] if row["status"] == MEASURED]
    assert measured
    for row in measured:
        assert row["tflops"] == pytest.approx(1e-9 * row["steps"] * 2 * model["flops"] / row["median_ms"])
        assert row["tflops_share"] == pytest.approx(row["tflops"] / told["tflops"])
        assert row["of_floor"] == pytest.approx(row["median_ms"] / row["floor_ms"])
    assert {"cuda", "triton", "omp", "governor", "mhz", "load", "load_after", "date"} <= kept["machine"].keys()
    assert Report.load(tmp_path / "bench.json").ceilings == report.ceilings
