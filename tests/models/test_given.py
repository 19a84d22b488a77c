"""What a caller says of a model stands in place of what its folder says, which is then not asked."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerDiscreteScheduler,
    IPNDMScheduler,
    UNet2DModel,
    UniPCMultistepScheduler,
)

from fewstep import Classes, Engine, Model, schedules
from fewstep.errors import ArgumentError
from fewstep.models.load import load_model, save_model
from support.diffusers_case import SMALL, random_model
from support.loading_case import CONFIG, SPEC, refusal
from support.unet_case import random_unet

FOUR: dict[str, Any] = {"sampler": "ddim", "steps": 4}


@pytest.fixture(scope="module")
def model() -> UNet2DModel:
    return random_model(SMALL)


def pipeline(folder: Path, model: UNet2DModel, scheduler: Any) -> Path:
    DDPMPipeline(model, DDPMScheduler()).save_pretrained(folder)
    scheduler.save_pretrained(folder / "scheduler")
    return folder


def test_all_of_the_sampling_can_be_given(model: UNet2DModel, tmp_path: Path) -> None:
    folder = pipeline(tmp_path, model, DDPMScheduler())
    engine = Engine.from_pretrained(
        folder, device="cpu", schedule=schedules.cosine(200), prediction="v", defaults=FOUR | {"eta": 0.5}
    )
    assert engine.model.prediction == "v"
    assert engine.model.schedule.to_config()["name"] == "cosine"
    alone = Model(engine.model.module, schedule=schedules.cosine(200), prediction="v", shape=(3, 8, 8))
    expected = Engine(alone, device="cpu").sample(1, steps=4, eta=0.5, seeds=0).images
    assert torch.equal(engine.sample(1, seeds=0).images, expected)


def test_a_plan_of_ones_own_replaces_a_scheduler_without_a_sampler(model: UNet2DModel, tmp_path: Path) -> None:
    folder = pipeline(tmp_path, model, DPMSolverSinglestepScheduler(beta_end=0.01, prediction_type="v_prediction"))
    file = folder / "scheduler" / "scheduler_config.json"
    message = refusal(lambda: Engine.from_pretrained(folder))
    assert message.startswith(
        f"{file}: _class_name: got 'DPMSolverSinglestepScheduler', whose sampler fewstep does not"
    )
    engine = Engine.from_pretrained(folder, device="cpu", defaults=FOUR)
    assert engine.model.prediction == "v"
    assert engine.model.schedule.to_config()["beta_end"] == 0.01


def test_a_scheduler_that_is_unknown_or_broken_is_not_asked(model: UNet2DModel, tmp_path: Path) -> None:
    folder = pipeline(tmp_path, model, IPNDMScheduler())
    assert "which is not known" in refusal(lambda: Engine.from_pretrained(folder, defaults=FOUR))
    given: dict[str, Any] = {"schedule": schedules.flow(), "prediction": "flow"}
    engine = Engine.from_pretrained(folder, device="cpu", defaults={"sampler": "euler", "steps": 3}, **given)
    assert engine.plan().sampler == "euler"
    (folder / "scheduler" / "scheduler_config.json").write_text("<html>")
    assert len(Engine.from_pretrained(folder, device="cpu", defaults=FOUR, **given).plan()) == 4
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": "PNDMPipeline"}))
    assert "_class_name: got 'PNDMPipeline'; supported: DDPMPipeline" in refusal(lambda: Engine.from_pretrained(folder))
    assert len(Engine.from_pretrained(folder, device="cpu", defaults=FOUR, **given).plan()) == 4


@pytest.mark.parametrize(
    ("scheduler", "field"),
    [
        (DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"), "use_flow_sigmas"),
        (UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="epsilon"), "use_flow_sigmas"),
        (DPMSolverMultistepScheduler(prediction_type="flow_prediction"), "prediction_type"),
        (
            EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction", sigma_max=700.0),
            "timestep_type",
        ),
    ],
    ids=["a flow", "a flow of eps", "a flow by its prediction", "another time"],
)
def test_a_scheduler_of_other_noise_than_its_betas_asks_for_the_schedule(
    scheduler: Any, field: str, model: UNet2DModel, tmp_path: Path
) -> None:
    folder = pipeline(tmp_path, model, scheduler)
    file = folder / "scheduler" / "scheduler_config.json"
    euler = {"sampler": "euler", "steps": 4}
    for given in ({"defaults": euler}, {"defaults": euler, "prediction": "flow"}):
        assert refusal(lambda given=given: Model.from_pretrained(folder, **given)).startswith(f"{file}: {field}: got")  # type: ignore[misc]
    said = Model.from_pretrained(folder, schedule=schedules.flow(1000, shift=3), prediction="flow", defaults=euler)
    assert said.schedule.kind == "flow"
    if field == "timestep_type":
        timed = Model.from_pretrained(folder, time="edm", defaults=euler)
        assert (timed.time, timed.prediction) == ("edm", "v")


def test_a_default_plan_fits_the_schedule_that_is_given(model: UNet2DModel, tmp_path: Path) -> None:
    folder = pipeline(tmp_path, model, DDPMScheduler(steps_offset=1))
    assert len(Engine.from_pretrained(folder, device="cpu").plan()) == 999
    short = Engine.from_pretrained(folder, device="cpu", schedule=schedules.linear(30))
    np.testing.assert_array_equal(short.plan().column("t"), np.arange(29, 0, -1))
    bare = Engine.from_pretrained(folder / "unet", device="cpu", schedule=schedules.linear(30))
    assert len(bare.plan()) == 30


def test_the_plan_of_an_own_folder_fits_the_schedule_that_is_given(tmp_path: Path) -> None:
    def steps(**given: Any) -> int:
        return len(Engine.from_pretrained(tmp_path, device="cpu", **given).plan())

    save_model(tmp_path, random_unet(CONFIG), replace(SPEC, plan={"sampler": "ddim", "steps": 50}))
    assert [steps(schedule=schedules.cosine(length)) for length in (1, 20, 50, 1000)] == [1, 20, 50, 50]
    assert steps(schedule=schedules.cosine(20), defaults={"steps": 7}) == 7
    leading = {"sampler": "ddim", "steps": 50, "spacing": "leading", "offset": 1}
    save_model(tmp_path, random_unet(CONFIG), replace(SPEC, plan=leading), overwrite=True)
    assert steps(schedule=schedules.cosine(20)) == 19
    assert len(Engine.from_pretrained("digits/teacher", device="cpu", schedule=schedules.cosine(20)).plan()) == 20


def test_what_a_folder_says_is_its_fault_and_what_is_given_is_not(tmp_path: Path) -> None:
    save_model(tmp_path, random_unet(CONFIG), SPEC)
    file = tmp_path / "fewstep.json"
    said = json.loads(file.read_text())
    file.write_text(json.dumps(said | {"plan": {"sampler": "ddim", "steps": 4, "stepz": 3}}))
    assert refusal(lambda: Model.from_pretrained(tmp_path, name="mine")).startswith(f"{file}: plan: option of ddim")
    assert refusal(lambda: Model.from_pretrained(tmp_path, defaults={"steps": "x"})).startswith("defaults: steps: got")


def test_what_is_assumed_is_only_what_is_not_given(model: UNet2DModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    cosine = schedules.cosine(100).to_config()
    for given, note in (
        ({}, ("a linear schedule of 1000 steps and eps prediction are assumed",)),
        ({"schedule": cosine}, ("eps prediction are assumed",)),
        ({"schedule": cosine, "prediction": "v"}, ()),
    ):
        _, spec = load_model(tmp_path, given=given)
        assert [text.split(": ")[1] for text in spec.notes] == list(note)


def test_a_size_that_the_folder_does_not_say_can_be_given(model: UNet2DModel, tmp_path: Path) -> None:
    random_model(SMALL | {"sample_size": None}).save_pretrained(tmp_path)
    message = refusal(lambda: Engine.from_pretrained(tmp_path))
    assert "sample_size: got None; allowed: an integer from 1, or from_pretrained(folder, shape=" in message
    engine = Engine.from_pretrained(tmp_path, device="cpu", shape=(3, 12, 8))
    assert engine.sample(1, steps=1).images.shape == (1, 3, 12, 8)
    assert "shape: got [3, 9, 8]; allowed: [3, H, W] with H and W multiples of 2" in refusal(
        lambda: Engine.from_pretrained(tmp_path, shape=(3, 9, 8))
    )


def test_conditions_can_be_given_within_what_the_network_has(tmp_path: Path) -> None:
    random_model(SMALL | {"num_class_embeds": 5}).save_pretrained(tmp_path)
    assert Engine.from_pretrained(tmp_path, device="cpu").model.conditions == Classes(5)
    null = Classes(4, null=4, names=("a", "b", "c", "d"))
    engine = Engine.from_pretrained(tmp_path, device="cpu", conditions=null, defaults=FOUR | {"guidance_scale": 2.0})
    assert engine.sample(labels=["b"], seeds=0).labels == [1]
    assert engine.plan().column("w").tolist() == [2.0] * 4
    for other in (Classes(6), None, Classes(5, null=5)):
        message = refusal(lambda other=other: Engine.from_pretrained(tmp_path, conditions=other))  # type: ignore[misc]
        assert message.startswith("conditions: got")
        assert "allowed: what the U-Net has, num_classes 5" in message


def test_an_own_folder_is_overridden_where_its_spec_alone_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path, random_unet(CONFIG), SPEC)
    file = tmp_path / "fewstep.json"
    said = json.loads(file.read_text())
    file.write_text(json.dumps(said | {"schedule": {"name": "of the future"}, "plan": {"sampler": "s", "steps": 2}}))
    assert "schedule: schedule name: got of the future" in refusal(lambda: Engine.from_pretrained(tmp_path))
    given: dict[str, Any] = {"schedule": schedules.linear(100), "defaults": {"steps": 2}}
    engine = Engine.from_pretrained(tmp_path, device="cpu", **given)
    assert (engine.plan().sampler, len(engine.plan())) == ("ddim", 2)
    assert engine.model.name == "tiny"
    assert Engine.from_pretrained(tmp_path, device="cpu", name="mine", **given).model.name == "mine"


def test_a_student_can_be_asked_for_other_plans(tmp_path: Path) -> None:
    student = replace(SPEC, trained={"sampler": "ddim", "steps": [4]})
    save_model(tmp_path, random_unet(CONFIG), student)
    with pytest.raises(ArgumentError) as caught:
        Engine.from_pretrained(tmp_path, defaults={"sampler": "ddim", "steps": 3})
    assert str(caught.value) == (
        "defaults: got ddim with 3 steps; allowed: ddim with 4 steps, which the model was trained for, or "
        "trained=None beside it for any plan"
    )
    with pytest.raises(
        ArgumentError, match=r"defaults: got ddim with 4 steps \(what they are unless they say a sampler"
    ):
        Engine.from_pretrained("digits/1-step", defaults={"clip": 1.0})
    assert len(Engine.from_pretrained(tmp_path, device="cpu", defaults={"steps": 4, "eta": 0.5}).plan()) == 4
    engine = Engine.from_pretrained(tmp_path, device="cpu", defaults={"steps": 3}, trained=None)
    assert len(engine.plan()) == 3


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"schedule": {"name": "linear"}}, "schedule: got {'name': 'linear'}; allowed: a Schedule, such as"),
        ({"prediction": "noise"}, "prediction: got 'noise'; allowed: eps, x_0, v"),
        ({"prediction": ["eps"]}, r"prediction: got ['eps']; allowed: eps, x_0, v"),
        ({"defaults": "ddim"}, "defaults: got 'ddim'; allowed: a dict such as {'sampler': 'ddim', 'steps': 4}"),
        ({"conditions": 10}, "conditions: got 10; allowed: fewstep.Classes"),
        ({"shape": 8}, "shape: got 8; allowed: positive integers"),
        ({"time": "hours"}, "time: got 'hours'; allowed: timestep"),
        ({"name": 3}, "name: got 3; allowed: a text"),
        ({"module": random_unet(CONFIG)}, "from_pretrained: got 'module'; allowed: schedule, shape, prediction"),
        ({"defaults": {"stepz": 3}}, "defaults: option of ddim: got 'stepz'; allowed: eta"),
        ({"defaults": {"steps": 101}}, "defaults: steps: got 101; allowed: "),
        ({"schedule": schedules.flow(), "time": "edm"}, "time: got edm on a flow schedule"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_given_is_checked_as_an_argument(given: dict[str, Any], reason: str, tmp_path: Path) -> None:
    save_model(tmp_path, random_unet(CONFIG), SPEC)
    with pytest.raises(ArgumentError) as caught:
        Model.from_pretrained(tmp_path, **given)
    assert str(caught.value).startswith(reason)


def test_what_the_network_is_told_as_its_time_can_be_given(model: UNet2DModel, tmp_path: Path) -> None:
    folder = pipeline(tmp_path, model, DDPMScheduler())
    sigmas: dict[str, Any] = {"schedule": schedules.karras(20), "prediction": "x_0", "defaults": {"sampler": "euler"}}
    with pytest.raises(ArgumentError, match="time"):
        Engine.from_pretrained(folder, device="cpu", **sigmas)
    engine = Engine.from_pretrained(folder, device="cpu", time="sigma", **sigmas)
    assert engine.model.time == "sigma"
    assert engine.plan(2).column("t")[0] == 80
    assert Engine.from_pretrained(folder, device="cpu", time="unit").plan(4).column("t")[0] == 0.75
    with pytest.raises(ArgumentError, match="time"):
        Engine.from_pretrained(folder, device="cpu", time="second")


def test_names_of_classes_can_be_given(tmp_path: Path) -> None:
    config = replace(CONFIG, num_classes=2)
    labels = {"kind": "classes", "count": 2, "null": None}
    save_model(tmp_path, random_unet(config), replace(SPEC, unet=config, labels=labels))
    given = Classes(2, names=("cat", "dog"))
    assert Model.from_pretrained(tmp_path, conditions=given).conditions == given
