"""Plans: columns, immutability, guidance, the device table, their description, and `make_plan`'s errors."""

import builtins
import pathlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fewstep import schedules
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import SAMPLERS, Clip, ddim, ddpm, make_plan
from fewstep.diffusion.schedules import Schedule
from fewstep.errors import ArgumentError, FewstepError, OutputError
from fewstep_kernels.row import COLUMN, COLUMNS
from support.plan_interpreter import run_plan

LINEAR = schedules.linear()
ZERO_SNR = LINEAR.rescale_zero_terminal_snr()
WORDS: Any = np.array(["eps", "first"])  # compared entry by entry, so it is no word


def schedule_for(sampler: str) -> Schedule:
    return LINEAR if "vp" in SAMPLERS[sampler].kinds else schedules.karras()


@pytest.mark.parametrize("sampler", SAMPLERS)
@given(levels=st.integers(1, 40))
@example(levels=2)
@settings(max_examples=20)
def test_every_sampler_makes_as_many_calls_as_asked(sampler: str, levels: int) -> None:
    steps = SAMPLERS[sampler].calls(levels)
    plan = make_plan(sampler, schedule_for(sampler), steps)
    assert len(plan) == len(plan.rows) == len(plan.levels) == steps
    assert plan.rows.shape == (steps, len(COLUMNS))
    assert np.isfinite(np.delete(plan.rows, COLUMN["clip"], axis=1)).all()
    assert plan.column("s")[-1] == 0
    assert plan.sampler == sampler
    assert f"{sampler}: {steps} model call" in plan.describe()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_columns_that_follow_from_the_path(sampler: str) -> None:
    plan = make_plan(sampler, schedule_for(sampler), 5)
    assert plan.column("t").tolist() == plan.levels.t.tolist()
    assert plan.column("c_in_next")[:-1].tolist() == plan.column("c_in")[1:].tolist()
    assert plan.column("c_in_next")[-1] == 1
    of_history = ("c_1", "c_2", "c_3", "c_4", "h_x", "h_0", "h_m")
    for name in ("g", "phi", "known_fresh", *(() if plan.history else of_history)):
        assert not plan.column(name).any()


@pytest.mark.parametrize(
    ("sampler", "options"),
    [("ddim", {}), ("ddim", {"eta": 0.5}), ("ddim", {"eta": 1.0}), ("ddpm", {}), ("euler", {}), ("lcm", {})],
    ids=["ddim", "ddim eta 0.5", "ddim eta 1", "ddpm", "euler", "lcm"],
)
@pytest.mark.parametrize("schedule", [LINEAR, schedules.flow()], ids=["vp", "flow"])
def test_a_row_carries_its_level_to_the_next(sampler: str, options: dict[str, float], schedule: Schedule) -> None:
    """Where the model is right about x_0, x = signal x_0 + noise z becomes the same at the next level.

    That is also where the known region is put. LCM's c_out is 1 up to 1e-6 there.
    """
    if sampler == "lcm":
        schedule = LINEAR
    plan = make_plan(sampler, schedule, 6, "x_0", **options)
    a, b, e, s = (plan.column(name) for name in ("a", "b", "e", "s"))
    signal, noise = plan.levels.signal_scale, plan.levels.noise_scale
    assert a * signal[:-1] + b + e == pytest.approx(plan.column("known_signal"), abs=1e-6)
    if sampler == "lcm":
        assert s == pytest.approx(plan.column("known_noise"))
    else:
        direction = a * noise[:-1]
        assert direction**2 + s**2 == pytest.approx(plan.column("known_noise") ** 2, abs=1e-12)
    assert plan.column("known_signal").tolist() == signal[1:].tolist()
    assert plan.column("known_noise").tolist() == noise[1:].tolist()


def test_ddim_rows_are_the_formula() -> None:
    plan = ddim(Levels.explicit(LINEAR, [800, 300]), "eps", eta=0.7, clip=Clip(1.2))
    t, s = LINEAR.alphas_cumprod[[800, 300]]
    std = 0.7 * np.sqrt((1 - s) / (1 - t)) * np.sqrt(1 - t / s)
    row = dict(zip(COLUMNS, plan.rows[0], strict=True))
    assert row["k_x"] == pytest.approx(1 / np.sqrt(t))
    assert row["k_m"] == pytest.approx(-np.sqrt(1 - t) / np.sqrt(t))
    assert (row["a"], row["b"], row["s"]) == (0, pytest.approx(np.sqrt(s)), pytest.approx(std))
    assert row["e"] == pytest.approx(np.sqrt(1 - s - std**2))
    assert (row["clip"], row["clip_ratio"]) == (1.2, 0)


