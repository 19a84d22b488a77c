"""Arguments of every form that people have them in; and one line where there is no sense in them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fewstep import ArgumentError, Classes, ClassifierFree, Engine, Resume, Sample, Step
from fewstep.run.modules import own_module
from support.small import SHAPE, SmallNet, StyledNet, small_engine, small_model

SAME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "labels of numpy": ({"labels": np.array([3, 4]), "seeds": 0}, {"labels": [3, 4], "seeds": 0}),
    "labels of torch": ({"labels": torch.tensor([3, 4]), "seeds": 0}, {"labels": [3, 4], "seeds": 0}),
    "one label for all": ({"labels": 3, "seeds": [0, 1]}, {"labels": [3, 3], "seeds": [0, 1]}),
    "a label of torch": ({"labels": torch.tensor(3), "seeds": 0}, {"labels": [3], "seeds": 0}),
    "labels one by one": ({"labels": (i for i in (3, 4)), "seeds": 0}, {"labels": [3, 4], "seeds": 0}),
    "a range of seeds": ({"labels": [1, 2], "seeds": range(5, 7)}, {"labels": [1, 2], "seeds": 5}),
    "seeds of numpy": ({"seeds": np.arange(2)}, {"seeds": [0, 1]}),
    "seeds of torch": ({"seeds": torch.arange(2)}, {"seeds": [0, 1]}),
    "a seed of numpy": ({"n": np.int64(2), "seeds": np.int64(3)}, {"n": 2, "seeds": 3}),
    "seeds one by one": ({"seeds": (i for i in (3, 4))}, {"seeds": [3, 4]}),
    "scales of numpy": (
        {"seeds": [0, 1], "guidance_scale": np.array([1.0, 2.0])},
        {"seeds": [0, 1], "guidance_scale": [1.0, 2.0]},
    ),
    "a scale of torch": ({"seeds": 0, "guidance_scale": torch.tensor(2.0)}, {"seeds": 0, "guidance_scale": 2.0}),
    "noise of numpy": (
        {"seeds": 0, "noise": np.ones((1, *SHAPE), np.float32)},
        {"seeds": 0, "noise": torch.ones(1, *SHAPE)},
    ),
    "noise of numpy, one per sample": (
        {"n": 2, "seeds": 0, "noise": [np.ones(SHAPE, np.float64)] * 2},
        {"n": 2, "seeds": 0, "noise": torch.ones(2, *SHAPE)},
    ),
    "noise of another byte order": (
        {"seeds": 0, "noise": np.ones((1, *SHAPE), np.dtype("f8").newbyteorder())},
        {"seeds": 0, "noise": torch.ones(1, *SHAPE, dtype=torch.float64)},
    ),
    "noise of longer floats, backwards": (
        {"seeds": 0, "noise": np.arange(192, dtype=np.longdouble).reshape(1, *SHAPE)[:, ::-1] / 192},
        {"seeds": 0, "noise": torch.arange(192, dtype=torch.float64).reshape(1, *SHAPE).flip(1) / 192},
    ),
    "a condition of other byte orders and longer floats": (
        {
            "seeds": 0,
            "condition": {
                "style": (np.full((1, 3), 0.7, np.dtype("f4").newbyteorder()), np.zeros((1, 3), np.longdouble))
            },
            "guidance_scale": 2.0,
        },
        {"seeds": 0, "condition": {"style": (torch.full((1, 3), 0.7), torch.zeros(1, 3))}, "guidance_scale": 2.0},
    ),
    "labels of 16 bits in a condition": (
        {"seeds": 0, "condition": {"labels": np.array([3], np.uint16)}},
        {"seeds": 0, "condition": {"labels": torch.tensor([3])}},
    ),
    "labels of 64 bits in a condition": (
        {"seeds": 0, "condition": {"labels": np.array([3], np.uint64)}},
        {"seeds": 0, "condition": {"labels": torch.tensor([3])}},
    ),
    "labels of a dict": ({"labels": {"one": 3, "other": 4}.values(), "seeds": 0}, {"labels": [3, 4], "seeds": 0}),
    "a condition of numpy": (
        {"seeds": 0, "condition": {"style": (np.ones((1, 3)), np.zeros((1, 3)))}, "guidance_scale": 2.0},
        {"seeds": 0, "condition": {"style": (torch.ones(1, 3), torch.zeros(1, 3))}, "guidance_scale": 2.0},
    ),
    "labels of numpy in a condition": (
        {"seeds": 0, "condition": {"labels": np.array([3])}},
        {"seeds": 0, "condition": {"labels": torch.tensor([3])}},
    ),
    "steps of numpy": ({"seeds": 0, "steps": np.int64(3)}, {"seeds": 0, "steps": 3}),
}


@pytest.mark.parametrize(("given", "plain"), SAME.values(), ids=SAME)
def test_arrays_tensors_and_ranges_are_lists(given: dict[str, Any], plain: dict[str, Any]) -> None:
    engine = small_engine(StyledNet(), device="cpu")
    found, wanted = engine.sample(**given), engine.sample(**plain)
    assert torch.equal(found.images, wanted.images)
    assert (found.seeds, found.labels) == (wanted.seeds, wanted.labels)
    json.dumps(engine.manifest())  # its words are plain numbers


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a word for labels": ({"labels": "seven"}, "labels: got 'seven'; allowed: integers from 0 to 9"),
    "a table of labels": ({"labels": torch.zeros(2, 2)}, "labels: got "),
    "more labels than samples": ({"n": 2, "labels": [1, 2, 3]}, "labels: got 3 samples; allowed: 2, as n says"),
    "labels twice": ({"labels": [3], "condition": {"labels": torch.tensor([3])}}, r"condition\['labels'\]: got"),
    "a seed of half": ({"seeds": 3.5}, "seeds: got 3.5"),
    "a seed of true": ({"seeds": True}, "seeds: got True"),
    "noise of a number": ({"noise": 5}, "noise: got 5; allowed: floats"),
    "a condition of a list": (
        {"labels": [1], "condition": {"style": [1, 2, 3]}},
        r"condition\['style'\]: got 'list'; allowed: a tensor with 1 rows",
    ),
    "a condition of no name": ({"labels": [1], "condition": {5: torch.ones(1, 3)}}, "condition: got 5; allowed: what"),
    "a plan of a number": ({"plan": 5}, "plan: got 5; allowed: a Plan"),
    "a callback of a number": ({"callback": 5}, "callback: got 5; allowed: a function"),
    "two shapes": (
        {"labels": [1], "condition": {"ctx": (torch.ones(1, 3), torch.ones(1, 2))}, "guidance_scale": 2.0},
        r"condition\['ctx'\]: got shapes \(1, 3\) and \(1, 2\)",
    ),
    "two dtypes": (
        {"labels": [1], "condition": {"style": (np.ones((1, 3), int), np.full((1, 3), 0.7))}, "guidance_scale": 2.0},
        r"condition\['style'\]: got torch.int64 and torch.float32; allowed: two tensors of one dtype, or two of floats",
    ),
    "integers beyond int64": (
        {"condition": {"labels": np.array([2**64 - 1], np.uint64)}},
        r"condition\['labels'\]: got integers of 2\^63 or more; allowed: integers below 2\^63",
    ),
    "a rescale of false": (
        {"labels": [1], "guidance_rescale": False},
        "guidance_rescale: got False; allowed: a number",
    ),
    "a schedule": ({"labels": [1], "schedule": "linear"}, "schedule: got 'linear'; allowed: nothing"),
    "a prediction": ({"labels": [1], "prediction": "v"}, "prediction: got 'v'; allowed: nothing"),
    "an option called scale": ({"labels": [1], "scale": 3.0}, "scale"),
}


@pytest.mark.parametrize(("given", "message"), REFUSED.values(), ids=REFUSED)
def test_what_makes_no_sense_is_one_line(given: dict[str, Any], message: str) -> None:
    net = SmallNet()
    engine = small_engine(net, device="cpu")
    engine.sample(labels=[1], guidance_scale=3.0)
    calls = len(net.calls)
    with pytest.raises(ArgumentError, match=message) as caught:
        engine.sample(**given)
    assert "\n" not in str(caught.value)
    assert len(net.calls) == calls


def test_too_many_lanes_are_refused_before_anything_runs() -> None:
    net = SmallNet()
    with pytest.raises(ArgumentError, match="max_batch: got 1"):
        small_engine(net, max_batch=1, device="cpu").sample(labels=[1, 2, 3], guidance_scale=[1.0, 1.0, 3.0])
    assert net.calls == []


def test_a_default_scale_is_said_once() -> None:
    with pytest.raises(ArgumentError, match=r"defaults: got .*guidance_scale"):
        small_model(guidance=ClassifierFree(3.0), defaults={"guidance_scale": 2.0})


def test_one_plan_for_all_stays_one_plan() -> None:
    engine = small_engine(device="cpu")
    samples = engine.sample(labels=[1, 2], plan=engine.plan(2), guidance_scale=2.0)
    assert len({id(plan) for plan in samples.plans}) == 1
    assert samples.guidance_scale_of() == 2.0
    assert engine.manifest() == [{"n": 2, "steps": 2, "sampler": "ddim", "guidance_scale": 2.0}]
    three = engine.sample(labels=[1, 2, 3], guidance_scale=[1.0, 1.0, 3.0], seeds=0)
    assert three.guidance_scale_of() == [1.0, 1.0, 3.0]


def test_each_batch_is_listed_in_words_of_its_own() -> None:
    engine = small_engine(device="cpu", max_batch=2)
    engine.sample(labels=[1, 2, 3, 4], steps=[4, 4, 8, 8], seeds=0)
    assert [entry["steps"] for entry in engine.manifest()] == [4, 8]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_noise_of_another_dtype_does_not_spread(dtype: torch.dtype) -> None:
    engine = small_engine(device="cpu")
    z = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    wanted = engine.sample(labels=[1], seeds=0, noise=z.float(), sampler="ddpm").images
    assert torch.equal(engine.sample(labels=[1], seeds=0, noise=z.to(dtype), sampler="ddpm").images, wanted)


def test_kept_samples_of_another_kind_are_refused_or_recorded_as_they_are() -> None:
    engine, kept = small_engine(device="cpu"), list[Sample]()

    def keep(step: Step) -> bool:
        kept.extend(step.state(sample) for sample in step.samples)
        return False

    engine.sample(labels=[3], seeds=0, callback=keep)
    engine.sample(1, seeds=1, callback=keep)
    assert engine.sample(start=Resume(kept[:1])).labels == [3]
    assert engine.sample(start=Resume(kept)).labels is None
    with pytest.raises(ArgumentError, match=r"start: got a sample of shape \[3, 8, 8\]; allowed: \[3, 4, 16\]"):
        small_engine(device="cpu", shape=(3, 4, 16)).sample(start=Resume(kept))
    student = small_engine(StyledNet(), device="cpu", guidance={"min": 1.0, "max": 4.0, "default": 1.5})
    with pytest.raises(ArgumentError, match="start: got a sample without guidance"):
        student.sample(start=Resume(kept))


class Dropping(nn.Module):
    """Its mode shows."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(self.inner(x), 0.5, self.training)


