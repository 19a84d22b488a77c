"""What a network is told as its time is what its model says, on every schedule, and never a guess."""

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fewstep import ArgumentError, Engine, Image, Model, ModelError, Resume, schedules
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.samplers import SAMPLERS, build_plan, lcm, make_plan
from fewstep.diffusion.schedules import Schedule
from fewstep.diffusion.spacings import LEVEL_OPTIONS
from fewstep.diffusion.times import TIMES
from fewstep.evaluate.real import Part, Real
from fewstep.evaluate.run import model_bound
from fewstep.models.layouts.terrain import SPEC
from fewstep.models.spec import ModelSpec
from fewstep.train.losses import Batch, Objective
from fewstep_kernels.row import COLUMNS
from support.cli_case import SPEC as DDPM_SPEC
from support.runners import engines, used_three_times
from support.small import SHAPE, SmallNet

SCHEDULES: dict[str, Schedule] = {
    "linear": schedules.linear(),
    "cosine": schedules.cosine(50),
    "flow": schedules.flow(),
    "flow, shifted": schedules.flow(100, 1 / 3),
    "karras": schedules.karras(time="edm"),
    "exponential": schedules.exponential(20, 0.01, 50.0, time="consistency"),
    "trigflow": schedules.trigflow(100),
    "zero terminal SNR": schedules.linear().rescale_zero_terminal_snr(),
}
TOLD = {  # which words a kind of schedule has times for
    "vp": ("timestep", "unit", "index", "sigma", "edm", "consistency", "trigflow"),
    "flow": ("timestep", "unit", "index", "trigflow"),
    "ve": ("index", "sigma", "edm", "consistency", "trigflow"),
    "trig": ("index", "trigflow"),
    "zero terminal SNR": ("timestep", "unit", "index", "trigflow"),
}
CASES = [(name, time) for name, of in SCHEDULES.items() for time in TOLD.get(name, TOLD[of.kind])]