def test_ddpm_rows_are_the_formula() -> None:
    path = Levels.explicit(LINEAR, [800, 300])
    t, s = LINEAR.alphas_cumprod[[800, 300]]
    for variance, expected in (
        ("fixed_small", (1 - s) / (1 - t) * (1 - t / s)),
        ("fixed_large", 1 - t / s),
        ("learned_range", 1.0),
    ):
        plan = ddpm(path, "eps", variance)
        row = dict(zip(COLUMNS, plan.rows[0], strict=True))
        assert row["a"] == pytest.approx(np.sqrt(t / s) * (1 - s) / (1 - t))
        assert row["b"] == pytest.approx(np.sqrt(s) * (1 - t / s) / (1 - t))
        assert (row["e"], row["s"] ** 2) == (0, pytest.approx(expected))
        assert plan.learned_variance == (variance == "learned_range")
    assert np.exp(row["log_var_min"]) == pytest.approx((1 - s) / (1 - t) * (1 - t / s))
    assert np.exp(row["log_var_max"]) == pytest.approx(1 - t / s)
    assert plan.column("log_var_min")[-1] == plan.column("log_var_max")[-1] == 0


def test_ddim_at_eta_1_is_ddpm_fixed_small() -> None:
    """Rows are not unique, the map they compose is: x' in terms of x and x_0."""
    path = Levels.spaced(LINEAR, 6)
    one, other = ddim(path, "x_0", eta=1.0), ddpm(path, "x_0")
    assert one.column("a") == pytest.approx(other.column("a"), abs=1e-12)
    assert one.column("b") + one.column("e") == pytest.approx(other.column("b"), abs=1e-12)
    assert one.column("s") == pytest.approx(other.column("s"), abs=1e-12)


@pytest.mark.parametrize(
    ("sampler", "options"),
    [("ddim", {"eta": 1.0}), ("ddpm", {"variance": "fixed_large"}), ("ddpm", {"variance": "learned_range"})],
    ids=["ddim", "ddpm fixed_large", "ddpm learned_range"],
)
def test_the_last_row_draws_no_noise_where_it_lands_short_of_clean(sampler: str, options: dict[str, Any]) -> None:
    plan = make_plan(sampler, LINEAR, 4, final="first", **options)
    assert plan.levels.noise_scale[-1] > 0
    assert plan.column("s")[:-1].all()
    assert plan.column("s")[-1] == 0


def test_a_plan_is_an_immutable_value() -> None:
    plan = make_plan("ddim", LINEAR, 4)
    with pytest.raises(ValueError, match="read-only"):
        plan.rows[0, 0] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        plan.column("a")[0] = 1.0
    with pytest.raises(AttributeError):
        plan.sampler = "ddpm"  # type: ignore[misc]
    guided = plan.with_guidance(3.0)
    assert not plan.guided
    assert guided.guided
    assert guided.levels is plan.levels
    assert len({plan, guided}) == 2


def test_guidance_is_one_scale_or_one_per_call() -> None:
    plan = make_plan("ddim", LINEAR, 4)
    assert plan.column("w").tolist() == [1] * 4
    assert plan.with_guidance(7.5).column("w").tolist() == [7.5] * 4
    assert plan.with_guidance([1, 2, 3, 0]).column("w").tolist() == [1, 2, 3, 0]
    assert make_plan("ddim", LINEAR, 4, guidance_scale=2.0).guided
    assert not plan.with_guidance([0, 1, 1, 0]).guided
    for wrong in ([1, 2], float("nan"), [[1, 2, 3, 4]], "strong", [1, [2]]):
        with pytest.raises(ArgumentError, match="a finite number, or 4 of them, one per model call"):
            plan.with_guidance(wrong)  # type: ignore[arg-type]


