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
from fewstep.bench import ParityError, Report, Settings, Subject, open_subject, run
from fewstep.bench import loops as written
from fewstep.bench.clock import Stopwatch, Timing, timed_loop
from fewstep.bench.contenders import BARE, DIFFUSERS, EAGER, ENGINE, Case, Contender, Racer
from fewstep.bench.lineup import lineup
from fewstep.bench.parity import Agreement, check, psnr, relative
from fewstep.bench.race import reading_of, take_turns
from fewstep.bench.results import MEASURED, Reading, Row, row_of
from fewstep.cli import main
from fewstep_kernels import COLUMN
from support.bench_case import QUICK, TINY, read, tiny_subject

CASE = Case("ddpm", 4, 2)
NAME = "cifar10-ddpm/tiny"
RAN = (ENGINE, EAGER, DIFFUSERS, BARE)


def differences(measured: Subject, case: Case) -> dict[str, float]:
    """By the name of the contender, those of the plain kinds."""
    found = check(lineup(measured, ["torch"], beside=[DIFFUSERS]), case)
    return {contender.name: agreement.difference for contender, agreement in found.items()}


def bench(*arguments: str) -> int:
    return main(["bench", NAME, *QUICK, *arguments])


def wrong_estimate(
    x: Tensor, m: Tensor, ab_t: Tensor, prediction: str, right: Any = written.x_0_and_eps
) -> tuple[Tensor, Tensor]:
    x_0, eps = right(x, m, ab_t, prediction)
    return x_0 * 1.001, eps


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("steps", [1, 4, 8])
def test_all_contenders_make_the_same_images(sampler: str, steps: int) -> None:
    found = differences(open_subject(NAME), Case(sampler, steps, 2))
    assert found.keys() == {ENGINE, DIFFUSERS}
    assert all(difference < 2e-5 for difference in found.values()), found


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_the_reference_takes_every_prediction(sampler: str, prediction: str) -> None:
    assert differences(tiny_subject(prediction), Case(sampler, 3, 2))[ENGINE] < 2e-5


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("lowest", [0.002, 0.05])
def test_the_reference_runs_consistency_models(steps: int, lowest: float) -> None:
    model = tiny_subject("consistency", schedules.karras(40, lowest))
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
def test_a_loop_that_differs_from_the_reference_stops_the_run(
    sampler: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(written, "x_0_and_eps", wrong_estimate)
    assert bench("--sampler", sampler, "--out", str(tmp_path / "out")) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "the eager reference and the loop of" in err
    assert sampler in err
    assert "no speed is printed" in err
    assert not (tmp_path / "out").exists()


def test_a_wrong_noise_scale_in_the_engine_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    built = tiny_subject().engine.plan(4, "ddpm", spacing="trailing")
    rows = built.rows.copy()
    rows[1, COLUMN["s"]] *= 1.01
    monkeypatch.setattr("fewstep.bench.contenders.engine.plan_of", lambda *_: replace(built, rows=rows))
    with pytest.raises(ParityError, match=r"engine and the eager reference differ .* ddpm, 4 steps, batch 2"):
        check(lineup(tiny_subject(), ["torch"], beside=[]), CASE)


def test_an_engine_that_does_not_repeat_itself_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    sample, calls = Engine.sample, iter(range(100))

    def drifting(engine: Engine, *arguments: Any, **named: Any) -> Any:
        drawn = sample(engine, *arguments, **named)
        return replace(drawn, images=drawn.images + 1e-7 * next(calls))

    monkeypatch.setattr(Engine, "sample", drifting)
    with pytest.raises(ParityError, match="engine gives other bits for the same request"):
        check(lineup(tiny_subject(), ["torch"], beside=[]), CASE)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "unipc", "dpmpp_2m_sde", "lcm"])
def test_the_reference_runs_samplers_that_no_loop_is_written_for(sampler: str) -> None:
    assert differences(tiny_subject(), Case(sampler, 4, 2))[ENGINE] < 2e-5


def test_the_reference_runs_flow_maps_and_learned_variances() -> None:
    flow = tiny_subject("flow", schedules.flow())
    assert differences(flow, Case("euler", 3, 2))[ENGINE] < 2e-5


def test_nothing_is_timed_before_every_case_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[object] = []
    monkeypatch.setattr(Stopwatch, "time", lambda watch, work: timed.append(work))
    monkeypatch.setattr(written, "x_0_and_eps", wrong_estimate)
    with pytest.raises(ParityError):
        run(tiny_subject(), Settings(steps=(1,), batches=(1,), cold=False, beside=()))
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
    row = row_of([Reading("slow", Case("ddim", 3, 2), Contender(ENGINE), MEASURED, [timing], [timing])])
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
    engine = tiny_subject().engine
    before = set(vars(engine.module)), set(vars(engine._runner))
    with pytest.raises(RuntimeError), Stopwatch([engine.module]) as watch, timed_loop(engine, watch):
        assert "forward" in vars(engine.module)
        raise RuntimeError
    assert (set(vars(engine.module)), set(vars(engine._runner))) == before