class Listening(nn.Module):
    """Keeps what it is told, and looks it up where it has a table."""

    def __init__(self, size: int | None = None, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.table = None if size is None else nn.Embedding(size, channels)
        self.heard: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        self.heard.append(t.clone())
        if self.table is None:
            return torch.tanh(self.conv(x))
        return torch.tanh(self.conv(x) + self.table(t)[:, :, None, None])


def formula(time: str, sigma: float, schedule: Schedule) -> float:
    """The t of a level of this sigma, from the words alone."""
    by_level = {float(s): i for i, s in enumerate(schedule.sigmas)}
    count = len(schedule)
    if time == "sigma":
        return sigma
    if time == "trigflow":
        return math.atan(sigma / (schedule.sigma_data or 1))
    if time in ("edm", "consistency"):
        return {"edm": 1, "consistency": 1000}[time] * math.log(sigma) / 4
    if schedule.kind == "flow" and time in ("timestep", "unit"):
        return (1 if math.isinf(sigma) else sigma / (1 + sigma)) * (count if time == "timestep" else 1)
    return by_level[sigma] / (count if time == "unit" else 1)


# In Karras time, where some signal has to be left.
STRAIGHT = ("euler", "euler_ancestral", "heun", "edm", "edm_euler", "lms", "plms")
OWN = [name for name in SAMPLERS if name not in ("kdpm2", "flow_map")]  # at the schedule's levels, told t alone


def sampled(samplers: Iterable[str], times: Iterable[str] = TIMES) -> list[tuple[str, str, str]]:
    """Schedule, words and sampler: all that go together."""
    return [
        (name, time, sampler)
        for name, time in CASES
        for sampler in samplers
        if SCHEDULES[name].kind in SAMPLERS[sampler].kinds and time in times
        if not (sampler in STRAIGHT and np.isinf(SCHEDULES[name].sigmas[-1]) and SCHEDULES[name].kind != "flow")
    ]


@pytest.mark.parametrize(("name", "time"), CASES)
def test_the_network_hears_what_its_model_says(name: str, time: Any) -> None:
    for schedule, word, sampler in sampled(OWN, [time]):
        if schedule == name:
            hears_what_its_model_says(name, word, sampler)


def hears_what_its_model_says(name: str, time: Any, sampler: str) -> None:
    schedule = SCHEDULES[name]
    net, prediction = Listening(), "consistency" if sampler == "consistency" else "v"
    model = Model(net, schedule=schedule, shape=SHAPE, prediction=prediction, time=time)
    steps = SAMPLERS[sampler].calls(4)
    samples = Engine(model).sample(2, steps=steps, sampler=sampler, spacing="trailing", seeds=0)
    expected = [formula(time, float(sigma), schedule) for sigma in samples.plans[0].levels.sigmas[:-1]]
    heard = torch.stack(net.heard)
    assert heard.dtype == (torch.int64 if time == "index" else torch.float32)
    torch.testing.assert_close(heard, torch.tensor(expected).to(heard)[:, None].expand(steps, 2), rtol=3e-7, atol=0)


BETWEEN = [
    (name, time, sampler, spacing)
    for name, time, sampler in sampled(["ddim", "euler"], [time for time in TIMES if time != "index"])
    for spacing in {"ddim": ("karras", "exponential"), "euler": ("linspace",)}[sampler]
]


@pytest.mark.parametrize(("name", "time", "sampler", "spacing"), BETWEEN)
def test_between_levels_it_hears_the_time_of_the_sigma_it_is_given(
    name: str, time: Any, sampler: str, spacing: str
) -> None:
    """By the formula where there is one, to the digit; between the timesteps of a "vp" schedule, within the gap."""
    schedule = SCHEDULES[name].told(time)
    options = {"sigma_max": float(schedule.sigmas[-2])} if spacing != "linspace" else {}
    for steps in (3, 7, 13):
        levels = build_plan(sampler, schedule, steps, "v", spacing, **options).levels
        for t, sigma in zip(levels.t, levels.sigmas, strict=False):
            if schedule.kind == "vp" and time in ("timestep", "unit"):
                place = t * (len(schedule) if time == "unit" else 1)
                around = schedule.sigmas[[math.floor(place + 1e-9), math.ceil(place - 1e-9)]]
                assert around[0] * (1 - 1e-9) <= sigma <= around[1] * (1 + 1e-9)
            else:
                assert t == pytest.approx(formula(time, float(sigma), SCHEDULES[name]), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("name", "time"), [(n, t) for n in SCHEDULES for t in TIMES if (n, t) not in CASES])
def test_words_that_a_schedule_has_no_time_for_are_refused(name: str, time: Any) -> None:
    with pytest.raises(ArgumentError, match=f"time: got {time}|time: got '{time}'"):
        Model(SmallNet(), schedule=SCHEDULES[name], shape=SHAPE, prediction="v", time=time)


@pytest.mark.parametrize(("name", "time"), CASES)
def test_the_words_of_before_leave_nothing_behind(name: str, time: Any) -> None:
    """Told in other words first, the network hears the same: so of timesteps after a unit."""
    plain = SCHEDULES[name]
    for before in (word for of, word in CASES if of == name):
        assert plain.told(before).told(time).t.tolist() == plain.told(time).t.tolist()
    model = Model(SmallNet(), schedule=plain.told("index"), shape=SHAPE, prediction="v", time=time)
    assert (model.time, model.schedule.t.tolist()) == (time, plain.told(time).t.tolist())


def test_timesteps_again_after_a_unit() -> None:
    for schedule in (schedules.linear(), schedules.flow()):
        model = Model(SmallNet(), schedule=schedule.told("unit"), shape=SHAPE, prediction="v", time="timestep")
        assert model.planner().plan(2).levels.t.tolist() == {"vp": [999, 499], "flow": [1000, 500]}[schedule.kind]


def test_words_that_are_none_are_refused() -> None:
    with pytest.raises(ArgumentError, match="time: got 'seconds'; allowed: timestep, unit, index, sigma, edm"):
        Model(SmallNet(), schedule=schedules.linear(), shape=SHAPE, time="seconds")  # type: ignore[arg-type]


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v", "flow", "score"])
@pytest.mark.parametrize("make", [schedules.karras, schedules.exponential])
def test_a_network_on_sigmas_is_told_nothing_that_nobody_said(make: Any, prediction: str) -> None:
    """At sigma 80 one convention says 80, another 1.0955, a third 1095.5."""
    with pytest.raises(ArgumentError, match=r'time: got None, of a network on .*; allowed: .*"sigma" itself, "edm"'):
        Model(SmallNet(), schedule=make(), shape=SHAPE, prediction=prediction)
    for time, told in (("sigma", 80.0), ("edm", 1.0955066), ("consistency", 1095.5066)):
        for model in (
            Model(net := Listening(), schedule=make(), shape=SHAPE, prediction=prediction, time=time),
            Model(net, schedule=make(time=time), shape=SHAPE, prediction=prediction),
        ):
            net.heard.clear()
            Engine(model).sample(1, steps=1, sampler="ddim", seeds=0)
            assert float(net.heard[0]) == pytest.approx(told, rel=1e-6)
            assert model.time == time


@pytest.mark.parametrize("make", [schedules.karras, schedules.exponential])
def test_a_consistency_model_is_told_what_its_paper_says(make: Any) -> None:
    net = Listening()
    model = Model(net, schedule=make(), shape=SHAPE, prediction="consistency")
    Engine(model).sample(1, steps=1, seeds=0)
    assert float(net.heard[0]) == pytest.approx(250 * math.log(80))
    assert model.time == model.schedule.time == "consistency"


def test_a_file_that_does_not_say_it_is_refused_too() -> None:
    spec = SPEC.to_dict() | {"prediction": "x_0", "plan": {"sampler": "ddim", "steps": 2}}
    assert ModelSpec.from_dict(spec).schedule["time"] == "consistency"
    spec["schedule"] = {"name": "karras"}
    with pytest.raises(ModelError, match="schedule: time: got None; allowed: what a x_0 network is told: sigma, edm"):
        ModelSpec.from_dict(spec)
    assert ModelSpec.from_dict(spec | {"prediction": "consistency", "plan": SPEC.plan})


@pytest.mark.parametrize("count", [1000, 4000, 100_000])
def test_a_network_that_looks_its_time_up_gets_integers(count: int) -> None:
    """nn.Embedding(T)(t): whole int64 up to the last, which float32 holds (it does to 2^24), idle slots included."""
    net = Listening(count)
    engine = Engine(Model(net, schedule=schedules.linear(count, 1e-6, 1e-4), shape=SHAPE, prediction="v", time="index"))
    engine.sample(3, steps=[1, 3, 5], seeds=0)
    with engine.session(4, steps=8) as session:
        session.admit(*engine.samples(2, steps=[2, 4], seeds=0))
        session.advance(3)
        session.take(0)
        session.admit(*engine.samples(1, steps=2, seeds=5))
        while session.left:
            session.advance(1)
    photo = torch.zeros(SHAPE)
    images = engine.sample(1, steps=2, seeds=0, start=Image(photo, 0.5)).images
    assert images.isfinite().all()
    assert {heard.dtype for heard in net.heard} == {torch.int64}
    assert max(int(heard.max()) for heard in net.heard) == count - 1
    assert min(int(heard.min()) for heard in net.heard) >= 0


WHOLE = ("leading", "trailing", "linspace", "lcm")
OF_SIGMAS = [name for name in LEVEL_OPTIONS if name not in WHOLE and not name.startswith("flow_")]


@pytest.mark.parametrize(
    "options",
    [*({"spacing": name} for name in OF_SIGMAS), {"sampler": "euler", "spacing": "linspace"}],
    ids=[*OF_SIGMAS, "unrounded"],
)
def test_a_time_between_two_indices_is_refused(options: dict[str, Any]) -> None:
    model = Model(Listening(1000), schedule=schedules.linear(), shape=SHAPE, prediction="v", time="index")
    said = rf"spacing: got {options['spacing']}, which visits timestep [\d.]+; allowed: trailing, leading or a list"
    with pytest.raises(ArgumentError, match=said):
        Engine(model).sample(1, steps=3, seeds=0, **options)


@pytest.mark.parametrize("spacing", WHOLE)
def test_every_spacing_of_whole_timesteps_serves_an_index(spacing: str) -> None:
    net = Listening(1000)
    model = Model(net, schedule=schedules.linear(), shape=SHAPE, prediction="v", time="index")
    Engine(model).sample(1, steps=4, seeds=0, spacing=spacing)
    plain = build_plan("ddim", schedules.linear(), 4, "v", spacing)
    assert [int(t) for t in net.heard] == plain.levels.t.tolist()


def test_an_index_is_made_within_the_captured_loop() -> None:
    """The recorder refuses a number of the host's, and replays on the same memory."""
    eager, graph, runner = engines("cpu", Quiet(), prediction="v", time="index")
    base: dict[str, Any] = {"labels": [1, 2], "seeds": [3, 4], "steps": 4}
    used_three_times(graph, **base)
    for change in ({"sampler": "ddpm"}, {"spacing": "leading"}, {"sampler": "lcm"}, {"spacing": [900, 512, 77, 3]}):
        assert torch.equal(graph.sample(**base, **change).images, eager.sample(**base, **change).images)
    assert runner.stats()["captures"] == 1
    assert runner.stats()["hits"] >= 3


class Quiet(nn.Module):
    """Looks its time up, and keeps nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.table = nn.Conv2d(3, 3, 1), nn.Embedding(1000, 3)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return torch.tanh(self.conv(x) + self.table(t)[:, :, None, None])


class Preparing(Listening):
    """Prepares a table of its times."""

    def prepare_condition(self, condition: dict[str, Tensor], times: Tensor) -> dict[str, Tensor]:
        self.heard.append(times)
        return {}


def test_what_a_network_prepares_is_told_the_same() -> None:
    net = Preparing(1000)
    model = Model(net, schedule=schedules.linear(), shape=SHAPE, prediction="v", time="index")
    Engine(model).sample(1, steps=2, seeds=0)
    prepared, *heard = net.heard
    assert prepared.dtype == torch.int64
    assert prepared[:2].tolist() == [int(t) for t in heard]


LINEAR, FLOW, KARRAS_EDM = schedules.linear(), schedules.flow(), schedules.karras(time="edm")
HANDED: dict[str, tuple[Schedule, Any, Any, str]] = {
    "edm for consistency": (schedules.karras(), None, lambda: make_plan("ddim", KARRAS_EDM, 2, "v"), "edm"),
    "sigma for timesteps": (LINEAR, None, lambda: make_plan("ddim", LINEAR.told("sigma"), 2, "v"), "sigma"),
    "timesteps for sigma": (LINEAR, "sigma", lambda: make_plan("ddim", LINEAR, 2, "v"), "timestep"),
    "unit for timesteps": (FLOW, None, lambda: make_plan("ddim", FLOW.told("unit"), 2, "v"), "unit"),
    "ladders of no schedule": (LINEAR, None, lambda: SAMPLERS["ddim"].build(Levels.karras(2), "v"), "edm"),
    "of four thousand": (LINEAR, None, lambda: make_plan("ddim", schedules.linear(4000), 2, "v"), "t = 3999"),
    "a flow's": (LINEAR, None, lambda: make_plan("ddim", FLOW, 2, "v"), "t = 1000"),
    "another prediction": (LINEAR, None, lambda: make_plan("ddim", LINEAR, 3, "eps"), "PREDICTS eps; allowed: v"),
    "one for consistency": (
        schedules.karras(time="consistency"),
        "consistency",
        lambda: make_plan("ddim", schedules.karras(), 2, "x_0"),
        "PREDICTS x_0; allowed: consistency",
    ),
    "between indices": (LINEAR, "index", lambda: make_plan("ddim", LINEAR, 3, "v", "karras"), "t = "),
}


@pytest.mark.parametrize("case", HANDED)
def test_a_plan_that_counts_otherwise_is_refused(case: str) -> None:
    schedule, time, plan, said = HANDED[case]
    prediction = "consistency" if schedule.kind == "ve" else "v"
    engine = Engine(Model(Listening(1000), schedule=schedule, shape=SHAPE, prediction=prediction, time=time))
    predicts = said.startswith("PREDICTS")
    does = said.replace("PREDICTS", "for a network that predicts") if predicts else f"that tells the network {said}"
    with pytest.raises(ArgumentError, match=f"plan: got one {does}"):
        engine.sample(1, plan=plan(), seeds=0)
    (own,) = engine.samples(1, seeds=0)
    with pytest.raises(ArgumentError, match=f"start: got a plan {does}"):
        engine.sample(start=Resume(replace(own, plan=plan())))
    with engine.session(2) as session, pytest.raises(ArgumentError, match=r"sample: got a plan .*, which this one"):
        session.admit(replace(own, plan=plan()))


@pytest.mark.parametrize(("name", "time"), CASES)
def test_a_plan_of_its_own_or_of_its_schedule_is_taken(name: str, time: Any) -> None:
    schedule = SCHEDULES[name].told(time)
    engine = Engine(Model(Listening(), schedule=schedule, shape=SHAPE, prediction="v", time=None))
    for plan in (engine.plan(3), make_plan("ddim", engine.model.schedule, 2, "v")):
        assert engine.sample(1, plan=plan, seeds=0).images.isfinite().all()
    assert f"t is {schedule.time}" in plan.describe() or schedule.time == "timestep"


def test_timesteps_serve_an_index() -> None:
    engine = Engine(Model(Listening(1000), schedule=schedules.linear(), shape=SHAPE, prediction="v", time="index"))
    assert engine.sample(1, plan=make_plan("ddim", schedules.linear(), 2, "v"), seeds=0).images.isfinite().all()


@pytest.mark.parametrize(("name", "time", "sampler"), sampled(["ddim", "ddpm", "lcm"]))
def test_nothing_but_the_time_depends_on_it(name: str, time: str, sampler: str) -> None:
    """LCM's scalings count timesteps whatever the network is told, and so do strength, spacing and the boundary."""
    plain, told = SCHEDULES[name], SCHEDULES[name].told(time)
    for spacing, strength in (("trailing", 1.0), ("leading", 0.5), ("linspace", 1.0), ([9, 3], 1.0)):
        steps = 2 if isinstance(spacing, list) else 3
        one, other = (build_plan(sampler, of, steps, "v", spacing, strength) for of in (plain, told))
        columns = [i for i in range(one.rows.shape[1]) if COLUMNS[i] not in ("t", "r")]
        assert one.rows[:, columns].tolist() == other.rows[:, columns].tolist()


def test_lcms_scalings_count_timesteps_between_levels_too() -> None:
    levels = Levels.karras(3, 0.05, 10.0, time=schedules.linear().told("sigma"))
    plain = Levels.karras(3, 0.05, 10.0, time=schedules.linear())
    assert lcm(levels, "v").column("b").tolist() == lcm(plain, "v").column("b").tolist()


@pytest.mark.parametrize(("name", "time"), CASES)
def test_the_words_survive_json(name: str, time: str) -> None:
    schedule = SCHEDULES[name].told(time)
    again = schedules.from_config(json.loads(json.dumps(schedule.to_config())))
    assert (again.time, again.to_config()) == (schedule.time, schedule.to_config())
    assert again.t.tolist() == schedule.t.tolist()
    assert again.time_said
    assert schedule.sigma_to_t(schedule.t_to_sigma(schedule.t)) == pytest.approx(schedule.t, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("time", ["unit", "index", "sigma", "edm"])
def test_a_folder_says_it_in_its_schedule(time: str) -> None:
    spec = replace(DDPM_SPEC, schedule={**DDPM_SPEC.schedule, "time": time})
    again = ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    model = Model.of(SmallNet(), again)
    assert model.time == time
    assert model.schedule.t.tolist() == schedules.from_config(DDPM_SPEC.schedule).told(time).t.tolist()


@pytest.mark.parametrize("time", ["timestep", "unit", "sigma", "edm"])
def test_training_tells_what_sampling_tells(time: str) -> None:
    """The loss calls the network with the times of the same schedule; so does a walk along a teacher's plan."""
    net = Listening()
    schedule = schedules.from_config({"name": "cosine", "num_timesteps": 50, "time": time})
    x_0 = torch.zeros(4, *SHAPE)
    u = torch.tensor([0.0, 0.25, 0.5, 0.99], dtype=torch.float64)
    Objective(schedule, "v")(net, Batch(x_0, torch.ones_like(x_0), u, u, {}))
    expected = [formula(time, float(schedule.sigmas[i]), schedules.cosine(50)) for i in (0, 12, 25, 49)]
    assert net.heard[0].tolist() == pytest.approx(expected, rel=1e-6)


def test_sigma_beyond_a_discrete_schedule_has_no_time() -> None:
    """k-diffusion holds the time at the end; then the network is told less noise than there is."""
    for schedule in (schedules.linear(), schedules.scaled_linear()):
        for option in ({"sigma_max": 1000.0}, {"sigma_min": 1e-4}):
            with pytest.raises(ArgumentError, match="its network has a time for no other"):
                make_plan("euler", schedule, 4, spacing="karras", **option)
    beyond = make_plan("ddim", schedules.karras(time="sigma"), 2, "v", "karras", sigma_min=0.001, sigma_max=160.0)
    assert beyond.levels.t.tolist() == [160.0, 0.001]
    flow = make_plan("ddim", schedules.flow(10), 2, "v", "karras", sigma_min=0.001, sigma_max=9999.0)
    assert flow.levels.t == pytest.approx([9.999, 10 * 0.001 / 1.001], rel=1e-12)


@pytest.mark.parametrize("time", ["timestep", "unit", "index", "sigma"])
def test_the_bound_tells_the_network_the_same(time: Any) -> None:
    """It calls the network by itself, once at every level."""
    net, schedule = Listening(20 if time == "index" else None, channels=1), schedules.linear(20)
    model = Model(net, schedule=schedule, shape=(1, 32, 32), prediction="v", time=time)
    part = Part(torch.zeros(10, 1, 32, 32), torch.arange(10))
    model_bound(Engine(model), Real(part, part, "digits", classes=10), 10)
    expected = [formula(time, float(sigma), schedule) for sigma in reversed(schedule.sigmas)]
    assert [float(heard[0]) for heard in net.heard] == pytest.approx(expected, rel=1e-6)
    assert {heard.dtype for heard in net.heard} == {torch.int64 if time == "index" else torch.float32}