def wrapped() -> nn.Module:
    module = Dropping()
    plain = module.forward
    module.forward = lambda x: plain(x) + 1  # type: ignore[method-assign]
    return module


class Guarded(nn.Linear):
    """Sets no attribute that it does not know."""

    def __setattr__(self, name: str, value: object) -> None:
        if name == "__dict__":
            raise TypeError(name)
        super().__setattr__(name, value)


UNUSUAL: dict[str, Callable[[], nn.Module]] = {
    "traced by fx": lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))),
    "scripted": lambda: torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))),
    "scripted inside": lambda: nn.Sequential(torch.jit.script(nn.Linear(4, 4)), nn.Dropout(0.5)),
    "with a guard": lambda: Guarded(4, 4),
    "parametrised": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
}


@pytest.mark.parametrize("make", UNUSUAL.values(), ids=UNUSUAL)
@pytest.mark.parametrize("dtype", [None, torch.float64], ids=["as it is", "float64"])
def test_modules_of_every_kind_stay_as_they_are_and_run_evaluated(
    make: Callable[[], nn.Module], dtype: torch.dtype | None
) -> None:
    module = make().train()
    own = own_module(module, torch.device("cpu"), dtype)
    assert module.training
    assert not own.training
    assert all(p.dtype == torch.float32 for p in module.parameters())
    x = torch.ones(64, 4, dtype=dtype or torch.float32)
    assert torch.equal(own(x), own(x))


