"""The ends of schedules and ladders are what was asked for, to the bit; what is small there keeps its digits."""

import math
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from fewstep import EmbeddedGuidance, Numbers, schedules
from fewstep.checks import exact, number
from fewstep.diffusion.ladders import MAX_SIGMA
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.samplers import SAMPLERS, make_plan
from fewstep.diffusion.spacings import LADDERS, make_levels
from fewstep.errors import ArgumentError, ModelError, WastedCallWarning
from fewstep.fields import Fields
from fewstep.request.conditions import Words
from fewstep_kernels.row import COLUMN

VP = {"linear": schedules.linear(), "scaled linear": schedules.scaled_linear(), "cosine": schedules.cosine()}
ALL = VP | {"flow": schedules.flow(), "karras": schedules.karras(), "exponential": schedules.exponential()}
SIGMAS = st.floats(1e-9, MAX_SIGMA)


@pytest.mark.parametrize("ladder", LADDERS)
@given(st.integers(2, 60), SIGMAS, SIGMAS)
@example(2, 1.0, 1.0)
@example(40, 0.0022741699796952, 80.0)
@example(3, float(np.float32(0.002)), float(np.float32(80.0)))
def test_a_ladder_begins_and_ends_at_what_was_asked(ladder: str, steps: int, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert LADDERS[ladder](1, low, low).tolist() == [low]
    if low == high:
        with pytest.raises(ArgumentError, match="sigma_max: got"):
            LADDERS[ladder](steps, low, high)
        return
    sigmas = LADDERS[ladder](steps, low, high)
    assert (sigmas[0], sigmas[-1]) == (high, low)
    assert ((sigmas >= low) & (sigmas <= high)).all()
    assert (np.diff(sigmas) <= 0).all()
    assert LADDERS[ladder](1, low, high).tolist() == [high]


@pytest.mark.parametrize("make", [schedules.karras, schedules.exponential])
@pytest.mark.parametrize("low", [0.002, 0.0022741699796952, float(np.float32(0.002)), 0.3])
def test_a_schedule_of_sigmas_has_its_ends(make: Any, low: float) -> None:
    for count in (2, 18, 40):
        sigmas = make(count, low, 80.0).sigmas
        assert (sigmas[0], sigmas[-1]) == (low, 80.0)


@pytest.mark.parametrize("name", ["linear", "scaled_linear"])
@pytest.mark.parametrize(("start", "end"), [(0.00085, 0.012), (1e-4, 0.02), (1 / 3, 0.7), (0.1, 1 - 1e-16)])
def test_betas_begin_and_end_at_what_was_asked(name: str, start: float, end: float) -> None:
    betas = getattr(schedules, name)(50, start, end).betas
    assert betas[0] == pytest.approx(start, rel=1e-15)
    assert betas[-1] == pytest.approx(end, rel=1e-13)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("spacing", LADDERS)
@pytest.mark.parametrize("steps", [2, 3, 7, 30])
def test_a_ladder_between_a_schedules_ends_meets_them(name: str, spacing: str, steps: int) -> None:
    """The sigmas, the scales and the times of both ends, without a word about either."""
    schedule = ALL[name]
    top = len(schedule) - (2 if name == "flow" else 1)
    options = {"sigma_max": float(schedule.sigmas[top])} if name == "flow" else {}
    levels = make_levels(schedule, steps, spacing, **options)
    for place, level in ((0, top), (steps - 1, 0)):
        assert levels.t[place] == schedule.t[level]
        assert levels.signal_scale[place] == schedule.signal_scale[level]
        assert levels.noise_scale[place] == schedule.noise_scale[level]
    asked = make_levels(schedule, steps, spacing, sigma_min=schedule.sigmas[0], sigma_max=schedule.sigmas[top])
    assert asked.t.tolist() == levels.t.tolist()


@pytest.mark.parametrize("name", VP)
def test_ends_that_were_float32_are_ends(name: str) -> None:
    """A user reads them off a tensor; past the schedule's by a rounding they have the times of its ends."""
    schedule = VP[name]
    low, high = (float(np.float32(schedule.sigmas[i])) for i in (0, -1))
    for factor in (1 - 1e-7, 1.0, 1 + 1e-7):
        levels = make_levels(schedule, 3, "karras", sigma_min=low * factor, sigma_max=high * factor)
        assert levels.t[[0, 2]] == pytest.approx([schedule.t[-1], schedule.t[0]], abs=1e-3)
        assert levels.sigmas[[0, 2]] == pytest.approx([high * factor, low * factor], rel=1e-14)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("name", ALL)
def test_timesteps_begin_at_the_last_and_linspace_ends_at_the_first(name: str, steps: int) -> None:
    schedule = ALL[name]
    for spacing, fractional in (("trailing", False), ("linspace", False), ("linspace", True)):
        levels = make_levels(schedule, steps, spacing, fractional=fractional)
        assert levels.t[0] == schedule.t[-1]
        assert (levels.signal_scale[0], levels.noise_scale[0]) == (schedule.signal_scale[-1], schedule.noise_scale[-1])
        if spacing == "linspace" and steps > 1:
            assert (levels.t[-1], levels.sigmas[-2]) == (schedule.t[0], schedule.sigmas[0])


SHIFTS = [1 / 3, 0.3, 0.1, 1e-3, 1.0, 3.0, 1.15, 7.7, 1e3]


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("count", [1, 3, 7, 1000, 4001])
def test_a_flow_ends_without_signal_at_any_shift(count: int, shift: float) -> None:
    schedule = schedules.flow(count, shift)
    assert (schedule.signal_scale[-1], schedule.noise_scale[-1], schedule.t[-1]) == (0.0, 1.0, float(count))
    assert schedule.sigmas[-1] == math.inf
    for k in {1, (count + 1) // 2, count}:  # in rational arithmetic
        u, s = Fraction(k, count), Fraction(shift)
        noise = s * u / (1 + (s - 1) * u)
        assert schedule.noise_scale[k - 1] == pytest.approx(float(noise), rel=4e-16)
        assert schedule.signal_scale[k - 1] == pytest.approx(float(1 - noise), rel=4e-16)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("prediction", ["eps", "score"])
def test_what_says_nothing_without_signal_is_refused_at_any_shift(shift: float, prediction: str) -> None:
    with pytest.raises(ArgumentError, match="no signal is left"):
        make_plan("ddim", schedules.flow(1000, shift), 2, prediction)
    rows = make_plan("ddim", schedules.flow(1000, shift), 2, "flow").rows
    assert np.isfinite(np.delete(rows, COLUMN["clip"], axis=1)).all()


@pytest.mark.parametrize("last", [1e-13, 1e-20, 1e-300, 5e-324, 0.0])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "euler", "lcm"])
def test_a_signal_below_the_rounding_of_x_is_none(sampler: str, last: float) -> None:
    """1e-13 is sigma 3e6: eps would be divided by 3e-7, and images reach millions."""
    schedule = schedules.from_alphas_cumprod(np.append(np.linspace(0.999, 0.01, 99), last))
    with pytest.raises(ArgumentError, match="no signal is left"):
        make_plan(sampler, schedule, 2, "eps", spacing=[99, 20])
    if sampler == "euler":
        with pytest.raises(ArgumentError, match="levels: got a first level with sigma = "):
            make_plan(sampler, schedule, 2, "v", spacing=[99, 20])
    else:
        rows = make_plan(sampler, schedule, 2, "v", spacing=[99, 20]).rows
        assert np.abs(np.where(np.isinf(rows), 0, rows)).max() < 1e4


