"""The boundary of a consistency model is the model's, not a ladder's; and no call is made for nothing unsaid."""

import inspect
import itertools
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from fewstep import Engine, Model, schedules
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.samplers import SAMPLERS, build_plan, consistency, make_plan
from fewstep.diffusion.schedules import Schedule
from fewstep.diffusion.spacings import LADDERS, LEVEL_OPTIONS, make_levels
from fewstep.errors import ArgumentError, WastedCallWarning
from fewstep.models.layouts.terrain import SPEC
from fewstep.models.spec import ModelSpec
from fewstep_kernels import COLUMN
from support.small import SmallNet

KARRAS = schedules.karras(40)


def c_skip(sigma: float, boundary: float) -> float:
    return 0.25 / ((sigma - boundary) ** 2 + 0.25)


def c_out(sigma: float, boundary: float) -> float:
    return 0.5 * (sigma - boundary) / (sigma**2 + 0.25) ** 0.5


def test_a_ladder_that_ends_elsewhere_does_not_move_the_boundary() -> None:
    plan = make_plan("consistency", KARRAS, 3, spacing="karras", sigma_min=5.84)
    assert plan.column("k_x") == pytest.approx([3.906e-5, 4.195e-4, 7.282e-3], rel=5e-4)
    assert plan.column("k_m") == pytest.approx([0.5, 0.4999, 0.4980], abs=5e-5)
    assert plan.levels.sigmas[[0, 2]].tolist() == [80.0, 5.84]


@pytest.mark.parametrize("lowest", [0.002, 0.01, 0.3])
@pytest.mark.parametrize("spacing", ["trailing", "karras", "exponential"])
@pytest.mark.parametrize("make", [schedules.karras, schedules.exponential])
def test_the_boundary_is_the_lowest_sigma_of_the_schedule(make: Any, spacing: str, lowest: float) -> None:
    """So 0.002 is no constant; the noise that a row adds is that of the paper's algorithm 1 too."""
    plan = make_plan("consistency", make(40, lowest, 50.0), 4, spacing=spacing)
    for row, sigma, after in zip(plan.rows, plan.levels.sigmas, plan.levels.sigmas[1:], strict=False):
        assert row[COLUMN["k_x"]] == pytest.approx(c_skip(sigma, lowest), rel=1e-12)
        assert row[COLUMN["k_m"]] == pytest.approx(c_out(sigma, lowest), rel=1e-12)
        assert row[COLUMN["s"]] == pytest.approx(np.sqrt(after**2 - lowest**2) if after > 0 else 0, rel=1e-12)


def test_a_schedule_of_one_level_keeps_the_boundary_it_was_made_with() -> None:
    """A one-step model: its level is sigma_max, and no call is for nothing."""
    for make in (schedules.karras, schedules.exponential):
        for spacing in ("trailing", "karras", [0]):
            plan = make_plan("consistency", make(1, 0.01, 50.0), 1, spacing=spacing)
            assert plan.column("k_m") == pytest.approx([c_out(50.0, 0.01)], rel=1e-12)
            assert plan.levels.sigmas[0] == 50.0
            assert not plan.wasted


def test_a_boundary_can_be_said() -> None:
    plan = make_plan("consistency", KARRAS, 2, sigma_boundary=0.001)
    assert plan.column("k_x") == pytest.approx([c_skip(sigma, 0.001) for sigma in plan.levels.sigmas[:2]], rel=1e-12)
    levels = Levels.karras(2, 1.0, 80.0, time="consistency")
    assert consistency(levels, sigma_boundary=0.5).column("k_m") == pytest.approx([c_out(80, 0.5), c_out(1, 0.5)])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"sigma_min": 1.0},
            "sigma_min: got 1.0; allowed: with spacing karras or exponential or polyexponential or beta, whose",
        ),
        ({"sigma_boundary": 1.0, "spacing": [30, 0]}, "sigma_boundary: got 1.0; allowed: a number in [0, 0.002]"),
        (
            {"spacing": "karras", "sigma_min": 0.001},
            "sigma_min: got 0.001; allowed: 0.002 or more, the model's boundary",
        ),
        ({"sigma_boundary": float("nan")}, "sigma_boundary: got nan"),
    ],
    ids=["its old name", "above a level", "a ladder below it", "nan"],
)
def test_a_boundary_that_cannot_be_names_what_is_allowed(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError) as error:
        make_plan("consistency", KARRAS, 2, **options)
    assert said in str(error.value)


