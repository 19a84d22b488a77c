"""`steps` is a budget of model calls for every sampler, whatever the strength; and a run lands where it is told to."""

import re

import pytest

from fewstep import ArgumentError, schedules
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import SAMPLERS, build_plan
from fewstep.diffusion.schedules import Kind, Schedule
from fewstep.diffusion.spacings import LEVEL_OPTIONS

SCHEDULES: dict[Kind, Schedule] = {
    "vp": schedules.linear(),
    "flow": schedules.flow(shift=3.0),
    "ve": schedules.karras(100, time="sigma"),
    "trig": schedules.trigflow(),
}
CASES = [(name, kind) for name, sampler in SAMPLERS.items() for kind in sampler.kinds]
every_sampler = pytest.mark.parametrize(("name", "kind"), CASES, ids=[f"{name}, {kind}" for name, kind in CASES])


def plan_of(name: str, kind: Kind, steps: int, **how: object) -> Plan:
    """From where some signal is left, unless told: Karras time does not reach beyond."""
    prediction = "v" if "v" in SAMPLERS[name].predictions else None
    return build_plan(name, SCHEDULES[kind], steps, prediction, **{"strength": 0.95, **how})  # type: ignore[arg-type]


def budgets(name: str) -> list[int]:
    """Those from 1 to 20 that the sampler can spend."""
    return sorted({SAMPLERS[name].calls(levels) for levels in range(1, 21)} & set(range(1, 21)))


@every_sampler
def test_a_plan_makes_as_many_calls_as_its_budget(name: str, kind: Kind) -> None:
    """Or no plan is made, and the nearest budgets are named."""
    possible = budgets(name)
    assert possible[0] == 1
    for steps in range(1, 21):
        if steps in possible:
            assert len(plan_of(name, kind, steps)) == steps
            continue
        with pytest.raises(ArgumentError, match=f"steps: got {steps}; allowed: ") as caught:
            plan_of(name, kind, steps)
        named = {int(number) for number in re.findall(r"\d+", str(caught.value).split("allowed: ")[1].split(":")[0])}
        nearest = {max(budget for budget in possible if budget < steps)}
        assert named == nearest | {min(budget for budget in [*possible, 21] if budget > steps)}


@every_sampler
@pytest.mark.parametrize("strength", [0.75, 0.3])
def test_strength_changes_where_a_run_begins_and_not_its_calls(name: str, kind: Kind, strength: float) -> None:
    for steps in budgets(name)[:6]:
        whole, part = plan_of(name, kind, steps), plan_of(name, kind, steps, strength=strength)
        assert len(part) == steps
        assert part.levels.sigmas[0] < whole.levels.sigmas[0] or steps == len(SCHEDULES[kind])
        assert part.levels.sigmas[-1] == whole.levels.sigmas[-1]


@every_sampler
def test_a_run_lands_where_it_is_told_to(name: str, kind: Kind) -> None:
    """Clean unless told; "first" is the first level of the schedule. The call that lands there draws no noise."""
    landed = []
    for spacing in (spacing for spacing, options in LEVEL_OPTIONS.items() if "final" in options):
        high = {"sigma_max": 20.0} if "sigma_max" in LEVEL_OPTIONS[spacing] else {}
        try:
            clean = plan_of(name, kind, 5, spacing=spacing, **high)
        except ArgumentError:  # a spacing for another kind of schedule, or of other numbers of steps
            continue
        first = plan_of(name, kind, 5, spacing=spacing, final="first", **high)
        assert clean.levels.noise_scale[-1] == 0
        assert first.levels.sigmas[-1] == pytest.approx(SCHEDULES[kind].sigmas[0], rel=1e-12)
        assert clean.column("s")[-1] == first.column("s")[-1] == 0
        landed.append(spacing)
    assert {"karras", "exponential"} < set(landed)