def test_a_signal_that_others_leave_at_the_end_is_one() -> None:
    """diffusers puts 2^-24, ComfyUI 4.9e-8 in place of zero terminal SNR; both can be sampled with eps."""
    for last in (2**-24, 4.8973451890853435e-08):
        schedule = schedules.from_alphas_cumprod(np.append(np.linspace(0.999, 0.01, 99), last))
        assert make_plan("euler", schedule, 2, "eps").init_scale == pytest.approx(last**-0.5, rel=1e-3)


@pytest.mark.parametrize("name", [name for name, sampler in SAMPLERS.items() if "eps" in sampler.predictions])
def test_levels_without_signal_are_refused_for_eps(name: str) -> None:
    levels = Levels(np.array([1.0]), np.array([1e-45, 1.0]), np.array([1.0, 0.0]))
    with pytest.raises(ArgumentError, match="no signal is left"):
        SAMPLERS[name].build(levels, "eps")


@pytest.mark.parametrize("value", [1e39, -1e39, math.inf, math.nan], ids=str)
def test_coefficients_that_float32_cannot_hold_are_refused(value: float) -> None:
    plan = make_plan("ddim", schedules.linear(), 2)
    rows = plan.rows.copy()
    rows[1, COLUMN["k_x"]] = value
    said = rf"^rows: got {re.escape(str(value))} in column k_x of row 1; allowed: finite numbers .*in float32 too$"
    with pytest.raises(ArgumentError, match=said):
        replace(plan, rows=rows)
    rows[1, COLUMN["k_x"]] = np.finfo(np.float32).max
    assert replace(plan, rows=rows).table().isfinite()[1, COLUMN["k_x"]]


