"""Presets in requests and models: a name in place of settings, and a warning that can be followed where the user is."""

import pickle
import warnings
from typing import Any

import pytest
import torch

from fewstep import ArgumentError, Engine, Image, UntrainedPlanWarning, schedules
from fewstep.presets import PRESETS
from fewstep.results import Samples
from support.small import picture, small_engine, small_model

LATENT = schedules.scaled_linear()


def engine(**options: Any) -> Engine:
    return small_engine(**({"schedule": LATENT, "name": "net"} | options))


def sampled(request: dict[str, Any], **options: Any) -> Samples:
    return engine(**options).sample(labels=[1], seeds=0, **request)


def warned(request: dict[str, Any], **options: Any) -> list[UntrainedPlanWarning]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sampled(request, **options)
    found = [each.message for each in caught if isinstance(each.message, UntrainedPlanWarning)]
    assert len(found) == len(caught)
    assert all(each.filename == __file__ for each in caught)
    return found


def test_a_name_stands_for_its_settings() -> None:
    by_name = sampled({"plan": "lightning-4"})
    said = sampled({"sampler": "euler", "steps": 4, "spacing": "trailing"})
    assert torch.equal(by_name.images, said.images)
    assert by_name.plans[0].preset == "lightning-4"
    assert torch.equal(sampled({}, defaults="lightning-4").images, said.images)
    plan = engine().plan(preset="lightning-4")
    assert torch.equal(sampled({"plan": plan}).images, said.images)
    assert engine(defaults="lightning-4").model.trained == PRESETS["lightning-4"].trained


def test_each_sample_may_have_a_preset_of_its_own() -> None:
    both = engine().sample(labels=[1, 1], seeds=[0, 0], plan=["lightning-4", "dmd2-4"])
    for place, name in enumerate(("lightning-4", "dmd2-4")):
        assert both.plans[place].preset == name
        assert torch.allclose(both.images[place], sampled({"plan": name}).images[0], atol=1e-5)


def test_steps_and_options_beside_a_preset_count() -> None:
    assert warned({"plan": "lcm", "steps": 2}) == []
    assert warned({"plan": "tcd", "eta": 0.2, "steps": 7}) == []
    assert warned({"plan": "lcm-lora", "guidance_scale": 1.5}) == []
    assert len(sampled({"plan": "lcm", "steps": 2}).plans[0]) == 2
    assert sampled({"plan": "pcm-8-cfg"}).plans[0].column("w").tolist() == [3.0] * 8


FACT = "a model of lightning-4 was trained for euler with 4 steps and guidance_scale 1, and is asked for "
OF_NET = FACT.replace("a model of lightning-4", "net")


@pytest.mark.parametrize(
    ("request_", "asked", "advice", "instead"),
    [
        ({"guidance_scale": 7.5}, "guidance_scale 7.5", "ask for guidance_scale 1,", {"guidance_scale": "1"}),
        (
            {"guidance_scale": 0},
            "guidance_scale 0",
            "ask for guidance_scale 1 (what diffusers writes as 0),",
            {"guidance_scale": "1"},
        ),
        ({"steps": 3}, "euler with 3 steps", "ask for euler with 4 steps", {"steps": "4"}),
        (
            {"spacing": "leading"},
            "euler with 4 steps at other noise levels (leading spacing in place of trailing)",
            "leave the spacing as it is, trailing",
            {"spacing": "trailing"},
        ),
        (
            {"start": Image(picture(), 0.5)},
            "euler with 4 steps at other noise levels (strength below 1",
            "leave them as they are",
            {"strength": "1"},
        ),
    ],
    ids=["guided", "diffusers' 0", "3 steps", "leading", "strength"],
)
def test_a_wrong_setting_is_told_of_a_preset_and_of_a_model(
    request_: dict[str, Any], asked: str, advice: str, instead: dict[str, str]
) -> None:
    for said, found in (
        (FACT, warned({"plan": "lightning-4", **request_})),
        (OF_NET, warned(request_, defaults="lightning-4")),
    ):
        (warning,) = found
        assert warning.fact.startswith(said + asked)
        assert warning.advice.startswith(advice)
        assert warning.instead == instead
        assert "\n" not in str(warning)
        assert str(pickle.loads(pickle.dumps(warning))) == str(warning)


