"""`fewstep bench`: nothing is timed before parity, clocks account for every second, results are kept whole."""

import csv
import json
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewstep import Engine, Model, schedules
from fewstep.bench import PRESETS, ParityError, Settings, Subject, preset_subject, run
from fewstep.bench import loops as reference
from fewstep.bench.clock import Stopwatch, Timing, timed_loop
from fewstep.bench.cold import cold_starts
from fewstep.bench.contenders import BARE, DIFFUSERS, EAGER, ENGINE, KINDS, Case, Contender
from fewstep.bench.lineup import lineup
from fewstep.bench.parity import check, relative
from fewstep.bench.race import take_turns
from fewstep.bench.results import MEASURED, Reading, Report, Row, row_of
from fewstep.bench.subjects import random_unet
from fewstep.cli import main
from fewstep.errors import ArgumentError
from fewstep_kernels import COLUMN

TINY: dict[str, Any] = {
    **PRESETS["cifar10-ddpm"],
    "sample_size": 8,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 4,
}
QUICK = ["--steps", "1,4", "--batch", "1,2", "--repeats", "2", "--no-cold", "--quiet"]
CASE = Case("ddpm", 4, 2)
ABSENT = ("engine compile", "engine openvino")  # unless they are asked for


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny", TINY)


def subject(prediction: str = "eps", schedule: schedules.Schedule | None = None) -> Subject:
    unet, _ = random_unet(TINY)
    chosen = schedules.linear() if schedule is None else schedule
    engine = Engine(Model(unet, schedule=chosen, shape=(3, 8, 8), prediction=prediction), device="cpu")
    return Subject(engine, "tiny", {"name": "cifar10-ddpm"}, lacks_diffusers="not asked for")


def differences(measured: Subject, case: Case) -> dict[str, float]:
    """By the name of the contender."""
    return {contender.name: found for contender, found in differences_of(lineup(measured), case).items()}


def bench(*arguments: str) -> int:
    return main(["bench", "--preset", "tiny", *QUICK, *arguments])


def wrong_estimate(
    x: Tensor, m: Tensor, ab_t: Tensor, prediction: str, right: Any = reference.x_0_and_eps
) -> tuple[Tensor, Tensor]:
    x_0, eps = right(x, m, ab_t, prediction)
    return x_0 * 1.001, eps


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("steps", [1, 4, 8])
def test_all_contenders_make_the_same_images(sampler: str, steps: int) -> None:
    found = differences(preset_subject("tiny"), Case(sampler, steps, 2))
    assert found.keys() == {ENGINE, DIFFUSERS}
    assert all(difference < 2e-5 for difference in found.values()), found


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_the_reference_takes_every_prediction(sampler: str, prediction: str) -> None:
    assert differences(subject(prediction), Case(sampler, 3, 2))[ENGINE] < 2e-5


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("lowest", [0.002, 0.05])
def test_the_reference_runs_consistency_models(steps: int, lowest: float) -> None:
    model = subject("consistency", schedules.karras(40, lowest))
    assert differences(model, Case("consistency", steps, 2))[ENGINE] < 2e-5