@pytest.mark.parametrize("beta", [1e-16, 1.1e-16, 1e-18, 1e-12, 1e-7, 1e-4])
def test_the_smallest_betas_keep_their_digits(beta: float) -> None:
    schedule = schedules.from_betas([beta] * 4 + [0.5])
    exactly = 1 - (1 - Fraction(beta)) ** np.arange(1, 5, dtype=object)
    assert (schedule.noise_scale**2)[:4] == pytest.approx([float(each) for each in exactly], rel=1e-15)
    assert schedule.betas == pytest.approx([beta] * 4 + [0.5], rel=3e-15)
    assert (schedule.sigmas**2)[:4] == pytest.approx([float(e / (1 - e)) for e in exactly], rel=2e-15)
    assert np.isfinite(schedule.log_snr).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for sampler in ("ddim", "ddpm", "euler"):
            plan = make_plan(sampler, schedule, 5)
            assert np.isfinite(plan.column("k_m")).all()
    rescaled = schedule.rescale_zero_terminal_snr()
    assert (rescaled.noise_scale[0], rescaled.noise_scale[-1]) == (schedule.noise_scale[0], 1.0)
    assert (rescaled.signal_scale[0], rescaled.signal_scale[-1]) == (schedule.signal_scale[0], 0.0)
    r = [Fraction(1) - Fraction(beta) * (i + 1) / 2 for i in range(4)]  # sqrt, to first order in beta
    last = Fraction(math.sqrt(schedule.alphas_cumprod[-1]))
    for got, root in zip(rescaled.noise_scale, r, strict=False):
        new = (root - last) * r[0] / (r[0] - last)
        assert got**2 == pytest.approx(float(1 - new**2), rel=10 * beta + 1e-15)


def test_the_first_steps_of_a_long_cosine_keep_their_digits() -> None:
    """beta_0 of 100,000 is 4e-9, the difference of two numbers near 1; by the series of sin and cos it is exact."""
    count, s = 100_000, Fraction(8, 1000)
    quarter = Fraction(math.pi) / 2

    def cos2(u: Fraction) -> Fraction:
        a2 = (quarter * u / (1 + s)) ** 2
        return (1 - a2 / 2 + a2**2 / 24 - a2**3 / 720) ** 2

    beta = 1 - cos2(Fraction(1, count) + s) / cos2(s)
    assert schedules.cosine(count).betas[0] == pytest.approx(float(beta), rel=1e-12)
    assert schedules.cosine(1000).betas[-1] == pytest.approx(0.999, rel=1e-15)
    assert schedules.cosine(1000, s=0).noise_scale[0] == pytest.approx(math.sin(math.pi / 2000), rel=1e-14)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_bound_is_printed_with_the_digits_it_has(value: float) -> None:
    assert float(exact(value)) == value


