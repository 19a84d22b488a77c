"""Paths: spacings by hand, the number of calls, where they end, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewstep import schedules
from fewstep.diffusion.levels import Levels, spaced_timesteps
from fewstep.diffusion.schedules import karras_sigmas
from fewstep.diffusion.spacings import make_levels
from fewstep.errors import ArgumentError

LINEAR, KARRAS = schedules.linear(), schedules.karras()


@pytest.mark.parametrize(
    ("spacing", "steps", "timesteps"),
    [
        ("leading", 4, [750, 500, 250, 0]),
        ("leading", 3, [666, 333, 0]),
        ("trailing", 4, [999, 749, 499, 249]),
        ("trailing", 3, [999, 666, 332]),
        ("trailing", 1, [999]),
        ("linspace", 4, [999, 666, 333, 0]),
        ("linspace", 1, [999]),
    ],
)
def test_spacings_by_hand(spacing: str, steps: int, timesteps: list[int]) -> None:
    levels = Levels.spaced(LINEAR, steps, spacing)
    assert levels.t.tolist() == timesteps
    assert levels.signal_scale[:-1].tolist() == LINEAR.signal_scale[timesteps].tolist()
    assert levels.noise_scale[:-1].tolist() == LINEAR.noise_scale[timesteps].tolist()
    assert (levels.signal_scale[-1], levels.noise_scale[-1]) == (1.0, 0.0)


def test_lcm_spacing_by_hand() -> None:
    """Of 19, 39, .. 999: the last, and every M / N-th before it."""
    assert Levels.lcm(schedules.scaled_linear(), 4).t.tolist() == [999, 759, 499, 259]
    assert Levels.lcm(schedules.scaled_linear(), 1).t.tolist() == [999]
    assert Levels.lcm(schedules.scaled_linear(), 2, strength=0.5).t.tolist() == [499, 259]
    assert Levels.lcm(schedules.scaled_linear(), 50).t.tolist() == list(range(999, 0, -20))
    assert Levels.lcm(schedules.linear(100), 2, original_steps=10).t.tolist() == [99, 49]


@given(st.integers(1, 1200), st.data(), st.sampled_from(["leading", "trailing", "linspace"]), st.floats(0.01, 1))
def test_a_spaced_path_has_exactly_its_steps_within_its_strength(
    count: int, data: st.DataObject, spacing: str, strength: float
) -> None:
    limit = max(1, round(count * strength))
    steps = data.draw(st.integers(1, limit))
    levels = Levels.spaced(schedules.linear(count), steps, spacing, strength=strength)
    assert len(levels) == len(levels.t) == steps
    assert len(levels.sigmas) == steps + 1
    assert (np.diff(levels.t) < 0).all()
    assert levels.t.min() >= 0
    assert levels.t.max() <= limit - 1
    assert (levels.t == np.round(levels.t)).all()
    if spacing != "leading":
        assert levels.t[0] == limit - 1


def test_strength_changes_the_reach_and_not_the_number_of_calls() -> None:
    for strength in (1.0, 0.6, 0.3):
        for levels in (
            make_levels(LINEAR, 4, "trailing", strength),
            make_levels(LINEAR, 4, "lcm", strength),
            make_levels(LINEAR, 4, "karras", strength),
        ):
            assert len(levels) == 4
            assert levels.sigmas[0] == pytest.approx(LINEAR.sigmas[round(1000 * strength) - 1])


def test_offset_shifts_leading_timesteps_alone() -> None:
    assert Levels.spaced(LINEAR, 4, "leading", offset=1).t.tolist() == [751, 501, 251, 1]
    with pytest.raises(ArgumentError, match="offset: got 1; allowed: 0: an offset shifts leading timesteps"):
        Levels.spaced(LINEAR, 4, "trailing", offset=1)
    with pytest.raises(ArgumentError, match="offset: got 1; allowed: 0 for these steps"):
        Levels.spaced(LINEAR, 1000, "leading", offset=1)


def test_final_first_lands_on_the_schedules_first_level() -> None:
    levels = Levels.spaced(LINEAR, 4, "trailing", final="first")
    assert levels.sigmas[-1] == pytest.approx(LINEAR.sigmas[0])
    with pytest.raises(ArgumentError, match="final: got 'zero'; allowed: 'clean' or 'first'"):
        Levels.spaced(LINEAR, 4, final="zero")  # type: ignore[arg-type]


def test_fractional_linspace_interpolates_sigma_linearly() -> None:
    levels = Levels.spaced(LINEAR, 3, "linspace", fractional=True)
    assert levels.t.tolist() == [999, 499.5, 0]
    assert levels.sigmas[1] == pytest.approx((LINEAR.sigmas[499] + LINEAR.sigmas[500]) / 2)
    assert levels.signal_scale**2 + levels.noise_scale**2 == pytest.approx(np.ones(4))


def test_explicit_timesteps_are_taken_as_they_are() -> None:
    levels = Levels.explicit(LINEAR, [999, 7, 3])
    assert levels.t.tolist() == [999, 7, 3]
    assert make_levels(LINEAR, 3, [999, 7, 3]).t.tolist() == [999, 7, 3]
    assert make_levels(LINEAR, 1, np.array([0])).t.tolist() == [0]


@pytest.mark.parametrize("kind", ["karras", "exponential"])
def test_sigmas_told_to_an_edm_and_to_a_consistency_model(kind: str) -> None:
    build = getattr(Levels, kind)
    levels = build(5, 0.01, 50.0, time="edm")
    assert levels.kind == "ve"
    assert levels.sigmas[[0, 4, 5]] == pytest.approx([50, 0.01, 0])
    assert levels.t == pytest.approx(0.25 * np.log(levels.sigmas[:-1]))
    assert build(5, 0.01, 50.0, time="consistency").t == pytest.approx(1000 * levels.t)
    assert levels.init_scale == pytest.approx(50.0)


@pytest.mark.parametrize("schedule", [LINEAR, schedules.flow(), schedules.karras()], ids=["vp", "flow", "ve"])
def test_karras_sigmas_on_a_schedule_take_its_coordinates_and_times(schedule: schedules.Schedule) -> None:
    levels = Levels.karras(6, 0.05, 10.0, time=schedule)
    assert levels.sigmas[:-1] == pytest.approx(karras_sigmas(6, 0.05, 10.0), rel=1e-12)
    assert schedule.t_to_sigma(levels.t) == pytest.approx(levels.sigmas[:-1], rel=1e-6)
    assert levels.kind == schedule.kind
    total = {"vp": levels.signal_scale**2 + levels.noise_scale**2, "flow": levels.signal_scale + levels.noise_scale}
    assert total.get(levels.kind, levels.signal_scale) == pytest.approx(np.ones(7))


def test_karras_time_changes_coordinates_and_nothing_else() -> None:
    levels = Levels.spaced(LINEAR, 4)
    karras = levels.in_karras_time()
    assert karras.sigmas == pytest.approx(levels.sigmas)
    assert karras.signal_scale.tolist() == [1.0] * 5
    assert karras.t.tolist() == levels.t.tolist()
    assert (levels.init_scale, karras.init_scale) == (1.0, pytest.approx(levels.sigmas[0]))


def test_a_consistency_models_forty_levels_are_spaced_as_trailing_timesteps() -> None:
    levels = Levels.spaced(schedules.karras(), 2)
    low, high = 0.002 ** (1 / 7), 80.0 ** (1 / 7)
    assert levels.sigmas == pytest.approx([80.0, (high + 20 / 39 * (low - high)) ** 7, 0.0])


def test_a_path_cannot_be_written_to() -> None:
    levels = Levels.spaced(LINEAR, 4)
    for array in (levels.t, levels.signal_scale, levels.noise_scale, levels.sigmas):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0.0


def levels_of(t: list[float], signal: list[float], noise: list[float]) -> Callable[[], Levels]:
    return lambda: Levels(np.array(t), np.array(signal), np.array(noise))


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Levels.spaced(LINEAR, 0), "steps: got 0; allowed: an integer from 1 to 1000 model calls"),
        (lambda: Levels.spaced(LINEAR, -3), "steps: got -3"),
        (lambda: Levels.spaced(LINEAR, 1001), "steps: got 1001; allowed: an integer from 1 to 1000"),
        (lambda: Levels.spaced(LINEAR, 2.0), "steps: got 2.0"),
        (lambda: Levels.spaced(LINEAR, True), "steps: got True"),
        (lambda: Levels.spaced(LINEAR, 8, strength=0.005), "from 1 to 5 model calls, one per timestep within strength"),
        (lambda: Levels.spaced(LINEAR, 4, strength=0.0), "strength: got 0.0; allowed: a number in (0, 1]"),
        (lambda: Levels.spaced(LINEAR, 4, strength=1.1), "strength: got 1.1"),
        (lambda: Levels.spaced(LINEAR, 4, "even"), "spacing: got 'even'; allowed: leading, trailing or linspace"),
        (lambda: make_levels(LINEAR, 4, "even"), "spacing: got 'even'; allowed: leading, trailing, linspace, lcm"),
        (lambda: Levels.explicit(LINEAR, []), "timesteps: got []; allowed: whole timesteps from 999 down to 0"),
        (lambda: Levels.explicit(LINEAR, [3, 7]), "each smaller than the one before"),
        (lambda: Levels.explicit(LINEAR, [1000]), "timesteps: got [1000]"),
        (lambda: Levels.explicit(LINEAR, [3.5]), "timesteps: got [3.5]"),
        (lambda: Levels.explicit(LINEAR, [[3]]), "timesteps: got [[3]]"),
        (lambda: Levels.explicit(LINEAR, ["a"]), "timesteps: got ['a']"),
        (lambda: make_levels(LINEAR, 3, [9, 3]), "steps: got 3; allowed: 2, the number of timesteps given"),
        (lambda: make_levels(LINEAR, 2, [9, 3], 0.5), "strength: got 0.5; allowed: 1.0 with explicit timesteps"),
        (lambda: Levels.lcm(LINEAR, 64), "steps: got 64; allowed: an integer from 1 to 50 (50 original_steps"),
        (lambda: Levels.lcm(LINEAR, 2, original_steps=2000), "original_steps: got 2000"),
        (lambda: Levels.karras(0), "steps: got 0"),
        (lambda: Levels.karras(4, 1.0, 0.5), "sigma_max: got 0.5; allowed: a number in (1, 1e+06]"),
        (lambda: Levels.exponential(2, 0.5, 0.5), "sigma_max: got 0.5; allowed: a number in (0.5, 1e+06]"),
        (lambda: schedules.karras(2, 0.5, 0.5), "sigma_max: got 0.5; allowed: a number in (0.5, 1e+06]"),
        (lambda: make_levels(LINEAR, 4, "karras", 0.001), "strength: got 0.001; allowed: more, so that the noise is"),
        (lambda: make_levels(LINEAR, 4, "karras", 0.1, sigma_min=2.0), "is above sigma_min = 2; here it is sigma = 0."),
        (lambda: make_levels(KARRAS, 2, "karras", 0.01, above=True), "strength: got 0.01; allowed: more, so that"),
        (lambda: make_levels(KARRAS, 4, "karras", sigma_min=90.0), "sigma_min: got 90.0; allowed: a number in (0, 80)"),
        (
            lambda: make_levels(LINEAR, 4, "karras", sigma_min=2.0, sigma_max=2.0),
            "sigma_max: got 2.0; allowed: a number in (2, 1e+06]",
        ),
        (lambda: Levels.karras(4, rho=0), "rho: got 0"),
        (lambda: Levels.karras(4, time="now"), "time: got 'now'"),
        (lambda: Levels.karras(4, final="first"), "final: got 'first'; allowed: 'clean', or a schedule as `time`"),
        (
            lambda: make_levels(LINEAR.rescale_zero_terminal_snr(), 4, "karras"),
            "sigma_max: got inf, the schedule's own; allowed: a finite number",
        ),
        (
            lambda: Levels.spaced(LINEAR.rescale_zero_terminal_snr(), 4).in_karras_time(),
            "levels: got a first level with sigma = inf; allowed: levels with some signal; ddim",
        ),
        (levels_of([], [1], [0]), "levels: got 0 times"),
        (levels_of([1], [1], [0]), "levels: got 1 times, 1 and 1 levels; allowed: N times and N + 1 levels"),
        (levels_of([1], [0.5, np.nan], [0.5, 0]), "finite scales"),
        (levels_of([1], [-0.5, 1], [0.5, 0]), "finite scales of 0 or more"),
        (lambda: levels_of([1, 0], [0.5, 0.5, 1], [0.5, 0.6, 0])().falls(), "levels out of order"),
        (lambda: levels_of([1, 0], [0.5, 0.5, 1], [0.5, 0.5, 0])().falls(), "levels out of order"),
        (lambda: levels_of([1, 0], [0.5, 0.8, 0.7], [0.5, 0.2, 0.3])().falls(), "levels out of order"),
        (
            lambda: replace(levels_of([1], [0.6, 1], [0.8, 0])(), time="sigma").in_karras_time().at(np.array([2.0, 0])),
            "levels: got in Karras time, and of no schedule; allowed: levels of a schedule",
        ),
        (levels_of([1, 0], [0.5, 1, 1], [0.5, 0, 0]), "levels: got a call where there is no noise"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_impossible_path_names_what_is_allowed(build: Callable[[], Any], said: str) -> None:
    with pytest.raises(ArgumentError) as error:
        build()
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_leading_step_of_one_sits_at_the_offset() -> None:
    """The formula says so; it is why few steps are spaced as trailing by default."""
    assert spaced_timesteps(1000, 1, "leading").tolist() == [0]