def test_labels_reach_both_sides() -> None:
    class Labelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
            return x * (0.1 + labels[:, None, None, None].to(x.dtype)) * self.weight

    for labels in ({"kind": "classes", "count": 2}, {"kind": "continuous", "min": 0.25, "max": 1.0}):
        model = Model(Labelled(), schedule=schedules.linear(), shape=(3, 8, 8), conditions=labels, prediction="x_0")
        engine = Engine(model, device="cpu")
        labelled = Subject(engine, "labelled", {}, lacks_diffusers="not asked for")
        assert differences(labelled, Case("ddim", 3, 3))[ENGINE] < 1e-5


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_wrong_coefficient_in_the_reference_stops_the_run(
    sampler: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(reference, "x_0_and_eps", wrong_estimate)
    assert bench("--sampler", sampler, "--out", str(tmp_path / "out")) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "engine and the eager reference differ by" in err
    assert sampler in err
    assert "no speed is printed" in err
    assert not (tmp_path / "out").exists()


def test_a_wrong_noise_scale_in_the_engine_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    built = subject().engine.plan(4, "ddpm", spacing="trailing")
    rows = built.rows.copy()
    rows[1, COLUMN["s"]] *= 1.01
    monkeypatch.setattr("fewstep.bench.parity.plan_of", lambda *_: replace(built, rows=rows))
    with pytest.raises(ParityError, match="ddpm, 4 steps, batch 2"):
        check(lineup(subject()), CASE)


def test_nothing_is_timed_before_every_case_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[object] = []
    monkeypatch.setattr(Stopwatch, "time", lambda watch, work: timed.append(work))
    monkeypatch.setattr(reference, "x_0_and_eps", wrong_estimate)
    with pytest.raises(ParityError):
        run(subject(), Settings(steps=(1,), batches=(1,), cold=False))
    assert not timed


def test_what_is_not_finite_agrees_with_nothing() -> None:
    good = torch.ones(2, 3)
    bad = good.clone()
    bad[1, 1] = torch.nan
    assert not relative(bad, good) <= 1
    assert not relative(bad, bad) <= 1
    assert not relative(good * torch.inf, good * torch.inf) <= 1


class Ticks:
    """A clock that only moves when told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Slow(nn.Module):
    """A network that takes ten ticks."""

    def __init__(self, ticks: Ticks) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.ticks = ticks

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.ticks.seconds += 10
        return x * self.weight


def test_network_loop_and_the_rest_account_for_the_whole_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = Ticks()
    model = Model(Slow(ticks), schedule=schedules.linear(), shape=(3, 8, 8), prediction="x_0")
    engine = Engine(model, device="cpu")
    steps = loop_steps(ticks, engine)
    monkeypatch.setattr("fewstep.run.runners.sample_loop", steps)
    with Stopwatch([], ticks) as watch, timed_loop(engine, watch):
        timing = watch.time(lambda: (later(ticks, 5), engine.sample(2, steps=3, seeds=0)))
    assert timing == Timing(wall=5 + 3 * 12, network=30, loop=36, calls=3)
    row = measured_row(Case("ddim", 3, 2), Contender(ENGINE), [timing], [timing], 0.0)
    assert row.loop_median_us == pytest.approx(2e6)  # two ticks of each step are the loop's own
    assert row.setup_us == pytest.approx(5e6)
    assert row.outside_us == pytest.approx((5 + 6) / 3 * 1e6)


def later(ticks: Ticks, seconds: float) -> None:
    ticks.seconds += seconds


def loop_steps(ticks: Ticks, engine: Engine) -> Any:
    """The engine's loop, with two ticks of its own in each step."""
    from fewstep.run.loop import sample_loop

    def steps(denoiser: Any, buffers: Any, count: int, *ops: Any) -> None:
        for _ in range(count):
            sample_loop(denoiser, buffers, 1, *ops)
            ticks.seconds += 2

    return steps


def test_a_stopwatch_leaves_module_and_engine_as_they_were() -> None:
    engine = subject().engine
    before = set(vars(engine.module)), set(vars(engine._runner))
    with pytest.raises(RuntimeError), Stopwatch([engine.module]) as watch, timed_loop(engine, watch):
        assert "forward" in vars(engine.module)
        raise RuntimeError
    assert (set(vars(engine.module)), set(vars(engine._runner))) == before


def test_every_round_gives_each_contender_one_turn_in_an_order_of_its_own() -> None:
    cases = [Case("ddim", 1, 1), Case("ddim", 2, 1)]
    runs: Any = {case: dict.fromkeys(KINDS) for case in cases}
    turns = list(_order(runs, 6))
    orders = []
    for turn in range(6):
        mine = [(case, name) for number, case, name in turns if number == turn]
        assert sorted(map(str, mine)) == sorted(str((case, name)) for case in cases for name in KINDS)
        assert [case for case, _ in mine[:4]] == [mine[0][0]] * 4  # a case's contenders stand side by side
        orders.append(tuple(name for _, name in mine))
    assert len(set(orders)) == 6


def test_a_row_states_spread_and_ratio_of_the_same_round() -> None:
    def timings(*walls: float) -> list[Timing]:
        return [Timing(wall, wall / 2, 0.0, 4) for wall in walls]

    row = measured_row(CASE, Contender(BARE), timings(1.0, 2.0, 9.0), timings(2.0, 2.0, 3.0), None)
    assert (row.min_ms, row.median_ms, row.ms_per_image, row.ms_per_step) == (1000, 2000, 1000, 500)
    assert row.p90_ms == pytest.approx(7600)
    assert row.ratio == 1.0  # of 0.5, 1 and 3; the ratio of the medians would be 1 too, that of the means 1.7
    assert row.loop_median_us is None


def test_a_replayed_graph_states_no_share_of_the_network() -> None:
    timing = Timing(1.0, 0.0, 1.0, 0)
    row = measured_row(CASE, Contender(ENGINE), [timing], [timing], 0.0)
    assert (row.outside_us, row.loop_median_us, row.setup_us) == (None, None, None)


@pytest.mark.slow
def test_json_and_files_hold_every_row(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert bench("--json", "--out", str(tmp_path)) == 0
    report = json.loads(capsys.readouterr().out)
    assert report.keys() == {"format", "model", "machine", "settings", "contenders", "rows", "cold", "files"}
    assert "RANDOM" in report["model"]["title"]
    assert {"cpu", "threads", "torch", "diffusers", "fewstep", "device"} <= report["machine"].keys()
    wanted = {(s, n, b, c) for s in ("ddim", "ddpm") for n in (1, 4) for b in (1, 2) for c in (*KINDS, *ABSENT)}
    assert {(r["sampler"], r["steps"], r["batch"], r["contender"]) for r in report["rows"]} == wanted
    for row in report["rows"]:
        assert row.keys() == {field.name for field in fields(Row)} | {"target_us"}
        if row["contender"] in ABSENT:
            assert row["status"] == "not asked for"
            continue
        assert row["status"] == "measured"
        assert row["repeats"] == 2
        assert (row["ready_seconds"] is None) == (row["contender"] != ENGINE)
        assert row["min_ms"] <= row["median_ms"] <= row["p90_ms"]
        assert (row["difference"] is None) == (row["contender"] in (EAGER, BARE))
        assert (row["loop_median_us"] is None) == (row["contender"] != ENGINE)

    assert report["files"] == [str(tmp_path / name) for name in ("bench.json", "bench.csv", "bench.png")]
    kept = json.loads((tmp_path / "bench.json").read_text())
    assert kept == {key: value for key, value in report.items() if key != "files"}
    rows = list(csv.DictReader((tmp_path / "bench.csv").open()))
    assert len(rows) == len(report["rows"])
    assert {row["cpu"] for row in rows} == {report["machine"]["cpu"]}
    assert float(rows[0]["median_ms"]) == pytest.approx(report["rows"][0]["median_ms"], rel=1e-5)
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_page_states_hardware_parity_and_times(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench() == 0
    page = capsys.readouterr().out
    for words in ("RANDOM weights", "threads", "torch", "parity: at most engine", "ms per image", "diffusers"):
        assert words in page


@pytest.mark.slow
def test_without_diffusers_its_rows_say_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert bench("--json") == 0
    rows = [row for row in json.loads(capsys.readouterr().out)["rows"] if row["contender"] == DIFFUSERS]
    assert {row["status"] for row in rows} == {"not installed: pip install 'fewstep[diffusers]'"}
    assert bench() == 0
    assert "not installed" in capsys.readouterr().out


@pytest.mark.slow
def test_where_diffusers_lands_elsewhere_it_takes_no_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--steps", "3", "--json") == 0
    status = {row["sampler"]: row["status"] for row in rows_of(capsys) if row["contender"] == DIFFUSERS}
    assert status["ddpm"] == "measured"
    assert "divide 1000" in status["ddim"]


def rows_of(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["rows"]
    return rows


@pytest.mark.slow
def test_a_model_folder_in_diffusers_format_is_raced_against_diffusers(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    DDPMPipeline(UNet2DModel(**TINY), DDPMScheduler()).save_pretrained(tmp_path)
    assert main(["bench", str(tmp_path), *QUICK, "--sampler", "ddim", "--json"]) == 0
    assert {row["status"] for row in rows_of(capsys) if row["contender"] not in ABSENT} == {"measured"}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--steps", "0"], "steps"),
        (["--batch", "x"], "batch"),
        (["--repeats", "0"], "repeats"),
        (["--sampler", "lcm"], "sampler"),
        (["--preset", "nothing"], "preset"),
        (["--device", "moon"], "device"),
        (["--threads", "0"], "threads"),
        (["--backends", "torch,onnx"], "backends"),
        (["--dtype", "float16"], "dtype"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_argument_is_named(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(*arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {named}: got ")


def test_a_folder_that_cannot_be_written_is_found_before_the_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setattr("fewstep.bench.run", lambda *_: pytest.fail("measured for nothing"))
    assert bench("--out", str(tmp_path / "taken")) == 2
    assert "taken" in capsys.readouterr().err


def test_flow_models_have_no_reference_yet() -> None:
    with pytest.raises(ArgumentError, match="model"):
        run(subject(schedule=schedules.flow()), Settings(cold=False))


@pytest.mark.slow
def test_a_cold_start_is_measured_in_a_process_of_its_own() -> None:
    engine, diffusers = cold_starts(lineup(subject()), 2)
    assert engine.status == "measured"
    assert engine.import_seconds is not None
    assert engine.import_seconds > 0
    assert engine.peak_bytes is not None
    assert engine.peak_bytes > 2**20
    assert diffusers.status == "not asked for"
