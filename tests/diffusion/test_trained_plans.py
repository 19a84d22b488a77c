"""Distilled models and the plans they were trained for: others run, with a warning."""

import json
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch

from fewstep import ArgumentError, Engine, Image, Inpaint, ModelError, Trained, UntrainedPlanWarning
from fewstep.models.spec import ModelSpec
from support.cli_case import SPEC
from support.small import picture, small_engine

TRAINED = {"sampler": "ddim", "steps": [2, 4]}


def distilled(**options: Any) -> Engine:
    return small_engine(**({"trained": TRAINED, "name": "student"} | options))


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"steps": 2},
        {"guidance_scale": 2.0},
        {"start": Image(picture(), 1.0)},
        {"start": Inpaint(picture(), torch.ones(8, 8))},
    ],
    ids=["the default", "another listed", "guided", "full strength", "inpainting"],
)
def test_a_plan_it_was_trained_for_is_silent(request_: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distilled().sample(labels=[1], seeds=0, **request_)


@pytest.mark.parametrize(
    ("request_", "asked"),
    [
        ({"steps": 3}, "ddim with 3 steps"),
        ({"steps": 1}, "ddim with 1 step"),
        ({"sampler": "ddpm"}, "ddpm with 4 steps"),
        ({"start": Image(picture(), 0.5)}, "ddim with 4 steps at other noise levels"),
    ],
    ids=["steps", "one step", "sampler", "strength"],
)
def test_another_plan_warns_and_runs_all_the_same(request_: dict[str, Any], asked: str) -> None:
    with pytest.warns(UntrainedPlanWarning) as caught:
        samples = distilled().sample(labels=[1], seeds=0, **request_)
    message = str(caught[0].message)
    assert message.startswith(f"student was trained for ddim with 2 or 4 steps, and is asked for {asked}")
    assert "the model it was distilled from" in message
    assert "\n" not in message
    assert (len(caught), caught[0].filename) == (1, __file__)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(samples.images, small_engine().sample(labels=[1], seeds=0, **request_).images)


def test_a_plan_warns_where_it_is_made_and_where_it_is_given() -> None:
    engine = distilled()
    with pytest.warns(UntrainedPlanWarning, match="ddim with 4 steps at other noise levels") as caught:
        other = engine.plan(4, spacing="leading")
    assert caught[0].filename == __file__
    with pytest.warns(UntrainedPlanWarning, match="other noise levels"):
        engine.sample(labels=[1], plan=other)
    with pytest.warns(UntrainedPlanWarning, match="ddim with 5 steps") as caught:
        engine.sample(labels=[1, 2], plan=[small_engine().plan(5), engine.plan(4)])
    assert len(caught) == 1


def test_an_image_may_start_within_a_plan_it_was_trained_for() -> None:
    engine = distilled()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples = engine.sample(labels=[1], seeds=0, plan=engine.plan(4, eta=0.5), start=Image(picture(), 0.5))
    assert samples.model_calls == 2


@pytest.mark.parametrize(
    ("trained", "message"),
    [
        ({"sampler": "ddim", "steps": []}, "trained.steps: got"),
        ({"sampler": "ddim", "steps": [0]}, "trained.steps: got 0"),
        ({"sampler": "ddim", "steps": 4}, "trained.steps: got 4"),
        ({"sampler": "ddim"}, "trained: got .*; allowed: sampler and steps"),
        ({"sampler": "ddim", "steps": [8]}, "trained: got ddim with 8 steps; allowed: what lists the default plan"),
        ({"sampler": "lcm", "steps": [4]}, "trained: got lcm with 4 steps"),
    ],
)
def test_what_cannot_have_been_trained_is_refused(trained: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        distilled(trained=trained)


def test_it_reads_as_one_says_it() -> None:
    assert str(Trained("lcm", (8, 1, 2, 2))) == "lcm with 1, 2 or 8 steps"
    assert str(Trained("lcm", (1,))) == "lcm with 1 step"


def spec(**changes: Any) -> ModelSpec:
    return replace(SPEC, **({"trained": {"sampler": "ddim", "steps": [2]}} | changes))


def test_a_spec_of_a_distilled_model_survives_json() -> None:
    assert ModelSpec.from_dict(json.loads(json.dumps(spec().to_dict()))) == spec()
    older = {name: value for name, value in SPEC.to_dict().items() if name not in ("trained", "guidance")}
    assert ModelSpec.from_dict(older).trained is None


@pytest.mark.parametrize(
    ("trained", "message"),
    [
        (
            {"sampler": "ddim", "steps": [4]},
            "trained: got ddim with 4 steps; allowed: what lists the plan of the model",
        ),
        ({"sampler": "ddim", "steps": []}, "trained: trained.steps: got"),
        ({"sampler": "ddim", "steps": [True]}, r"trained: steps\[0\]: got True"),
        ({"sampler": "ddim", "steps": [2.0]}, r"trained: steps\[0\]: got 2\.0"),
        ({"sampler": "ddim", "steps": [2], "seed": 1}, "trained: unknown field 'seed'"),
        ({"steps": [2]}, "trained: sampler: is missing"),
        ([2], r"trained: got \[2\]; allowed: an object"),
    ],
)
def test_a_spec_that_says_it_wrongly_is_refused(trained: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        spec(trained=trained)
