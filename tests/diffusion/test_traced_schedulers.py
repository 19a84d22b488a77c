"""Every scheduler of diffusers beside its rows: whole loops with the same network and the same noise."""

import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from fewstep.diffusion.plan import Plan
from fewstep.errors import ArgumentError
from support.diffusers_loops import TOLERANCE, draw, dummy_model, rounding_bound
from support.pairwise import pairwise
from support.plan_interpreter import run_plan
from support.scheduler_loop import in_float64, run_pipeline, scheduler_classes
from support.traced_cases import CASES, REFUSED, Case, each_once, merged
from support.tree import ROOT

PAGE = ROOT / "docs/traced-schedulers.md"
CLASSES = scheduler_classes()
pytestmark = pytest.mark.filterwarnings("ignore:.*__array:DeprecationWarning")  # diffusers' own, of numpy 2
every_case = pytest.mark.parametrize("name", CASES)


def differences(name: str, chosen: Iterator[tuple[int, Any]] | list[tuple[int, Any]]) -> Iterator[tuple[float, Plan]]:
    """How far the rows' run is from the scheduler's, relative to the latter's largest value, and the rows."""
    case = CASES[name]
    for steps, options in chosen:
        settings, of_step, of_timesteps = merged(case, options)
        scheduler = CLASSES[name](**settings)
        calls = case.calls(steps)
        plan = Plan.from_diffusers(scheduler, calls, **of_step, **of_timesteps)
        assert len(plan) == calls
        scheduler.set_timesteps(steps, **of_timesteps)
        assert plan.levels.t.tolist() == [float(t) for t in scheduler.timesteps[:calls]]
        noise, model = draw(calls + 1), dummy_model(6 if settings.get("variance_type") == "learned_range" else 3)
        theirs = run_pipeline(scheduler, model, noise, slice(0, calls), **of_step)
        ours = run_plan(plan, model, plan.init_scale * noise[0], noise[1:])
        size = max(1.0, float(theirs.abs().max()))
        found = float((ours - theirs).abs().max()) / size
        print(f"{name}, {calls} calls, {settings}: {found:.1e}")
        yield found, plan


def worst(found: Iterator[tuple[float, Plan]]) -> float:
    """The largest difference; one that is no number is infinite."""
    return max(math.inf if math.isnan(each) else each for each, _ in found)


@every_case
def test_rows_are_the_scheduler(name: str) -> None:
    """Each number of inference steps and each setting once; all pairs of them are in the long test."""
    with in_float64(CLASSES[name]):
        assert worst(differences(name, each_once(CASES[name]))) < TOLERANCE


@pytest.mark.long
@every_case
def test_rows_are_the_scheduler_for_any_two_settings(name: str) -> None:
    case = CASES[name]
    cover = pairwise(steps=case.steps, **{str(i): of for i, of in enumerate(case.options)})
    with in_float64(CLASSES[name]):
        assert worst(differences(name, ((steps, options) for steps, *options in cover))) < TOLERANCE


SHIPPED = {
    "DDPMScheduler": {"clip_sample": False},
    "DDIMScheduler": {"clip_sample": False, "prediction_type": "v_prediction"},
    "DPMSolverMultistepScheduler": {"algorithm_type": "sde-dpmsolver++"},
    "EulerDiscreteScheduler": {"use_karras_sigmas": True},
    "FlowMatchEulerDiscreteScheduler": {"shift": 3.0},
    "LCMScheduler": {},
    "UniPCMultistepScheduler": {},
}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_scheduler_as_shipped_differs_by_its_float32_rounding(name: str) -> None:
    """The rows are float64 arithmetic on the scheduler's own float32 tables."""
    for found, plan in differences(name, [(steps, [SHIPPED[name]]) for steps in (4, 20)]):
        assert 0 < found < rounding_bound(plan)


SAYS_X_0 = (
    "CogVideoXDDIMScheduler",
    "DDIMScheduler",
    "DDPMScheduler",
    "EDMEulerScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", SAYS_X_0)
def test_k_x_and_k_m_are_of_the_x_0_that_the_scheduler_returns(name: str, prediction: str) -> None:
    cls = CLASSES[name]
    with in_float64(cls):
        scheduler = cls(prediction_type=prediction, **CASES[name].needs)
        plan = Plan.from_diffusers(scheduler, 5)
        scheduler.set_timesteps(5 if CASES[name].calls(5) == 5 else 3)
        x, m = draw(2)
        t = scheduler.timesteps[0]
        scheduler.scale_model_input(x, t)
        theirs = scheduler.step(m, t, x).pred_original_sample
    k_x, k_m, clip = (float(plan.column(column)[0]) for column in ("k_x", "k_m", "clip"))
    assert torch.allclose((k_x * x + k_m * m).clamp(-clip, clip), theirs.double(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_plan_is_named_with_the_reason(name: str) -> None:
    settings, reason = REFUSED[name]
    with pytest.raises(ArgumentError, match=f"{name}, of which no plan is made: .*{re.escape(reason)}"):
        Plan.from_diffusers(CLASSES[name](**settings), 4)


def test_no_scheduler_is_left_out() -> None:
    assert sorted([*CASES, *REFUSED]) == list(CLASSES)


def line(name: str, case: Case) -> str:
    """The row of the page's table."""
    settings, _, of_timesteps = merged(case, [{}])
    told = {"intermediate_timesteps": None} if name == "SCMScheduler" else of_timesteps
    steps = 8 if 8 in case.steps else case.steps[-1]
    plan = Plan.from_diffusers(CLASSES[name](**settings), case.calls(steps), **told)
    assert plan.closed == case.closed
    what = "closed" if plan.closed else "exact"
    return f"| `{name}` | {what} | {plan.history} | {'yes' if plan.stochastic else 'no'} | {case.note} |"


def table() -> list[str]:
    """All lines of the page's table, by name."""
    lines = {name: line(name, case) for name, case in CASES.items()}
    lines |= {name: f"| `{name}` | no plan | | | {reason} |" for name, (_, reason) in REFUSED.items()}
    return [lines[name] for name in sorted(lines)]


@pytest.mark.slow
def test_the_page_s_table_is_true() -> None:
    written = [each for each in PAGE.read_text().splitlines() if each.startswith("| `")]
    assert written == table(), "the table is:\n" + "\n".join(table())