def test_what_was_got_is_printed_apart_from_what_is_allowed() -> None:
    with pytest.raises(ArgumentError, match=r"betas: got values from 0\.1 to 1\.0000000001; allowed: 0 < beta < 1"):
        schedules.from_betas([0.1, 1.0000000001])
    with pytest.raises(ArgumentError, match=r"alphas_cumprod: got values from 1\.0000000001 to 0\.5"):
        schedules.from_alphas_cumprod([1.0000000001, 0.5])


def test_a_bound_is_printed_in_the_fewest_digits() -> None:
    shown = [exact(value) for value in (80.0, 1e6, 0.002, 0.0022741699796952, 1 / 3, 0, np.float64(0.1), 7)]
    assert shown == ["80", "1e+06", "0.002", "0.0022741699796952", "0.3333333333333333", "0", "0.1", "7"]


def bounds_in(error: Exception) -> list[float]:
    """The two numbers that a message says are allowed."""
    allowed = str(error).split("allowed: ")[1]
    found = re.search(r"[\[(]?(-?[\d.][\de.+-]*)(?:,| to) (-?[\d.][\de.+-]*?)(?:[\])]|,? |$)", allowed)
    assert found, allowed
    return [float(each) for each in found.groups()]


@given(st.floats(-1e8, 1e8), st.floats(1e-6, 1e8))
def test_the_bounds_that_an_error_prints_are_accepted(low: float, width: float) -> None:
    """By every check of a number in a range: one's own arguments, JSON, labels, guidance."""
    high = low + width
    near = [value for value in (low, high) if abs(value) <= 100]
    checks: list[Callable[[float], object]] = [
        lambda value: number("x", value, low, high),
        lambda value: Fields({"x": value}, "file").number("x", low, high),
    ]
    if np.float32(low) < np.float32(high):
        checks.append(lambda value: Numbers(low, high).rows(Words(labels=[value]), 1, guided=False))
    if len(near) == 2:
        checks.append(EmbeddedGuidance(low, high, low).scale)
    for check in checks:
        with pytest.raises((ArgumentError, ModelError)) as error:
            check(high + 2 * abs(high) + 1e9)
        for bound in bounds_in(error.value):
            check(bound)


@pytest.mark.parametrize("name", VP)
def test_the_ends_that_a_schedule_prints_are_accepted(name: str) -> None:
    schedule = VP[name]
    for options in ({"sigma_min": 1e-6}, {"sigma_max": 1e5}):
        with pytest.raises(ArgumentError) as error:
            make_plan("ddim", schedule, 3, spacing="karras", **options)
        low, high = bounds_in(error.value)
        assert (low, high) == (schedule.sigmas[0], schedule.sigmas[-1])
        make_plan("ddim", schedule, 3, spacing="karras", sigma_min=low, sigma_max=high)


def test_a_boundary_is_refused_and_accepted_by_the_number_it_prints() -> None:
    for low in (0.0022741699796952, 0.002, 0.1 + 0.2):
        schedule = schedules.karras(40, low, 80.0)
        with pytest.raises(ArgumentError) as error:
            make_plan("consistency", schedule, 2, sigma_boundary=70.0)
        _, high = bounds_in(error.value)
        with pytest.warns(WastedCallWarning):
            make_plan("consistency", schedule, 2, sigma_boundary=high)
        with pytest.raises(ArgumentError, match=f"allowed: {re.escape(exact(low))} or more"):
            make_plan("consistency", schedule, 2, spacing="karras", sigma_min=low / 2)


def test_a_label_at_an_end_may_have_been_float32() -> None:
    tenths = Numbers(0.1, 0.7)
    ends = torch.tensor([0.1, 0.7])
    assert torch.equal(tenths.rows(Words(labels=ends), 2, guided=False).condition["labels"], ends)
    with pytest.raises(ArgumentError, match=r"allowed: numbers from 0\.1 to 0\.7"):
        tenths.rows(Words(labels=[0.7001]), 1, guided=False)
