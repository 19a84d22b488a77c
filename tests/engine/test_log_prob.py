"""How probable each step was: by the engine, in sessions and graphs, and again from what was kept of a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fewstep
from fewstep import ArgumentError, Engine, Inpaint, Plan, Resume, Sample, Samples, Step, schedules
from fewstep.diffusion.samplers import SAMPLERS, build_plan, make_plan
from fewstep.run.graphs.runner import GraphRunner
from fewstep_kernels import COLUMN
from support.recorder import RecorderCapturer
from support.runners import BUDGET, engines, used_three_times
from support.small import SHAPE, SmallNet, picture, small_engine

SCHEDULE = schedules.linear()


def looking_back() -> Plan:
    base = make_plan("ddpm", SCHEDULE, 5, clip=1.0)
    rows = np.array(base.rows)
    rows[2:, COLUMN["c_1"]], rows[3:, COLUMN["c_3"]] = 0.2, -0.1
    return Plan(base.sampler, base.prediction, base.levels, rows, base.init_scale, history=3)


def half_a_mask() -> Tensor:
    mask = torch.zeros(8, 8)
    mask[:, :4], mask[:, 4] = 1.0, 0.5
    return mask


RUNS: dict[str, dict[str, Any]] = {
    "ddpm": {"sampler": "ddpm", "steps": 4},
    "ddim with noise": {"sampler": "ddim", "steps": 4, "eta": 0.8},
    "lcm": {"sampler": "lcm", "steps": 3},
    "guided": {"sampler": "ddpm", "steps": 3, "guidance_scale": 3.0},
    "dynamic threshold": {"sampler": "ddpm", "steps": 3, "clip": {"limit": 2.0, "ratio": 0.9}},
    "looking back": {"plan": looking_back()},
    "inpainting": {"sampler": "ddpm", "steps": 3, "start": Inpaint(picture(), half_a_mask(), renoise="fresh")},
    "given noise": {"sampler": "ddpm", "steps": 3, "noise": torch.randn(4, 2, *SHAPE, generator=torch.Generator())},
    "learned variance": {"sampler": "ddpm", "steps": 3, "variance": "learned_range"},
}


def plan_of(sampler: str) -> Plan | None:
    """One of a few calls, where there is one that adds noise."""
    for steps in (4, 5):
        try:
            plan = build_plan(sampler, SCHEDULE, steps)
        except ArgumentError:
            continue
        return plan if plan.stochastic else None
    return None


RUNS |= {f"{name}, as it is": {"plan": plan} for name in SAMPLERS if (plan := plan_of(name)) is not None}


def kept_of(engine: Engine, **arguments: Any) -> tuple[list[list[Sample]], Samples, list[Tensor]]:
    """The samples before each step and after the last, what came of them, and what each step said of itself."""
    states = [engine.samples(**arguments)]
    said: list[Tensor] = []

    def keep(step: Step) -> None:
        states.append([step.state(place) for place in step.samples])
        said.append(step.log_prob)

    return states, engine.sample(**arguments, callback=keep, log_prob=True), said


def predicted(engine: Engine, sample: Sample, row: int) -> Tensor:
    """[1, C or 2C, H, W] what the network says before a row, guided."""
    r = {name: float(sample.plan.rows[row, index]) for name, index in COLUMN.items()}
    x_in, t = (r["c_in"] * sample.start.x)[None], torch.tensor([r["t"]])
    halves = [engine.module(x_in, t, **{name: one[None] for name, one in lane.items()}) for lane in sample.conditions()]
    return halves[0] if len(halves) == 1 else halves[1] + r["w"] * (halves[0] - halves[1])


@pytest.mark.parametrize("name", RUNS)
def test_the_engines_numbers_are_those_of_float64_within_1e_5(name: str) -> None:
    """From x before and after each step, and the network asked once more."""
    engine = small_engine(SmallNet(6 if name == "learned variance" else 3), device="cpu")
    given = {"labels": [1, 2], "seeds": [3, 4]} | RUNS[name]
    states, samples, said = kept_of(engine, **given)
    plan = samples.plans[0]
    assert samples.log_prob is not None
    assert samples.log_prob.shape == (2, len(plan))
    assert torch.equal(samples.log_prob.isnan(), torch.tensor(plan.column("s") == 0).expand(2, -1))
    worst = 0.0
    for row in range(len(plan)):
        torch.testing.assert_close(said[row], samples.log_prob[:, row], rtol=0, atol=0, equal_nan=True)
        if plan.column("s")[row] == 0:
            continue
        for place in range(2):
            before, after = states[row][place], states[row + 1][place]
            history = None if before.start.history is None else before.start.history[:, None]
            with torch.no_grad():
                exact = fewstep.log_prob(
                    before.plan, row, before.start.x[None], predicted(engine, before, row), after.start.x[None],
                    history=history, mask=before.mask, dtype=torch.float64,
                )  # fmt: skip
            error = abs(float(samples.log_prob[place, row]) / float(exact) - 1)
            worst = max(worst, error)
    print(f"{name}: {worst:.1e}")
    assert worst <= 1e-5


MIXED: dict[str, Any] = {
    "labels": [1, 2, 3, 4],
    "seeds": [1, 2, 3, 4],
    "sampler": ["ddpm", "ddim", "lcm", "ddpm"],
    "steps": [4, 3, 2, 1],
}


@pytest.mark.parametrize("options", [{}, {"max_batch": 2}, {"batch_invariant": True}], ids=["one", "two", "invariant"])
def test_it_changes_no_bit_and_is_nan_where_nothing_was_drawn(options: dict[str, Any]) -> None:
    engine = small_engine(device="cpu", **options)
    without, with_it = engine.sample(**MIXED), engine.sample(**MIXED, log_prob=True)
    assert torch.equal(without.images, with_it.images)
    assert without.log_prob is None
    assert with_it.log_prob is not None
    assert with_it.log_prob.dtype == torch.float32
    drawn = with_it.log_prob.isfinite().tolist()
    assert drawn == [[True] * 3 + [False], [False] * 4, [True] + [False] * 3, [False] * 4]


def test_a_network_in_float64_has_them_in_float64() -> None:
    engine = small_engine(SmallNet().double(), device="cpu")
    found = engine.sample(labels=[1], seeds=0, sampler="ddpm", steps=2, log_prob=True).log_prob
    assert found is not None
    assert found.dtype == torch.float64


def test_a_graph_has_one_launch_more_a_step_when_it_is_on_and_none_when_it_is_off() -> None:
    eager, graph, runner = engines("cpu")
    given: dict[str, Any] = {"labels": [1, 2], "seeds": 0, "sampler": "ddpm", "steps": 3}
    used_three_times(graph, **given)
    found = [graph.sample(**given, log_prob=True) for _ in range(3)][-1]
    wanted = eager.sample(**given, log_prob=True)
    assert torch.equal(found.images, wanted.images)
    torch.testing.assert_close(found.log_prob, wanted.log_prob, rtol=0, atol=0, equal_nan=True)
    other = graph.sample(**(given | {"seeds": 9}), log_prob=True)
    assert other.log_prob is not None
    assert not torch.equal(other.log_prob[:, :2], wanted.log_prob[:, :2])  # type: ignore[index]
    off, on = (
        [call.name.split(".")[1] for call in recorded.calls if "fewstep" in call.name]
        for recorded in runner._capturer.graphs  # type: ignore[attr-defined]
    )
    assert off == ["begin_step", "denoise_step"] * 3
    assert on == ["begin_step", "step_log_prob", "denoise_step"] * 3


@pytest.mark.parametrize("runner", ["eager", "graph"])
def test_in_a_session_a_sample_has_those_it_has_alone(runner: str) -> None:
    chosen = GraphRunner(RecorderCapturer(), BUDGET) if runner == "graph" else "eager"
    engine = small_engine(device="cpu", runner=chosen, batch_invariant=True, max_batch=4)
    wishes = [
        {"labels": [label], "seeds": [label], "sampler": sampler, "steps": steps}
        for label, sampler, steps in ((1, "ddpm", 4), (2, "lcm", 2), (3, "ddim", 3))
    ]
    alone = [engine.sample(**wish, log_prob=True) for wish in wishes]
    with engine.session(4, 5, features=("stochastic", "log_prob", "given_noise")) as session:
        for _ in range(3):  # slots are used again
            slots = session.admit(*engine.samples(**wishes[0]))
            session.advance(1)
            slots += session.admit(*engine.samples(**wishes[1]), *engine.samples(**wishes[2]))
            session.advance()
            for slot, one in zip(slots, alone, strict=True):
                taken = session.take(slot)
                assert torch.equal(taken.values, one.images)
                torch.testing.assert_close(taken.log_prob, one.log_prob, rtol=0, atol=0, equal_nan=True)
    with engine.session(2) as session:
        (slot,) = session.admit(*engine.samples(**wishes[0]))
        session.advance()
        assert session.take(slot).log_prob is None


def test_a_sample_that_is_cancelled_or_never_runs_has_nan() -> None:
    engine = small_engine(device="cpu", max_batch=2)

    def stop(step: Step) -> bool | None:
        if step.index == 0:
            step.cancel(0)
        return False if step.index == 1 else None

    given: dict[str, Any] = {"labels": [1, 2, 3], "seeds": 0, "sampler": "ddpm", "steps": 4}
    found = engine.sample(**given, log_prob=True, callback=stop).log_prob
    assert found is not None
    assert found.isfinite().tolist() == [[True, False, False, False], [True, True, False, False], [False] * 4]


def once_more(engine: Engine, kept: Sample) -> Sample:
    """The row that comes next, and no further."""
    after: list[Sample] = []

    def stop(step: Step) -> bool:
        after.append(step.state(0))
        return False

    engine.sample(start=Resume(kept), callback=stop)
    return after[0]


@pytest.mark.parametrize("plan", [make_plan("ddpm", SCHEDULE, 5), looking_back()], ids=["ddpm", "looking back"])
@pytest.mark.parametrize("w", [1.0, 3.0], ids=["one half", "guided"])
def test_any_step_is_replayed_from_what_was_kept_to_the_bit(plan: Plan, w: float) -> None:
    """From seed, row and x, whoever else ran: x after it, its history, and how probable it was."""
    engine = small_engine(device="cpu", batch_invariant=True, max_batch=6)
    given: dict[str, Any] = {"labels": [1, 2, 3], "seeds": [7, 8, 9], "plan": plan, "guidance_scale": w}
    states, samples, _ = kept_of(engine, **given)
    assert samples.log_prob is not None
    for row in (0, 2, 3, len(plan) - 1):
        before, wanted = states[row][1], states[row + 1][1].start
        again = once_more(engine, before).start
        assert torch.equal(again.x, wanted.x)
        assert again.index == wanted.index == row + 1
        assert again.history is None or torch.equal(again.history, wanted.history)  # type: ignore[arg-type]
        rest = engine.sample(start=Resume(before), log_prob=True)
        assert rest.log_prob is not None
        assert rest.log_prob[0, :row].isnan().all()
        torch.testing.assert_close(
            rest.log_prob[0, row:], samples.log_prob[1, row:], rtol=0, atol=0, equal_nan=True
        )  # fmt: skip


WRONG: dict[str, tuple[Callable[[Engine], object], str]] = {
    "no flag": (lambda e: e.sample(labels=[1], log_prob=1), "log_prob: got 1; allowed: true or false"),
    "of samples": (lambda e: e.samples(labels=[1], log_prob=True), "log_prob"),
    "misspelt": (lambda e: e.sample(labels=[1], logprob=True), "did you mean 'log_prob'"),
    "not asked for": (
        lambda e: e.sample(labels=[1], callback=lambda step: step.log_prob),
        r"log_prob: got a run that was not asked for it; allowed: Engine\.sample",
    ),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_what_was_not_asked_for_is_told(call: Callable[[Engine], object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        call(small_engine(device="cpu"))


def test_a_manifest_remembers_it(tmp_path: Path) -> None:
    """A run with it and one without are two kinds, and each is warmed up as such."""
    _, graph, _ = engines("cpu")
    given: dict[str, Any] = {"labels": [1, 2], "seeds": 0, "sampler": "ddpm", "steps": 3}
    graph.sample(**given)
    graph.sample(**given, log_prob=True)
    graph.session(2, features=("stochastic", "log_prob")).close()
    listed = graph.manifest(tmp_path / "warm.json")
    assert [each.get("log_prob", False) for each in listed[:2]] == [False, True]
    assert listed[2]["session"]["features"] == ["stochastic", "log_prob"]
    _, fresh, runner = engines("cpu")
    fresh.warm_up(tmp_path / "warm.json")
    assert runner.stats()["captures"] == 3
    fresh.sample(**given, log_prob=True)
    assert runner.stats()["hits"] == 4
    assert runner.stats()["eager_runs"] == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"plan": "ddpm"}, "plan: got 'ddpm'; allowed: a Plan"),
        ({"x": None}, "x: got None; allowed: a tensor of floats"),
        ({"x": torch.zeros(1, 3, 8, 8, dtype=torch.int64)}, "x: got torch.int64 of shape"),
        ({"x_next": [0.0]}, r"x_next: got \[0.0\]; allowed: a tensor of floats"),
        ({"mask": torch.ones(3, 3)}, r"mask: got shape \[3, 3\]; allowed: a tensor that fits \[1, 3, 8, 8\]"),
        ({"mask": 1}, "mask: got 1; allowed: a tensor that fits"),
    ],
)
def test_what_is_no_tensor_of_a_step_is_told(given: dict[str, Any], said: str) -> None:
    still = torch.zeros(1, 3, 8, 8)
    plan = make_plan("ddpm", SCHEDULE, 4).with_known(fresh=True)
    arguments: dict[str, Any] = {"plan": plan, "step": 0, "x": still, "m": still, "x_next": still, **given}
    with pytest.raises(ArgumentError, match=said):
        fewstep.log_prob(**arguments)