def test_a_module_wrapped_on_the_instance_has_to_be_in_evaluation_mode() -> None:
    module = wrapped().train()
    with pytest.raises(ArgumentError, match=r"module: got .* wrapped on the instance; .* call \.eval\(\) first"):
        own_module(module, torch.device("cpu"))
    own, x = own_module(module.eval(), torch.device("cpu")), torch.ones(3, 4)
    assert torch.equal(own(x), module(x))


def test_what_was_exported_runs_in_the_mode_it_was_made_in() -> None:
    plain, x = nn.Linear(4, 4).eval(), torch.ones(3, 4)
    exported = torch.export.export(plain, (x,)).module()
    assert torch.equal(own_module(exported, torch.device("cpu"))(x), plain(x))


@pytest.mark.parametrize(
    ("scales", "taken"),
    [(lambda: iter([1.0, 1.0]), [1.0, 1.0]), (lambda: [None, None], [1.5, 1.5]), (lambda: [None, 1.0], [1.5, 1.0])],
    ids=["one by one", "none", "one"],
)
def test_scales_that_change_nothing_are_read_once_and_cost_no_images(
    scales: Callable[[], Any], taken: list[float]
) -> None:
    engine = small_engine(device="cpu")
    wanted = engine.sample(labels=[1, 2], seeds=0).images
    assert torch.equal(engine.sample(labels=[1, 2], seeds=0, guidance_scale=scales()).images, wanted)
    student = small_engine(StyledNet(), device="cpu", guidance={"min": 1.0, "max": 4.0, "default": 1.5})
    assert student.sample(labels=[1, 2], seeds=0, guidance_scale=scales()).guidance_scales == taken
    json.dumps([engine.manifest(), student.manifest()])