class Written(Racer):
    """Notes its turns."""

    def __init__(self, contender: Contender, subject: Subject, turns: list[tuple[int, Case, Contender]]) -> None:
        super().__init__(contender, subject)
        self.turns = turns

    def images(self, case: Case, seed: int) -> Tensor:
        raise NotImplementedError

    def run(self, case: Case) -> Any:
        return lambda turn: self.turns.append((turn, case, self.contender))


def turns_of(settings: Settings, agreed: Any = None) -> list[tuple[int, Case, Contender]]:
    """The turns of three contenders in two cases."""
    cases, turns = [Case("ddim", 1, 1), Case("ddim", 2, 1)], list[tuple[int, Case, Contender]]()
    racers = [Written(Contender(kind), tiny_subject(), turns) for kind in (ENGINE, EAGER, BARE)]
    known = replace(lineup(tiny_subject(), ["torch"], beside=[]), racers=racers)
    take_turns(known, cases, {case: agreed or {} for case in cases}, settings, lambda: None)
    return turns


def test_every_round_gives_each_contender_one_turn_in_an_order_of_its_own() -> None:
    turns, orders = turns_of(Settings(repeats=5)), []
    for turn in range(6):
        mine = [(case, contender) for number, case, contender in turns if number == turn]
        assert len(mine) == len(set(mine)) == 6
        assert [case for case, _ in mine[:3]] == [mine[0][0]] * 3  # a case's contenders stand side by side
        orders.append(tuple(contender for _, contender in mine))
    assert len(set(orders)) == 6


def test_a_case_whose_seconds_are_over_has_two_rounds_and_a_warm_up() -> None:
    assert max(turn for turn, _, _ in turns_of(Settings(repeats=50, seconds=0.0))) == 2


def test_who_is_wrong_has_no_turn() -> None:
    wrong = Agreement(difference=1.0, allowed=1e-4, max_abs=1.0, psnr=3.0)
    turns = turns_of(Settings(repeats=3), {Contender(BARE): wrong})
    assert {contender.kind for _, _, contender in turns} == {ENGINE, EAGER}


def test_a_row_states_spread_and_ratio_of_the_same_round() -> None:
    row = row_of([read(CASE, Contender(BARE), 1.0, 2.0, 9.0, reference=[2.0, 2.0, 3.0])])
    assert (row.min_ms, row.median_ms, row.max_ms, row.mean_ms) == (1000, 2000, 9000, 4000)
    assert (row.ms_per_image, row.ms_per_step, row.images_per_s, row.calls) == (1000, 500, 1, 4)
    assert row.p90_ms == pytest.approx(7600)
    assert row.p99_ms == 9000  # by nearest rank
    assert row.ratio == 1.0  # of 0.5, 1 and 3; the ratio of the medians would be 1 too, that of the means 1.7
    assert row.loop_median_us is None
    assert (row.runs, row.repeats, row.seconds) == (1, 3, [[1.0, 2.0, 9.0]])


def test_the_interval_of_a_ratio_is_over_independent_runs() -> None:
    runs = [read(CASE, Contender(ENGINE), *([wall] * 3), reference=[1.0] * 3) for wall in (0.50, 0.52, 0.48)]
    row = row_of(runs)
    assert row.runs == 3
    assert row.ratio == pytest.approx((0.50 * 0.52 * 0.48) ** (1 / 3))
    # t(0.975, 2) = 4.303, times the standard error of the logarithms
    half = 4.303 * torch.tensor([0.50, 0.52, 0.48], dtype=torch.float64).log().std().item() / 3**0.5
    assert row.ratio_low == pytest.approx(row.ratio * torch.tensor(-half).exp().item(), rel=1e-5)
    assert row.ratio_high == pytest.approx(row.ratio * torch.tensor(half).exp().item(), rel=1e-5)


def test_a_replayed_graph_states_no_share_of_the_network() -> None:
    timing = Timing(1.0, 0.0, 1.0, 0)
    row = row_of([Reading("tiny", CASE, Contender(ENGINE), MEASURED, [timing], [timing])])
    assert (row.outside_us, row.loop_median_us, row.setup_us) == (None, None, None)


def test_wrong_in_one_run_is_wrong() -> None:
    right = read(CASE, Contender(BARE), 1.0, reference=[1.0])
    row = row_of([right, Reading("tiny", CASE, Contender(BARE), "wrong: differs by 1")])
    assert (row.status, row.median_ms, row.ratio) == ("wrong: differs by 1", None, None)


def test_a_row_says_the_worst_of_its_runs() -> None:
    """The first run finds the caches empty, and a difference that shows in one run is not hidden by the next."""
    told = [
        ({"difference": 3e-5, "psnr": 90.0, "bitwise": True}, 80.0),
        ({"difference": 1e-5, "psnr": 99.0, "bitwise": False}, 9.0),
        ({"difference": 2e-5, "psnr": None, "bitwise": True}, 8.0),
    ]
    runs = [
        replace(read(CASE, Contender(ENGINE), 1.0, reference=[1.0], ready_seconds=seconds), agreement=agreement)
        for agreement, seconds in told
    ]
    row = row_of(runs)
    assert (row.difference, row.psnr, row.bitwise, row.ready_seconds) == (3e-5, 90.0, False, 80.0)