def test_another_sampler_and_guidance_are_told_each() -> None:
    sampler, guided = warned({"sampler": "lcm", "guidance_scale": 5}, defaults="lightning-4")
    assert sampler.fact.startswith(OF_NET + "lcm with 4 steps")
    assert guided.fact.startswith(OF_NET + "guidance_scale 5")
    (many,) = warned({"plan": "lightning-1", "steps": 8}, prediction="x_0")
    assert "euler with 1 step and guidance_scale 1, and is asked for euler with 8 steps" in many.fact


def test_a_student_of_ones_own_is_told_of_as_well() -> None:
    trained = {"sampler": "ddim", "steps": [4]}
    (own,) = warned({"plan": "lightning-4"}, trained=trained)
    assert own.fact.startswith("net was trained for ddim with 4 steps, and is asked for euler with 4 steps")


def test_the_warning_of_a_plan_points_at_its_line() -> None:
    with pytest.warns(UntrainedPlanWarning, match="is asked for euler with 3 steps") as caught:
        engine().plan(3, preset="lightning-4")
    assert caught[0].filename == __file__


def test_a_model_whose_own_plan_is_guided_wrongly_is_told_where_it_is_made() -> None:
    settings = {"defaults": {"sampler": "euler", "steps": 4, "guidance_scale": 7.5}}
    with pytest.warns(UntrainedPlanWarning, match="is asked for guidance_scale 7.5") as caught:
        small_model(schedule=LATENT, trained={"sampler": "euler", "steps": [4], "scales": [1, 1]}, **settings)
    assert "support" in caught[0].filename  # where small_model makes it


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"plan": "lightning-1"}, "plan: got lightning-1, for a network that predicts x_0; allowed: one for eps"),
        ({"plan": "meanflow"}, "plan: got meanflow, for a network that predicts flow; allowed: one for eps"),
        ({"plan": "lightnin"}, "did you mean 'lightning-"),
        ({"plan": "lcm", "sampler": "ddim"}, "sampler: got 'ddim'; allowed: nothing beside lcm, which says it already"),
        ({"plan": "lcm", "spacing": "even"}, "spacing: got 'even'"),
        ({"plan": []}, "plan: got 0 entries"),
        ({"plan": 4}, "plan: got 4; allowed: a Plan, such as Engine.plan makes, the name of a preset"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value,
)
def test_what_cannot_be_is_refused(request_: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError) as error:
        sampled(request_)
    assert said in str(error.value)


def test_a_plan_names_its_own_argument() -> None:
    with pytest.raises(ArgumentError, match=r"preset: got 'lightnin'; .* did you mean 'lightning-"):
        engine().plan(preset="lightnin")
    with pytest.raises(ArgumentError, match="preset: got lightning-1, for a network that predicts x_0"):
        engine().plan(preset="lightning-1")


def test_plans_and_names_are_not_mixed() -> None:
    with pytest.raises(
        ArgumentError, match=r"plan: got 'lcm'; allowed: a Plan, .*; beside plans Engine.plan\(preset='lcm'\)"
    ):
        engine().sample(labels=[1, 2], plan=[engine().plan(4), "lcm"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"defaults": "lightning-1"}, "defaults: got lightning-1, for a network that predicts x_0"),
        ({"defaults": "anyflow", "prediction": "flow"}, "defaults: got anyflow, for a schedule of kind flow"),
        ({"defaults": "lightning"}, "defaults: got 'lightning'; allowed: a dict such as"),
        ({"trained": {"sampler": "ddim", "steps": [4], "scales": [1]}}, r"trained.scales: got \[1\]"),
        ({"trained": {"sampler": "ddim", "steps": [4], "scales": [2, 1]}}, "trained.scales: got 1"),
    ],
)
def test_what_a_model_cannot_be_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        engine(**options)


def test_what_plan_calls_preset_is_plan_in_sample() -> None:
    with pytest.raises(ArgumentError, match="preset: got 'lcm'; allowed: nothing: it is said by plan='lightning-4'"):
        engine().sample(labels=[1], preset="lcm")