def test_guidance_within_an_interval_of_sigma() -> None:
    plan = make_plan("ddim", LINEAR, 8)
    sigmas = plan.levels.sigmas[:-1]
    guided = plan.with_guidance(4.0, rescale=0.7, interval=(float(sigmas[5]), float(sigmas[2])))
    assert guided.column("w").tolist() == [1, 1, 4, 4, 4, 1, 1, 1]
    assert guided.column("phi").tolist() == [0, 0, 0.7, 0.7, 0.7, 0, 0, 0]
    with pytest.raises(ArgumentError, match="interval: got"):
        plan.with_guidance(4.0, interval=(2.0, 1.0))


def test_rescale_needs_statistics_only_where_a_call_is_guided() -> None:
    plan = make_plan("ddim", LINEAR, 4)
    assert plan.with_guidance(4.0, rescale=0.5).statistics
    assert not plan.with_guidance(1.0, rescale=0.5).statistics
    assert not plan.with_guidance(4.0).statistics
    with pytest.raises(ArgumentError, match=r"guidance_rescale: got 1.5; allowed: a number in \[0, 1\]"):
        plan.with_guidance(4.0, rescale=1.5)


def test_what_a_plan_needs_is_read_off_its_rows() -> None:
    assert not make_plan("ddim", LINEAR, 4).stochastic
    assert make_plan("ddim", LINEAR, 4).with_known(fresh=True).stochastic
    assert make_plan("ddim", LINEAR, 4, eta=0.1).stochastic
    assert make_plan("ddpm", LINEAR, 4).stochastic
    assert not make_plan("ddpm", LINEAR, 1).stochastic
    assert make_plan("ddim", LINEAR, 4, clip=Clip(2.0, 0.99)).statistics
    assert not make_plan("ddim", LINEAR, 4, clip=Clip(2.0)).statistics


@pytest.mark.parametrize(
    ("clip", "limit", "ratio"),
    [(None, np.inf, 0), (2, 2, 0), (Clip(), 1, 0), ({"limit": 1.5, "ratio": 0.9}, 1.5, 0.9), (Clip(3.0, 0.5), 3, 0.5)],
    ids=["none", "a number", "the default", "JSON", "dynamic"],
)
def test_clip_is_a_value_a_number_or_json(clip: Any, limit: float, ratio: float) -> None:
    plan = make_plan("ddim", LINEAR, 2, clip=clip)
    assert plan.column("clip").tolist() == [limit] * 2
    assert plan.column("clip_ratio").tolist() == [ratio] * 2


def test_the_table_ends_with_a_row_that_does_nothing() -> None:
    plan = make_plan("euler", LINEAR, 3, clip=1.0)
    table = plan.table()
    assert table.dtype == torch.float32
    assert table.shape == (4, len(COLUMNS))
    assert torch.equal(plan.table(torch.float64)[:3], torch.tensor(plan.rows))
    idle = dict(zip(COLUMNS, table[3].tolist(), strict=True))
    ones = {"c_in", "c_in_next", "k_x", "a", "w"}
    assert {name for name, value in idle.items() if value == 1} == ones
    assert idle["clip"] == np.inf
    assert {value for name, value in idle.items() if name not in ones | {"clip"}} == {0}


def test_rows_that_are_not_numbers_are_refused() -> None:
    plan = make_plan("ddim", LINEAR, 2)
    rows = np.array(plan.rows)
    rows[1, COLUMN["b"]] = np.nan
    with pytest.raises(ArgumentError, match="rows: got nan in column b of row 1"):
        replace(plan, rows=rows)
    with pytest.raises(ArgumentError, match="a row per model call"):
        replace(plan, rows=plan.rows[:1])


def test_describe_is_aligned_and_says_only_what_matters() -> None:
    text = make_plan("ddim", LINEAR, 4, clip=1.0, guidance_scale=3.0).describe()
    head, columns, *calls, end = text.splitlines()
    assert head.startswith("ddim: 4 model calls, eps prediction, trailing spacing, starts from 1 z")
    assert head.endswith("no noise after the start, clip 1, w 3")
    assert columns.split() == ["call", "t", "sigma", "log-SNR", "k_x", "k_m", "b", "e"]
    assert [line.split()[:2] for line in calls] == [["1", "999"], ["2", "749"], ["3", "499"], ["4", "249"]]
    assert {len(line) for line in calls} == {len(columns)}
    assert end == "lands at x_0"


