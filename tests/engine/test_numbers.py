"""Wherever a number is taken, numpy's and torch's are too, and True, text, NaN and infinity are not."""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fewstep import (
    ArgumentError,
    Classes,
    ClassifierFree,
    EmbeddedGuidance,
    Engine,
    Image,
    Inpaint,
    Numbers,
    Samples,
    Trained,
    samplers,
    schedules,
)
from fewstep.diffusion.levels import Levels
from fewstep.models.bundled import model_folder
from fewstep.train.config import TrainConfig
from fewstep.train.distill_config import DistillConfig
from support.small import SHAPE, SmallNet, small_engine, small_model

ENGINE = small_engine(device="cpu")
ANGLES = small_engine(device="cpu", conditions=Numbers(0, 5))
CONSISTENCY = schedules.karras(40)
FOUR = Samples(torch.zeros(4, 1, 2, 2), [0, 1, 2, 3], ENGINE.plan(1))


def rows(plan: Any) -> list[list[float]]:
    return plan.rows.tolist()


def drawn(**arguments: Any) -> tuple[Any, ...]:
    found = ENGINE.sample(**({"seeds": 0} | arguments))
    return found.images.flatten(1).sum(1).tolist(), found.seeds, found.labels, [len(plan) for plan in found.plans]


def stepped(call: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    """What a session of two samples of four steps, of which two are done, gives."""

    def ask(value: Any) -> Any:
        with ENGINE.session(2) as session:
            session.admit(*ENGINE.samples(2, seeds=0))
            session.advance(2)
            return call(session, value)

    return ask


def followed(call: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    def ask(value: Any) -> Any:
        found = []
        ENGINE.sample(2, seeds=0, steps=1, callback=lambda step: found.append(call(step, value)))
        return found

    return ask


def cancelled(value: Any) -> Any:
    def cancel(step: Any) -> None:
        if step.index == 0:
            step.cancel(value)

    return ENGINE.sample(2, seeds=0, steps=2, callback=cancel).cancelled


def plan(**options: Any) -> list[list[float]]:
    return rows(ENGINE.plan(**({"steps": 2} | options)))


# A number, the argument that an error names, as a pattern, and what takes it.
INTEGERS: dict[str, tuple[int, str, Callable[[Any], Any]]] = {
    "plan: steps": (3, "steps", lambda v: plan(steps=v)),
    "plan: offset": (3, "offset", lambda v: plan(spacing="leading", offset=v)),
    "plan: original_steps": (20, "original_steps", lambda v: plan(sampler="lcm", original_steps=v)),
    "plan: a timestep": (700, "timesteps", lambda v: plan(spacing=[v, 100])),
    "Levels.explicit": (700, "timesteps", lambda v: Levels.explicit(schedules.linear(), [v, 100]).t.tolist()),
    "make_plan: steps": (3, "steps", lambda v: rows(samplers.make_plan("ddim", schedules.linear(), v))),
    "sample: n": (3, "n", lambda v: drawn(n=v)),
    "sample: seeds": (3, "seeds", lambda v: drawn(n=2, seeds=v)),
    "sample: one of the seeds": (3, "seeds", lambda v: drawn(seeds=[v, 9])),
    "sample: labels": (3, "labels", lambda v: drawn(labels=v)),
    "sample: one of the labels": (3, "labels", lambda v: drawn(labels=[v, 9])),
    "sample: steps": (3, "steps", lambda v: drawn(steps=v)),
    "sample: one of the steps": (3, "steps", lambda v: drawn(steps=[v, 2])),
    "Engine: max_batch": (3, "max_batch", lambda v: small_engine(device="cpu", max_batch=v).max_batch),
    "session: slots": (3, "slots", lambda v: ENGINE.session(v).signature),
    "session: lanes": (4, "lanes", lambda v: ENGINE.session(1, v).signature),
    "session: steps": (9, "steps", lambda v: ENGINE.session(1, steps=v).signature),
    "session: history": (3, "history", lambda v: ENGINE.session(1, history=v).signature),
    "Session.advance": (1, "steps", stepped(lambda session, v: (session.advance(v), session.left))),
    "Session.take": (1, "slot", stepped(lambda session, v: session.take(v).values.sum().item())),
    "Session.sample": (1, "slot", stepped(lambda session, v: session.sample(v).seed)),
    "Session.cancel": (1, "slot", stepped(lambda session, v: (session.cancel(v), session.running))),
    "Step.state": (1, "sample", followed(lambda step, v: step.state(v).seed)),
    "Step.cancel": (1, "sample", cancelled),
    "Classes: count": (3, "classes.count", lambda v: Classes(v)),
    "Classes: null": (3, "classes.null", lambda v: Classes(3, null=v)),
    "Model: shape": (8, "shape", lambda v: small_model(shape=(3, 8, v)).shape),
    "Model: defaults": (3, "steps", lambda v: dict(small_model(defaults={"steps": v}).defaults)),
    "Trained": (3, "trained.steps", lambda v: Trained("ddim", [v, 5])),
    "from_pretrained: steps": (2, "steps", lambda v: model_folder("digits", v)),
    "linear": (10, "num_timesteps", lambda v: schedules.linear(v).to_config()),
    "scaled_linear": (10, "num_timesteps", lambda v: schedules.scaled_linear(v).to_config()),
    "sigmoid": (10, "num_timesteps", lambda v: schedules.sigmoid(v).to_config()),
    "cosine": (10, "num_timesteps", lambda v: schedules.cosine(v).to_config()),
    "flow": (10, "num_timesteps", lambda v: schedules.flow(v).to_config()),
    "karras": (10, "num_timesteps", lambda v: schedules.karras(v).to_config()),
    "exponential": (10, "num_timesteps", lambda v: schedules.exponential(v).to_config()),
    "grid: columns": (3, "columns", lambda v: FOUR.grid(v).size),
    "train: steps": (3, "steps", lambda v: TrainConfig(steps=v)),
    "train: seed": (3, "seed", lambda v: TrainConfig(seed=v)),
    "distill: student_steps": (2, "student_steps", lambda v: DistillConfig(student_steps=v)),
}
FLOATS: dict[str, tuple[float, str, Callable[[Any], Any]]] = {
    "plan: guidance_scale": (2.5, "guidance_scale", lambda v: plan(guidance_scale=v)),
    "plan: guidance_rescale": (0.5, "guidance_rescale", lambda v: plan(guidance_scale=2.0, guidance_rescale=v)),
    "plan: strength": (0.5, "strength", lambda v: plan(strength=v)),
    "plan: eta": (0.5, "eta", lambda v: plan(eta=v)),
    "plan: clip": (0.5, "clip( limit)?", lambda v: plan(clip=v)),
    "plan: a clip by its parts": (0.5, "clip ratio", lambda v: plan(clip={"limit": 2.0, "ratio": v})),
    "plan: sigma_min": (0.5, "sigma_min", lambda v: plan(sampler="euler", spacing="karras", sigma_min=v)),
    "plan: rho": (2.5, "rho", lambda v: plan(sampler="euler", spacing="karras", rho=v)),
    "plan: timestep_scaling": (2.5, "timestep_scaling", lambda v: plan(sampler="lcm", timestep_scaling=v)),
    "plan: sigma_data": (
        0.25,
        "sigma_data",
        lambda v: rows(samplers.make_plan("consistency", CONSISTENCY, 2, sigma_data=v)),
    ),
    "sample: guidance_scale": (2.5, "guidance_scale", lambda v: drawn(labels=3, guidance_scale=v)),
    "sample: one of the scales": (2.5, "guidance_scale", lambda v: drawn(labels=[3, 4], guidance_scale=[v, 1.0])),
    "sample: guidance_rescale": (
        0.5,
        "guidance_rescale",
        lambda v: drawn(labels=3, guidance_scale=2.5, guidance_rescale=v),
    ),
    "sample: a number as a label": (
        0.5,
        "labels",
        lambda v: ANGLES.samples(labels=v, seeds=0)[0].condition["labels"].item(),
    ),
    "with_guidance": (2.5, "guidance_scale", lambda v: rows(ENGINE.plan(2).with_guidance(v))),
    "with_guidance: per call": (2.5, "guidance_scale", lambda v: rows(ENGINE.plan(2).with_guidance([v, 1.0]))),
    "with_guidance: rescale": (0.5, "guidance_rescale", lambda v: rows(ENGINE.plan(2).with_guidance(2.0, rescale=v))),
    "with_guidance: interval": (0.5, "interval", lambda v: rows(ENGINE.plan(2).with_guidance(2.0, interval=(v, 5.0)))),
    "Clip: limit": (0.5, "clip limit", lambda v: samplers.Clip(v)),
    "Clip: ratio": (0.5, "clip ratio", lambda v: samplers.Clip(1.0, v)),
    "Image": (0.5, "strength", lambda v: Image(0, v).strength),
    "Inpaint": (0.5, "strength", lambda v: Inpaint(0, 0, v).strength),
    "Numbers: min": (0.5, "numbers.min", lambda v: Numbers(v, 1.0)),
    "Numbers: max": (0.5, "numbers.max", lambda v: Numbers(0.0, v)),
    "ClassifierFree": (2.5, "guidance.default", lambda v: ClassifierFree(v)),
    "EmbeddedGuidance: min": (0.5, "guidance.min", lambda v: EmbeddedGuidance(v, 4.0, 1.5)),
    "EmbeddedGuidance: max": (4.5, "guidance.max", lambda v: EmbeddedGuidance(1.0, v, 1.5)),
    "EmbeddedGuidance: default": (2.5, "guidance.default", lambda v: EmbeddedGuidance(1.0, 4.0, v)),
    "linear: beta_end": (0.25, "beta_end", lambda v: schedules.linear(10, beta_end=v).to_config()),
    "cosine: s": (0.25, "s", lambda v: schedules.cosine(10, s=v).to_config()),
    "flow: shift": (2.5, "shift", lambda v: schedules.flow(10, shift=v).to_config()),
    "karras: sigma_max": (2.5, "sigma_max", lambda v: schedules.karras(10, sigma_max=v).to_config()),
    "exponential: sigma_min": (0.25, "sigma_min", lambda v: schedules.exponential(10, sigma_min=v).to_config()),
    "from_betas": (0.25, "betas", lambda v: schedules.from_betas([v, 0.5]).to_config()),
    "from_alphas_cumprod": (0.75, "alphas_cumprod", lambda v: schedules.from_alphas_cumprod([v, 0.5]).to_config()),
    "train: learning_rate": (0.25, "learning_rate", lambda v: TrainConfig(learning_rate=v)),
    "distill: guidance": (0.5, "guidance", lambda v: DistillConfig(guidance=(v, 2.0))),
}
SCALARS: dict[str, Callable[[Any], Any]] = {
    "numpy": lambda v: np.asarray(v)[()],
    "narrow numpy": lambda v: np.int16(v) if isinstance(v, int) else np.float32(v),
    "an array": np.array,
    "torch": torch.tensor,
    "with a gradient": lambda v: torch.tensor(v, requires_grad=isinstance(v, float)),
}
NO_NUMBERS = (True, np.True_, torch.tensor(True), "2", b"2", np.str_("2"), [[2]], {"a": 2}, 2j)
NO_NUMBERS += (math.nan, math.inf, -math.inf, np.nan, torch.tensor(math.nan))


@pytest.mark.parametrize("name", [*INTEGERS, *FLOATS])
def test_numbers_of_numpy_and_torch_are_numbers(name: str) -> None:
    value, _, ask = (INTEGERS | FLOATS)[name]
    wanted = ask(value)
    for kind, scalar in SCALARS.items():
        found = ask(scalar(value))
        assert found == wanted, kind
        assert repr(found) == repr(wanted), kind  # in Python's own type, so that JSON can say it


@pytest.mark.parametrize("name", [*INTEGERS, *FLOATS])
def test_what_is_no_number_is_refused_by_name(name: str) -> None:
    """And by its value: one line that says both."""
    _, argument, ask = (INTEGERS | FLOATS)[name]
    refused = [*NO_NUMBERS, *([2.5, 2.0, np.float64(2.0)] if name in INTEGERS else [])]
    for value in refused:
        with pytest.raises(ArgumentError) as caught:
            ask(value)
        assert re.fullmatch(argument, caught.value.argument), value
        assert str(caught.value).startswith(f"{caught.value.argument}: got ")
        assert "\n" not in str(caught.value)


class Series:
    """As pandas' is: no sequence, but with an array inside."""

    def __init__(self, values: list[Any]) -> None:
        self._values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array(self._values, dtype=dtype)


LISTS: dict[str, Callable[[list[Any]], Any]] = {
    "a tuple": tuple,
    "numpy": np.array,
    "torch": torch.tensor,
    "numbers of numpy": lambda values: [np.asarray(v)[()] for v in values],
    "numbers of torch": lambda values: [torch.tensor(v) for v in values],
    "one by one": iter,
    "a series": Series,
}
PER_SAMPLE = {"seeds": [3, 2], "labels": [3, 2], "steps": [3, 2], "guidance_scale": [2.5, 2.0]}


@pytest.mark.parametrize("make", LISTS.values(), ids=LISTS)
@pytest.mark.parametrize("argument", PER_SAMPLE)
def test_one_per_sample_comes_in_any_kind_of_list(argument: str, make: Callable[[list[Any]], Any]) -> None:
    values = PER_SAMPLE[argument]
    beside = {"labels": [1, 2]} if argument == "guidance_scale" else {}
    assert drawn(**beside, **{argument: make(values)}) == drawn(**beside, **{argument: values})


@pytest.mark.parametrize("make", LISTS.values(), ids=LISTS)
def test_other_lists_of_numbers_come_in_any_kind_too(make: Callable[[list[Any]], Any]) -> None:
    assert plan(spacing=make([700, 100])) == plan(spacing=[700, 100])
    assert rows(ENGINE.plan(2).with_guidance(make([2.5, 1.0]))) == rows(ENGINE.plan(2).with_guidance([2.5, 1.0]))
    assert schedules.from_betas(make([0.25, 0.5])).to_config() == schedules.from_betas([0.25, 0.5]).to_config()
    assert small_model(shape=make([*SHAPE])).shape == SHAPE
    assert Trained("ddim", make([4, 2])) == Trained("ddim", (2, 4))


@pytest.mark.parametrize(
    ("argument", "bad"),
    [
        (name, bad)
        for name in PER_SAMPLE
        for bad in (True, "2", math.nan, 2.5)
        if (name, bad) != ("guidance_scale", 2.5)
    ],
)
def test_one_bad_entry_is_enough(argument: str, bad: Any) -> None:
    with pytest.raises(ArgumentError, match=argument):
        ENGINE.sample(**({"labels": [1, 2]} | {argument: [PER_SAMPLE[argument][0], bad]}))


def test_a_number_too_large_for_a_float_is_refused() -> None:
    with pytest.raises(ArgumentError, match="guidance_scale: got 1000"):
        ENGINE.plan(guidance_scale=10**400)
    engine = Engine(small_model(SmallNet()), device="cpu", max_batch=np.int64(4))  # type: ignore[arg-type]
    assert type(engine._bounds.max_batch) is int
    assert engine.sample(seeds=np.uint64(2**64 - 1)).seeds == [2**64 - 1]