def test_a_kept_label_that_is_no_class_has_no_name(tmp_path: Path) -> None:
    engine = small_engine(device="cpu", conditions=Classes(10, null=10, names=tuple("abcdefghij")))
    kept: list[Sample] = []
    for label in (10, 3):
        engine.sample(
            1, seeds=0, condition={"labels": torch.tensor([label])}, callback=lambda step: kept.append(step.state(0))
        )
    found = engine.sample(start=Resume([kept[0], kept[4]]))
    assert (found.labels, found.label_names) == ([10, 3], [None, "d"])
    assert [found.parameters_of(place)["label"] for place in range(2)] == ["10", "d"]
    found.save(tmp_path / "both.png")


@pytest.mark.parametrize("flags", [{"guidance_rescale": False}, {"guidance_scale": True}], ids=["rescale", "scale"])
def test_true_and_false_are_no_scales_whatever_was_asked_before(flags: dict[str, Any]) -> None:
    engine = small_engine(device="cpu")
    plan = engine.plan(guidance_scale=1.0, guidance_rescale=0.0)
    engine.sample(2, seeds=0, plan=plan, guidance_scale=1.0, guidance_rescale=0.0)
    (name,) = flags
    with pytest.raises(ArgumentError, match=f"{name}: got (True|False)"):
        engine.plan(**flags)
    with pytest.raises(ArgumentError, match=f"{name}: got (True|False)"):
        engine.sample(2, seeds=0, plan=plan, **flags)
    with pytest.raises(ArgumentError, match="guidance_scale: got True"):
        engine.sample(2, seeds=0, plan=plan, guidance_scale=[1.0, True])


def test_a_pause_within_a_pause_does_not_end_it() -> None:
    engine: Engine = small_engine(device="cpu")
    with engine._seen.paused():
        with engine._seen.paused():
            pass
        engine.sample(1, seeds=0)
    assert engine.manifest() == []


OF_ANOTHER_KIND: dict[str, tuple[Callable[[Engine], object], str]] = {
    "a device": (lambda engine: small_engine(device=True), "device: got 'True'; allowed: cpu"),
    "a runner": (lambda engine: small_engine(device="cpu", runner=5), "runner: got 5; allowed: auto, eager, graph"),
    "defaults": (lambda engine: small_model(defaults="ddim"), "defaults: got 'ddim'; allowed: a dict"),
    "features": (lambda engine: engine.session(1, features="known"), "features: got 'known'; allowed: a list of"),
    "like": (lambda engine: engine.session(1, like=[5]), r"like: got \[5\]; allowed: samples"),
    "what is kept": (lambda engine: engine.sample(start=Resume(5)), r"start: got 'Resume\(5\)'; allowed: samples"),
    "requests": (lambda engine: engine.warm_up(5), "requests: got 5; allowed: a list of mappings"),
    "a request": (lambda engine: engine.warm_up([5]), r"requests: got \[5\]; allowed: a list of mappings"),
    "a request's count": (lambda engine: engine.warm_up([{"n": "2"}]), r"requests\[0\]: n: got '2'; allowed: 1 to"),
    "a session to warm up": (
        lambda engine: engine.warm_up([{"session": 3}]),
        r"requests\[0\]: session: got 3; allowed",
    ),
    "one without slots": (lambda engine: engine.warm_up([{"session": {}}]), r"\[0\]: session: got {}; .* has slots"),
    "a list of options": (lambda engine: engine.warm_up([{"options": [1]}]), r"\[0\]: options: got \[1\]; allowed"),
    "no options": (lambda engine: engine.warm_up([{}, {"options": None}]), r"\[1\]: options: got None; allowed"),
    "a name of a number": (lambda engine: engine.warm_up([{1: 2}]), r"requests: got \[{1: 2}\]; allowed: a list of"),
    "far too many": (lambda engine: engine.warm_up([{"n": 10**12}]), r"\[0\]: n: got 1000000000000; allowed: 1 to"),
    "fewer than none": (lambda engine: engine.warm_up([{"n": -1, "noise": True}]), r"\[0\]: n: got -1; allowed: 1 to"),
    "who is admitted": (lambda engine: engine.session(1).admit("a"), "sample: got 'a'; allowed: what Engine.samples"),
    "a list of who is": (
        lambda engine: engine.session(1).admit(engine.samples(1)),
        r"sample: got \[Sample.*one argument",
    ),
    "a column": (lambda engine: engine.plan().column("kx"), "column: got 'kx'; .*did you mean 'k_x'"),
}


@pytest.mark.parametrize(("call", "message"), OF_ANOTHER_KIND.values(), ids=OF_ANOTHER_KIND)
def test_what_is_of_another_kind_is_told_what_is_allowed(call: Callable[[Engine], object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        call(small_engine(device="cpu"))