def test_what_has_no_reference_in_its_dtype_is_not_timed() -> None:
    """Where the eager reference itself is wrong in bfloat16, there is no ratio and no speed in that dtype."""
    known = lineup(tiny_subject(), ["torch"], ("float32", "bfloat16"), beside=[BARE])
    settings = Settings(repeats=2, dtypes=("float32", "bfloat16"), tolerances={"float32": 1e-4, "bfloat16": 1e-9})
    agreed = {CASE: {Contender(EAGER, dtype="bfloat16"): Agreement(1.0, 1e-9, 1.0, 3.0)}}
    timings = take_turns(known, [CASE], agreed, settings, lambda: None)[CASE]
    assert {contender.dtype for contender in timings} == {"float32"}
    bare = known[Contender(BARE, dtype="bfloat16")]
    assert "reference in bfloat16 is wrong" in reading_of("tiny", bare, CASE, timings, None, {}).status


def test_equal_images_have_no_end_of_psnr() -> None:
    images = torch.linspace(-1, 1, 5)
    assert psnr(images, images) == float("inf")
    assert psnr(images + 0.2, images) == pytest.approx(20)  # a range of 2 over an error of 0.2


@pytest.mark.slow
def test_json_and_files_hold_every_row(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert bench("--json", "--out", str(tmp_path)) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["format"] == 2
    assert "RANDOM" in report["models"][NAME]["title"]
    assert {"cpu", "threads", "torch", "diffusers", "fewstep", "device"} <= report["machine"].keys()
    wanted = {(s, n, b, c) for s in ("ddim", "ddpm") for n in (1, 4) for b in (1, 2) for c in report["contenders"]}
    assert {(r["sampler"], r["steps"], r["batch"], r["contender"]) for r in report["rows"]} == wanted
    for row in report["rows"]:
        assert row.keys() == {field.name for field in fields(Row)} | {"target_us"}
        if row["contender"] not in RAN:
            assert row["status"] in ("not asked for", "not built yet")
            continue
        assert row["status"] == "measured"
        assert row["repeats"] == 2
        assert row["min_ms"] <= row["median_ms"] <= row["p90_ms"] <= row["p99_ms"] <= row["max_ms"]
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        assert [len(run) for run in row["seconds"]] == [2]
        assert (row["difference"] is None) == (row["contender"] in (EAGER, BARE))
        assert (row["loop_median_us"] is None) == (row["contender"] != ENGINE)

    assert Report.load(tmp_path / "bench.json").to_dict() == {k: v for k, v in report.items() if k != "files"}
    kept = json.loads((tmp_path / "bench.json").read_text())
    assert kept == {key: value for key, value in report.items() if key != "files"}
    rows = list(csv.DictReader((tmp_path / "bench.csv").open()))
    assert len(rows) == len(report["rows"])
    assert {row["cpu"] for row in rows} == {report["machine"]["cpu"]}
    assert float(rows[0]["median_ms"]) == pytest.approx(report["rows"][0]["median_ms"], rel=1e-5)
    assert "<table>" in (tmp_path / "bench.html").read_text()
    assert [path for path in tmp_path.glob("*.png") if path.read_bytes().startswith(b"\x89PNG")]


@pytest.mark.slow
def test_the_page_states_hardware_parity_and_times(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--batch", "1", "--sampler", "ddim") == 0
    page = capsys.readouterr().out
    for words in ("RANDOM weights", "thread", "torch", "parity: images differ", "ms an image", "diffusers"):
        assert words in page


@pytest.mark.slow
def test_without_diffusers_its_rows_say_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    one = ["--steps", "1", "--batch", "1", "--sampler", "ddim"]
    assert bench(*one, "--json") == 0
    rows = [row for row in json.loads(capsys.readouterr().out)["rows"] if row["contender"] == DIFFUSERS]
    assert {row["status"] for row in rows} == {"not installed: pip install 'fewstep[diffusers]'"}
    assert bench(*one) == 0
    assert "not installed" in capsys.readouterr().out


@pytest.mark.slow
def test_where_diffusers_lands_elsewhere_it_takes_no_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--steps", "3", "--batch", "1", "--json") == 0
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
    assert {row["status"] for row in rows_of(capsys) if row["contender"] in RAN} == {"measured"}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--steps", "0"], "steps"),
        (["--batch", "x"], "batch"),
        (["--repeats", "0"], "repeats"),
        (["--sampler", "moon"], "sampler"),
        (["--beside", "tensorflow"], "beside"),
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


def test_a_preset_is_one_of_a_few_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--preset", "nothing", *QUICK]) == 2
    assert capsys.readouterr().err.startswith("error: preset: got 'nothing'; allowed: cifar10-ddpm, ")
    assert bench("--preset", "cifar10-ddpm") == 2
    assert "nothing beside MODEL" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_found_before_the_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setattr("fewstep.bench.run", lambda *_: pytest.fail("measured for nothing"))
    assert bench("--out", str(tmp_path / "taken")) == 2
    assert "taken" in capsys.readouterr().err