def test_levels_of_no_schedule_have_no_boundary() -> None:
    with pytest.raises(
        ArgumentError, match="sigma_boundary: got None; allowed: a number: these levels are of no schedule"
    ):
        consistency(Levels.karras(2, time="consistency"))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_option_of_a_sampler_has_the_name_of_one_of_a_spacing(sampler: str) -> None:
    """One name sets one thing: what both had would be given to both."""
    own, of_spacings = set(SAMPLERS[sampler].options), set(itertools.chain(*LEVEL_OPTIONS.values()))
    shared = set(inspect.signature(make_plan).parameters) | set(inspect.signature(make_levels).parameters)
    assert not own & of_spacings
    assert not own & shared
    assert not of_spacings & shared


def schedule_of(sampler: str) -> Schedule:
    return schedules.linear() if "vp" in SAMPLERS[sampler].kinds else KARRAS


def said_of(sampler: str, **options: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_plan(sampler, schedule_of(sampler), **options)
    return [str(each.message) for each in caught]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("levels", [1, 2, 7])
def test_every_call_has_a_weight_or_is_named(sampler: str, levels: int) -> None:
    """All samplers on all spacings, wherever they land: with another answer in one call, the plan's end is another."""
    for spacing, final in itertools.product(LEVEL_OPTIONS, ("clean", "first")):
        if not spacing.startswith("flow_"):
            every_call_has_a_weight_or_is_named(sampler, spacing, levels, final)


def every_call_has_a_weight_or_is_named(sampler: str, spacing: str, levels: int, final: str) -> None:
    steps = SAMPLERS[sampler].calls(levels)
    options = {"final": final} if "final" in LEVEL_OPTIONS[spacing] else {}
    if spacing == "lcm" and schedule_of(sampler) is KARRAS:
        options["original_steps"] = 20
    if sampler == "consistency" and spacing in LADDERS:
        options["sigma_min"] = 0.002  # its end, asked for
    plan = build_plan(sampler, schedule_of(sampler), steps, spacing=spacing, **options)
    for row in range(steps):
        one, other = (ended(plan, row, answer) for answer in (0.3, -0.4))
        moved = abs(one - other) > 1e-6 * max(1.0, abs(one))
        assert moved == (row not in plan.wasted), (row, plan.describe())
    said = said_of(sampler, steps=steps, spacing=spacing, **options)
    assert len(said) == bool(plan.wasted)
    assert ("changes nothing" in plan.describe()) == bool(plan.wasted)


def ended(plan: Any, row: int, answer: float) -> float:
    """x after one row in which the network answers so, by the row's own arithmetic."""
    r = dict(zip(COLUMN, plan.rows[row], strict=True))
    x = 0.7 * plan.levels.noise_scale[row]
    x_0 = np.clip(r["k_x"] * x + r["k_m"] * answer, -r["clip"], r["clip"])
    return float(r["a"] * x + r["b"] * x_0 + r["e"] * answer)


@pytest.mark.parametrize("spacing", ["karras", "exponential"])
@pytest.mark.parametrize("steps", [1, 2, 5, 39])
@pytest.mark.parametrize("sampler", ["consistency", "lcm"])
def test_a_ladder_whose_end_is_not_said_ends_above_the_boundary(sampler: str, steps: int, spacing: str) -> None:
    """Of N + 1 sigmas down to the boundary, N are called: consistency_models' own ladder lands there too."""
    assert said_of(sampler, steps=steps, spacing=spacing) == []
    schedule = schedule_of(sampler)
    plan = make_plan(sampler, schedule, steps, spacing=spacing)
    full = make_plan("ddim", schedule, steps + 1, spacing=spacing)
    assert plan.levels.sigmas[:-1] == pytest.approx(full.levels.sigmas[:-2], rel=1e-12)
    assert full.levels.sigmas[-2] == schedule.sigmas[0]


@pytest.mark.parametrize(
    ("sampler", "options", "calls"),
    [
        ("consistency", {"steps": 3, "spacing": "karras", "sigma_min": 0.002}, "call 3 of 3"),
        ("consistency", {"steps": 3, "spacing": "karras", "sigma_min": float(np.float32(0.002))}, "call 3 of 3"),
        ("consistency", {"steps": 40}, "call 40 of 40"),
        ("consistency", {"steps": 2, "spacing": "linspace"}, "call 2 of 2"),
        ("consistency", {"steps": 2, "spacing": [9, 0]}, "call 2 of 2"),
        ("consistency", {"steps": 1, "strength": 0.01}, "call 1 of 1"),
        ("lcm", {"steps": 4, "spacing": "leading"}, "call 4 of 4"),
        ("lcm", {"steps": 50, "original_steps": 1000, "spacing": "lcm", "strength": 0.05}, "call 50 of 50"),
        ("ddim", {"steps": 4, "spacing": "leading", "final": "first"}, "call 4 of 4"),
        ("ddpm", {"steps": 4, "spacing": "leading", "final": "first"}, "call 4 of 4"),
        ("euler", {"steps": 4, "spacing": "leading", "final": "first"}, "call 4 of 4"),
    ],
)
def test_a_call_for_nothing_is_said_where_it_was_asked_for(sampler: str, options: dict[str, Any], calls: str) -> None:
    (said,) = said_of(sampler, **options)
    assert f"{sampler}: {calls} changes nothing, at sigma" in said


def test_a_folder_that_names_the_boundary_as_it_once_was_keeps_its_meaning() -> None:
    """A ladder's sigma_min is its end all the same: there the two were one by mistake."""
    older = SPEC.to_dict()
    older["schedule"] = {**older["schedule"], "sigma_min": 0.05}
    older["plan"] = {**older["plan"], "steps": 2, "sigma_min": 0.01}
    spec = ModelSpec.from_dict(older)
    assert spec.plan["sigma_boundary"] == 0.01
    assert "sigma_min" not in spec.plan
    plan = build_plan(schedule=schedules.from_config(spec.schedule), prediction="consistency", **spec.plan)
    assert plan.column("k_x") == pytest.approx([c_skip(sigma, 0.01) for sigma in plan.levels.sigmas[:2]], rel=1e-12)
    older["plan"] |= {"spacing": "karras", "sigma_min": 5.84}
    assert ModelSpec.from_dict(older).plan["sigma_min"] == 5.84


def test_a_manifest_that_names_it_so_is_told_its_name() -> None:
    engine = Engine(Model(SmallNet(), schedule=KARRAS, shape=(3, 8, 8), prediction="consistency"))
    with pytest.raises(ArgumentError, match=r"sigma_min: got .*; the model's boundary is sigma_boundary"):
        engine.warm_up([{"n": 1, "steps": 1, "options": {"sigma_min": 0.002}}])


def test_an_engine_says_so_from_the_line_that_asked() -> None:
    model = Model(SmallNet(), schedule=KARRAS, shape=(3, 8, 8), prediction="consistency")
    engine = Engine(model)
    with pytest.warns(WastedCallWarning) as caught:
        engine.plan(40)
    with pytest.warns(WastedCallWarning) as again:
        last = engine.sample(1, steps=2, spacing=[30, 0], seeds=0, clip=None).images
    assert [each.filename for each in (*caught, *again)] == [__file__] * 2
    alone = engine.sample(1, steps=1, spacing=[30], seeds=0, clip=None).images
    torch.testing.assert_close(last, alone, rtol=1e-5, atol=1e-5)  # the second call was for nothing
