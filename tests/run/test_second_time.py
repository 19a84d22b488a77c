"""The second time r of a flow map: a network that names r is told the plan's, and no other runs such a plan."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fewstep import ArgumentError, Classes, Engine, Model, Plan, Resume, Step, schedules
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.samplers import make_plan
from fewstep.run.denoiser import ModuleDenoiser
from fewstep.run.graphs.runner import GraphRunner
from fewstep.run.inputs import Inputs
from support.recorder import RecorderCapturer
from support.runners import BUDGET, engines, used_three_times
from support.small import SHAPE, SmallNet, small_engine

FLOW = schedules.flow()
Told = tuple[int, float, float]  # label, t, r


class Mapped(SmallNet):
    """A network that names r, and writes down what each lane is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Told] = []

    def forward(self, x: Tensor, t: Tensor, r: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        if not torch._C._len_torch_dispatch_stack():  # no capture looks on
            self.told += zip(labels.tolist(), t.tolist(), r.tolist(), strict=True)
        return super().forward(x, t, labels) + (t - r)[:, None, None, None].to(x.dtype) / 1000


def flow_map(steps: int) -> Plan:
    """x_r = x_t - (t - r) u(x_t, t, r), from the noisiest level of a flow to its clean end; x_0 = x_t - t u."""
    levels = Levels.spaced(FLOW, steps)
    r = np.append(levels.t[1:], 0.0)
    k_m = -levels.noise_scale[:-1]
    return Plan.build("flow map", "flow", levels, a=1.0, e=(r - levels.t) / len(FLOW), r=r, k_x=1.0, k_m=k_m)


def straight(steps: int) -> Plan:
    return make_plan("euler", FLOW, steps, prediction="flow")


def engine_of(net: nn.Module, **options: Any) -> Engine:
    told = {"schedule": FLOW, "prediction": "flow", "defaults": {"sampler": "euler", "steps": 4}}
    return small_engine(net, **(told | {"device": "cpu"} | options))


def expected(label: int, plan: Plan) -> list[Told]:
    columns = (plan.column(name).astype(np.float32).tolist() for name in ("t", "r"))
    return [(label, t, r) for t, r in zip(*columns, strict=True)]


PLANS = {1: flow_map(4), 2: straight(3), 3: flow_map(2).with_guidance(3.0), 4: flow_map(1)}


def asked(label: int) -> dict[str, Any]:
    return {"labels": [label], "seeds": [label], "plan": PLANS[label]}


def test_each_lane_is_told_its_own_plans_times() -> None:
    """A batch of flow maps of other lengths and of a plan with r = t, one of them with two lanes."""
    net = Mapped()
    engine_of(net, runner="eager").sample(labels=[*PLANS], seeds=[*PLANS], plan=[*PLANS.values()])
    for label, plan in PLANS.items():
        told = [each for each in net.told if each[0] == label]
        assert told[: len(plan)] == expected(label, plan)
        assert set(told[len(plan) :]) <= {expected(label, plan)[-1]}  # idle: times that the network knows
    null = [each[1:] for each in net.told if each[0] == 10]
    assert null[: len(PLANS[3])] == [each[1:] for each in expected(3, PLANS[3])]


@pytest.mark.parametrize("runner", ["eager", "graph"])
def test_a_sample_is_the_same_alone_and_beside_plans_with_and_without_r(runner: str) -> None:
    chosen = GraphRunner(RecorderCapturer(), BUDGET) if runner == "graph" else "eager"
    engine = engine_of(Mapped(), runner=chosen, batch_invariant=True, max_batch=6)
    alone = {label: used_three_times(engine, **asked(label)) for label in PLANS}
    together = engine.sample(labels=[*PLANS], seeds=[*PLANS], plan=[*PLANS.values()]).images
    assert torch.equal(together, torch.cat([*alone.values()]))
    with engine.session(6, 7, features=()) as session:
        slots = {label: session.admit(*engine.samples(**asked(label)))[0] for label in (1, 3)}
        session.advance(1)
        slots |= {label: session.admit(*engine.samples(**asked(label)))[0] for label in (2, 4)}
        session.advance()
        for label, slot in slots.items():
            assert torch.equal(session.take(slot).values, alone[label])


def test_a_graph_takes_a_second_time_at_no_launch_more() -> None:
    """Bitwise the eager run, and between the networks' calls the ops of a network that names no r."""
    told: dict[str, Any] = {"schedule": FLOW, "prediction": "flow", "defaults": {"sampler": "euler", "steps": 4}}
    eager, graph, runner = engines("cpu", Mapped(), **told)
    for plan in (flow_map(4), straight(4)):
        given: dict[str, Any] = {"labels": [1, 2], "seeds": 0, "plan": plan}
        assert torch.equal(used_three_times(graph, **given), eager.sample(**given).images)
    assert runner.stats()["captures"] == 1
    _, plain, other = engines("cpu", SmallNet(), **told)
    used_three_times(plain, labels=[1, 2], seeds=0, plan=straight(4))
    ops = [
        [call.name for call in each._capturer.graphs[0].calls if "fewstep" in call.name]  # type: ignore[attr-defined]
        for each in (runner, other)
    ]
    assert ops[0] == ops[1] == ["fewstep.begin_step.default", "fewstep.denoise_step.default"] * 4


def test_a_plan_whose_r_is_t_runs_on_a_network_that_names_r_as_on_one_that_does_not() -> None:
    given: dict[str, Any] = {"labels": [1, 2], "seeds": 0, "plan": straight(3)}
    assert torch.equal(engine_of(Mapped()).sample(**given).images, engine_of(SmallNet()).sample(**given).images)


def test_a_sample_that_was_kept_goes_on_with_its_second_times() -> None:
    net = Mapped()
    engine, kept = engine_of(net), []

    def keep(step: Step) -> None:
        if step.index == 1:
            kept.append(step.state(0))

    whole = engine.sample(labels=[1], seeds=[5], plan=flow_map(4), callback=keep).images
    net.told.clear()
    assert torch.equal(engine.sample(start=Resume(kept)).images, whole)
    assert net.told == expected(1, flow_map(4))[2:]


def test_a_plan_with_a_second_time_is_refused_for_a_network_that_names_none() -> None:
    plain, mapped = engine_of(SmallNet()), engine_of(Mapped())
    message = r"plan: got one that tells the network a second time, r; allowed: one whose r is t: .* takes no r"
    with pytest.raises(ArgumentError, match=message):
        plain.sample(labels=[1], plan=flow_map(2))
    (sample,) = mapped.samples(labels=[1], plan=flow_map(2))
    with plain.session(2, features=()) as session:
        assert session.why_not(sample) == "a plan that tells the network a second time, r, which this one does not"
        with pytest.raises(ArgumentError, match="a second time"):
            session.admit(sample)
        session._strange = lambda plan: None
        assert session.why_not(sample) == "a second time r that is not t, which this session was not opened for"
    with pytest.raises(ArgumentError, match=r"start: got a plan that tells the network a second time"):
        plain.sample(start=Resume(sample))


@pytest.mark.parametrize(
    ("schedule", "options", "sampler"),
    [
        (FLOW, {"prediction": "flow"}, "flow_map"),
        (schedules.trigflow(), {"prediction": "v"}, "flow_map"),
        (schedules.karras(time="sigma"), {"prediction": "x_0"}, "flow_map"),
        (FLOW, {"prediction": "flow", "defaults": {"steps": 2}}, "flow_map"),
        (FLOW, {"prediction": "flow", "defaults": {"sampler": "euler"}}, "euler"),
        (schedules.karras(), {"prediction": "edm"}, "ddim"),  # ln 0 is no time
        (schedules.linear(), {"prediction": "eps"}, "ddim"),
    ],
    ids=["flow", "trigflow", "sigma", "its steps alone", "said", "ln sigma", "vp"],
)
def test_a_network_that_names_r_is_a_flow_map_unless_it_is_said(
    schedule: schedules.Schedule, options: dict[str, Any], sampler: str
) -> None:
    for net, expected in ((Mapped(), sampler), (SmallNet(), options.get("defaults", {}).get("sampler", "ddim"))):
        engine = Engine(Model(net, schedule=schedule, shape=SHAPE, conditions=Classes(5), **options), device="cpu")
        assert engine.sample(labels=[1], seeds=0).plans[0].sampler == expected


def test_r_is_a_time_that_the_network_knows() -> None:
    rows, plan = np.array(flow_map(2).rows), flow_map(2)
    assert plan.column("r")[-1] == 0  # the clean end, at which no call is made
    engine = engine_of(Mapped())
    for strange in (1001.0, -1.0):
        rows[0, 1] = strange
        other = Plan(plan.sampler, plan.prediction, plan.levels, rows, plan.init_scale)
        with pytest.raises(ArgumentError, match=rf"network r = {strange:g}; allowed: times from 0 to 1000, as this"):
            engine.sample(labels=[1], plan=other)


def test_r_is_no_condition() -> None:
    with pytest.raises(ArgumentError, match=r"condition: got 'r'; allowed: nothing of that name: a plan says r"):
        engine_of(Mapped()).sample(labels=[1], condition={"r": torch.ones(1)})
    with pytest.raises(ArgumentError, match=r"condition: got 's'; .* beside x, t and r: labels"):
        engine_of(Mapped()).sample(labels=[1], condition={"s": torch.ones(1)})


class Open(nn.Module):
    def forward(self, x: Tensor, t: Tensor, **others: Tensor) -> Tensor:
        return x * 0 + others["r"][:, None, None, None]


class Optional(nn.Module):
    def forward(self, x: Tensor, t: Tensor, r: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        return x * 0


def test_what_names_r_is_found_by_its_signature() -> None:
    found = Inputs.of(Mapped())
    assert (found.second_time, found.names, found.required) == (True, ("labels",), ("labels",))
    assert Inputs.of(torch.compile(Mapped(), backend="eager")).second_time  # type: ignore[arg-type]
    assert Inputs.of(nn.DataParallel(Mapped())).second_time
    for net in (Optional(), torch.jit.script(Optional())):
        found = Inputs.of(net)
        assert (found.second_time, found.names, found.takes("r")) == (True, ("labels",), False)
    assert not Inputs.of(Open()).second_time  # r is what its caller means by it
    images = engine_of(Open(), conditions=None).sample(1, condition={"r": torch.tensor([0.5])}, steps=1, seeds=0).images
    assert images.isfinite().all()


class Prepared(Mapped):
    """Makes something of its times ahead."""

    def prepare_condition(self, condition: Mapping[str, Tensor], times: Tensor, ends: Tensor) -> Mapping[str, Tensor]:
        return {**condition, "spans": times - ends}

    def forward(self, x: Tensor, t: Tensor, r: Tensor, labels: Tensor, spans: Tensor) -> Tensor:  # type: ignore[override]
        assert ((t - r)[:, None] == spans).any(1).all()
        return super().forward(x, t, r, labels)


class PreparedWithout(Mapped):
    def prepare_condition(self, condition: Mapping[str, Tensor], times: Tensor) -> Mapping[str, Tensor]:
        return condition


def test_what_prepares_is_told_the_second_times_where_it_names_ends() -> None:
    """One pair of times for each call, those of idle slots among them."""
    given: dict[str, Any] = {"labels": [1, 2], "seeds": 0, "plan": [flow_map(3), straight(4)]}
    wanted = engine_of(Mapped()).sample(**given).images
    for net in (Prepared(), PreparedWithout()):
        assert torch.equal(engine_of(net).sample(**given).images, wanted)


def test_r_has_the_dtype_of_t() -> None:
    told: list[tuple[Tensor, Tensor]] = []

    class Asking(nn.Module):
        def forward(self, x: Tensor, t: Tensor, r: Tensor) -> Tensor:
            told.append((t, r))
            return x

    x, t = torch.zeros(2, 3, 4, 4), torch.tensor([3.0, 1.0])
    for index in (True, False):
        denoiser = ModuleDenoiser(Asking(), "labels", (3,), index=index, second_time=True)
        denoiser.predict(x, t, {}, t - 1)
        denoiser.predict(x, t, {})
    assert [(t.dtype, r.dtype) for t, r in told] == [(torch.int64,) * 2] * 2 + [(torch.float32,) * 2] * 2
    assert [(t - r).tolist() for t, r in told] == [[1, 1], [0, 0]] * 2  # r is t unless it is given