@pytest.mark.parametrize("width", [10, 40, 60, 100])
def test_describe_fits_a_page(width: int) -> None:
    plan = make_plan("ddpm", LINEAR, 4, clip=1.0)
    whole, narrow = plan.describe(), plan.describe(width)
    assert set(whole.split()) == set(narrow.split())
    assert all(len(line) <= max(width, 24) for line in narrow.splitlines())
    headings = [line.split() for line in narrow.splitlines() if line.lstrip().startswith("call  ")]
    assert [name for part in headings for name in part if name != "call"] == whole.splitlines()[1].split()[1:]


def test_describe_shows_what_varies() -> None:
    plan = make_plan("ddpm", LINEAR, 3, variance="learned_range").with_guidance([1.0, 2.0, 3.0])
    columns = plan.describe().splitlines()[1].split()
    assert columns[-6:] == ["a", "b", "s", "w", "log_var_min", "log_var_max"]
    assert "c_in" in make_plan("euler", LINEAR, 3).describe()
    assert "inf" in make_plan("ddim", ZERO_SNR, 3, "v").describe()
    assert "lands at sigma 0.01" in make_plan("ddim", LINEAR, 3, final="first").describe()
    assert "1 model call," in make_plan("ddim", LINEAR, 1).describe()


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("levels", [1, 4, 40])
def test_plot_writes_a_picture(sampler: str, levels: int, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("matplotlib")
    target, steps = tmp_path / "plan.png", SAMPLERS[sampler].calls(levels)
    figure = make_plan(sampler, schedule_for(sampler), steps).plot(target)
    assert target.read_bytes().startswith(b"\x89PNG")
    noise, update = figure.axes
    assert len(noise.lines[0].get_xdata()) == steps + 1
    assert len(update.patches) % steps == 0


@pytest.mark.slow
def test_plot_of_a_plan_without_signal_at_its_start(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("matplotlib")
    make_plan("ddim", ZERO_SNR, 1, "v").plot(tmp_path / "one.svg")
    with pytest.raises(OutputError, match="cannot write"):
        make_plan("ddim", ZERO_SNR, 4, "v").plot(tmp_path / "missing" / "plan.png")
    with pytest.raises(OutputError, match="cannot write"):
        make_plan("ddim", ZERO_SNR, 4, "v").plot(tmp_path / "plan.unknown")


def test_plot_without_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(FewstepError, match=r"pip install 'fewstep\[plot\]'"):
        make_plan("ddim", LINEAR, 2).plot()


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (
            lambda: make_plan("dimm", LINEAR, 4),
            f"sampler: got 'dimm'; allowed: {', '.join(SAMPLERS)}; did you mean 'ddim'?",
        ),
        (lambda: make_plan("DDPM", LINEAR, 4), "did you mean 'ddpm'?"),
        (lambda: make_plan(["ddim"], LINEAR, 4), "sampler: got ['ddim']"),
        (lambda: make_plan("ddim", LINEAR, 4, spacing=5), "spacing: got 5; allowed: leading, trailing"),
        (lambda: make_plan("euler", LINEAR, 4, spacing="karras", sigma_max="big"), "sigma_max: got 'big'"),
        (lambda: make_plan("zzz", LINEAR, 4), f"allowed: {', '.join(SAMPLERS)}"),
        (lambda: make_plan("ddim", LINEAR, 0), "steps: got 0; allowed: an integer from 1 to 1000 model calls"),
        (lambda: make_plan("consistency", schedules.karras(), 41), "steps: got 41; allowed: an integer from 1 to 40"),
        (
            lambda: make_plan("ddim", LINEAR, 4, etaa=1),
            "option of ddim: got 'etaa'; allowed: eta, clip, clipped_direction, final",
        ),
        (lambda: make_plan("ddim", LINEAR, 4, offset=1), "option of ddim: got 'offset'"),
        (lambda: make_plan("ddim", LINEAR, 4, eta=2.0), "eta: got 2.0; allowed: a number in [0, 1]"),
        (
            lambda: make_plan("ddpm", LINEAR, 4, variance="big"),
            "variance: got 'big'; allowed: fixed_small, fixed_large, learned_range",
        ),
        (lambda: make_plan("ddim", LINEAR, 4, clip=0), "clip limit: got 0"),
        (lambda: make_plan("ddim", LINEAR, 4, clip={"range": 1}), "clip: got 'range'; allowed: limit, ratio"),
        (
            lambda: make_plan("ddim", LINEAR, 4, clip=Clip(0.5, 0.9)),
            "clip limit: got 0.5; allowed: a number in [1, 1e+06]",
        ),
        (
            lambda: make_plan("ddim", ZERO_SNR, 4),
            "prediction: got 'eps'; allowed: x_0, v or flow where no signal is left",
        ),
        (lambda: make_plan("ddpm", ZERO_SNR, 4, "score"), "prediction: got 'score'; allowed: x_0, v or flow"),
        (lambda: make_plan("lcm", ZERO_SNR, 4, "eps"), "prediction: got 'eps'; allowed: x_0, v or flow"),
        (lambda: make_plan("euler", ZERO_SNR, 4, "v"), "levels: got a first level with sigma = inf"),
        (
            lambda: make_plan("ddim", LINEAR, 4, "epsilon"),
            "prediction: got 'epsilon'; allowed: for ddim, eps, x_0, v, flow, score",
        ),
        (
            lambda: make_plan("consistency", schedules.karras(), 4, "eps"),
            "prediction: got 'eps'; allowed: for consistency, consistency",
        ),
        (
            lambda: make_plan("consistency", LINEAR, 4),
            "schedule: got linear of kind 'vp'; allowed: for consistency, a schedule of kind ve",
        ),
        (lambda: make_plan("lcm", schedules.flow(), 4), "schedule: got flow of kind 'flow'; allowed: for lcm"),
        (lambda: make_plan("lcm", LINEAR, 4, sigma_data=0), "sigma_data: got 0"),
        (lambda: make_plan("consistency", schedules.karras(), 4, sigma_min=1.0), "sigma_min: got 1.0"),
        (lambda: make_plan("heun", LINEAR, 2001), "steps: got 2001; allowed: fewer: heun makes these calls at 1001"),
        (lambda: make_plan("plms", LINEAR, 3, strength=1e-6), "steps: got 3; allowed: fewer: plms makes these calls"),
        (lambda: make_plan("ddim", LINEAR, 4, guidance_rescale=2.0), "guidance_rescale: got 2.0"),
        (lambda: make_plan("ddim", LINEAR, 4, guidance_scale=1e300), "guidance_scale: got 1e+300"),
        (
            lambda: make_plan("ddim", LINEAR, 4, spacing="even"),
            "spacing: got 'even'; allowed: leading, trailing, linspace",
        ),
        (lambda: make_plan("ddim", "linear", 4), "schedule: got 'linear'; allowed: a Schedule, such as"),  # type: ignore[arg-type]
        (lambda: make_plan("ddim", LINEAR, 4, prediction=WORDS), "prediction: got array"),
        (lambda: make_plan("ddim", LINEAR, 4, final=WORDS), "final: got array"),
        (lambda: make_plan("euler", LINEAR, 4, spacing="karras", final=WORDS), "final: got array"),
        (lambda: make_plan("ddpm", LINEAR, 4, variance=WORDS), "variance: got array"),
        (lambda: ddim(Levels.spaced(LINEAR, 4, "trailing"), prediction=WORDS), "prediction: got array"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_plan_that_cannot_be_made_names_what_is_allowed(build: Callable[[], Plan], said: str) -> None:
    with pytest.raises(ArgumentError) as error:
        build()
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "lcm"])
@pytest.mark.parametrize("prediction", ["x_0", "v", "flow"])
def test_zero_terminal_snr_is_never_a_nan(sampler: str, prediction: str) -> None:
    plan = make_plan(sampler, ZERO_SNR, 4, prediction)
    assert plan.levels.signal_scale[0] == 0
    x = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    assert run_plan(plan, lambda x_in, t: 0.5 * x_in, x, [x] * 4).isfinite().all()


def test_options_reach_the_spacing_and_the_sampler() -> None:
    plan = make_plan("ddim", LINEAR, 4, spacing="leading", offset=1, final="first", eta=0.5)
    assert plan.levels.t.tolist() == [751, 501, 251, 1]
    assert plan.levels.noise_scale[-1] > 0
    assert make_plan("lcm", LINEAR, 2, original_steps=10).levels.t.tolist() == [999, 499]
    karras = make_plan("euler", LINEAR, 5, spacing="karras", sigma_max=10.0, rho=3.0)
    assert karras.init_scale == pytest.approx(10.0)
    assert make_plan("ddim", LINEAR, 2, spacing=[900, 100]).levels.t.tolist() == [900, 100]
