"""Students that take the guidance scale as an input: who gets which scale, and what it can no longer be."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewstep import ArgumentError, EmbeddedGuidance, Engine, ModelError
from fewstep.evaluate.features import SHAPE as DIGITS
from fewstep.evaluate.run import model_bound
from fewstep.models.load import load_model, save_model
from fewstep.models.net.build import build_unet
from fewstep.models.net.unet import UNet
from fewstep.models.spec import ModelSpec
from fewstep.run.graphs import GraphRunner
from support.cli_case import SPEC
from support.recorder import RecorderCapturer
from support.small import SHAPE, SmallNet, small_engine
from support.unet_case import CONFIGS, arguments, random_unet

GUIDANCE = {"min": 1.0, "max": 4.0, "default": 1.5}


class Student(SmallNet):
    """Answers with something that the scale changes, and remembers the scales it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.scales: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None, guidance: Tensor | None = None) -> Tensor:
        assert guidance is not None
        self.scales.append(guidance.clone())
        return super().forward(x, t, labels) * guidance[:, None, None, None].to(x.dtype)


def student_engine(net: nn.Module | None = None, **options: Any) -> Engine:
    return small_engine(net or Student(), **({"guidance": GUIDANCE} | options))


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_a_student_begins_as_its_teacher_at_every_scale(name: str) -> None:
    teacher, values = random_unet(CONFIGS[name]), arguments(CONFIGS[name])
    student = build_unet(replace(CONFIGS[name], guidance_range=(1.0, 4.0))).eval()
    missing, unexpected = student.load_state_dict(teacher.state_dict(), strict=False)
    assert not unexpected
    assert {key.split(".")[0] for key in missing} == {"guidance"}
    for guidance in (torch.tensor([1.0, 2.5, 4.0]), torch.full((3,), 1.7, dtype=torch.float64)):
        assert torch.equal(student(**values, guidance=guidance), teacher(**values))


@torch.no_grad()
def test_guidance_steers_a_trained_student_sample_by_sample() -> None:
    config = replace(CONFIGS["classes"], guidance_range=(1.0, 4.0))
    unet, values = random_unet(config), arguments(config)
    one, other = (unet(**values, guidance=torch.tensor(scales)) for scales in ([1.0, 2.0, 3.0], [1.0, 2.5, 3.0]))
    assert ((one - other).abs().amax(dim=(1, 2, 3)) > 1e-4).tolist() == [False, True, False]
    ahead = unet.modulation(values["t"], values["labels"], torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(unet(values["x"], values["t"], modulation=ahead), one)


def test_a_seed_gives_the_weights_it_gives_without_guidance() -> None:
    torch.manual_seed(5)
    plain = UNet(CONFIGS["classes"]).state_dict()
    torch.manual_seed(5)
    student = UNet(replace(CONFIGS["classes"], guidance_range=(0.0, 1.0))).state_dict()
    assert all(torch.equal(student[name], tensor) for name, tensor in plain.items())
    assert student["guidance.linear_1.weight"].any()


def test_every_parameter_of_a_student_gets_a_gradient() -> None:
    config = replace(CONFIGS["classes"], guidance_range=(1.0, 4.0))
    unet = random_unet(config).train()
    unet(**arguments(config), guidance=torch.tensor([1.0, 2.0, 3.0])).square().mean().backward()
    assert [name for name, p in unet.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_guidance_must_be_there_exactly_where_the_model_has_it() -> None:
    values = arguments(CONFIGS["no-labels"])
    with pytest.raises(ArgumentError, match="guidance: got None; allowed: a tensor"):
        UNet(replace(CONFIGS["no-labels"], guidance_range=(1.0, 4.0)))(**values)
    with pytest.raises(ArgumentError, match="guidance: got a tensor; allowed: None"):
        UNet(CONFIGS["no-labels"])(**values, guidance=torch.ones(3))


@pytest.mark.parametrize(("w", "expected"), [(None, 1.5), (3, 3.0), (1.0, 1.0)], ids=["default", "whole", "the end"])
def test_the_scale_reaches_the_module_in_one_row_a_sample(w: float | None, expected: float) -> None:
    net = Student()
    samples = student_engine(net).sample(labels=[3, 7], seeds=0, guidance_scale=w)
    assert net.calls == [(2, *SHAPE)] * 4
    assert [rows.tolist() for rows in net.scales] == [[expected] * 2] * 4
    assert net.scales[0].dtype == torch.float32
    assert (samples.plan.column("w") == 1).all()
    assert samples.guidance_scales == [expected] * 2
    assert samples.parameters_of(0)["guidance_scale"] == f"{expected:g}"


def test_each_sample_may_have_a_scale_of_its_own() -> None:
    net = Student()
    scales = [1.0, 2.5, 4.0]
    together = student_engine(net, max_batch=2).sample(labels=[1, 2, 3], seeds=0, guidance_scale=scales)
    assert [rows.tolist() for rows in net.scales] == [[1.0, 2.5]] * 4 + [[4.0]] * 4
    assert [together.parameters_of(i)["guidance_scale"] for i in range(3)] == ["1", "2.5", "4"]
    alone = student_engine().sample(labels=[2], seeds=1, guidance_scale=2.5)
    torch.testing.assert_close(alone.images[0], together.images[1], rtol=1e-4, atol=1e-5)


def test_batch_invariance_holds_beside_other_scales() -> None:
    engine = student_engine(batch_invariant=True, max_batch=4)
    alone = engine.sample(labels=[7], seeds=[3], guidance_scale=2.5).images[0]
    scales = [4.0, 2.5, 1.0]
    assert torch.equal(engine.sample(labels=[1, 7, 2], seeds=[8, 3, 9], guidance_scale=scales).images[1], alone)


def test_plans_keep_a_scale_of_one() -> None:
    engine = student_engine()
    plan = engine.plan(2, guidance_scale=3.0)
    assert (plan.column("w") == 1).all()
    given = engine.sample(labels=[1], seeds=0, plan=plan, guidance_scale=3.0)
    assert torch.equal(given.images, engine.sample(labels=[1], seeds=0, steps=2, guidance_scale=3.0).images)
    assert given.guidance_scales == [3.0]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "too large": ({"guidance_scale": 4.5}, r"guidance_scale: got 4\.5; allowed: a number from 1 to 4"),
    "not a number": ({"guidance_scale": float("nan")}, "guidance_scale: got nan; allowed: a number from 1 to 4"),
    "one a call": ({"guidance_scale": [1, 2, 3, 4]}, r"guidance_scale: got 4 samples; allowed: 1, as labels says"),
    "rescale": ({"guidance_rescale": 0.5}, r"guidance_rescale: got 0\.5; allowed: 0"),
    "said twice": ({"condition": {"guidance": torch.ones(1)}}, r"condition\['guidance'\]: got 'a tensor'|a tensor"),
}


@pytest.mark.parametrize(("request_", "message"), REFUSED.values(), ids=REFUSED)
def test_what_a_student_cannot_do_is_refused(request_: dict[str, Any], message: str) -> None:
    net = Student()
    with pytest.raises(ArgumentError, match=message):
        student_engine(net).sample(labels=[1], **request_)
    assert net.calls == []


def test_a_plan_with_two_halves_is_refused() -> None:
    engine = student_engine()
    with pytest.raises(ArgumentError, match="plan: got a plan with guidance_scale 3; allowed: one whose"):
        engine.sample(labels=[1], plan=engine.plan().with_guidance(3.0))
    with pytest.raises(ArgumentError, match=r"guidance_scale: got 0\.0; allowed: a number from 1 to 4"):
        engine.plan(guidance_scale=0.0)


@pytest.mark.parametrize(
    ("guidance", "message"),
    [
        ({"min": 2.0, "max": 2.0, "default": 2.0}, "guidance: got min 2 and max 2"),
        ({"min": 1.0, "max": 2.0, "default": 3.0}, "guidance.default: got 3.0"),
        ({"min": 1.0, "max": 2.0}, "allowed: min, max and default"),
        ({"min": float("nan"), "max": 2.0, "default": 1.0}, "guidance.min: got nan"),
    ],
)
def test_a_range_that_is_none_is_refused(guidance: dict[str, float], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        student_engine(guidance=guidance)


def test_a_default_is_said_once() -> None:
    with pytest.raises(ArgumentError, match=r"defaults: got .*; allowed: no guidance_scale"):
        student_engine(defaults={"sampler": "ddim", "steps": 4, "guidance_scale": 2.0})


@pytest.mark.parametrize("scale", [1.5, 3.0])
def test_another_scale_replays_the_same_graph(scale: float) -> None:
    class Silent(Student):
        def forward(self, x: Tensor, t: Tensor, labels: Any = None, guidance: Any = None) -> Tensor:
            result = super().forward(x, t, labels, guidance)
            self.scales.clear()  # a captured call keeps nothing
            return result

    net = Silent()
    runner = GraphRunner(RecorderCapturer(), 10**9)
    eager, graph = student_engine(net), student_engine(net, runner=runner)
    graph.warm_up([{"n": 2, "guidance_scale": 2.0}])
    arguments: dict[str, Any] = {"labels": [1, 2], "seeds": [3, 4], "guidance_scale": scale}
    assert torch.equal(graph.sample(**arguments).images, eager.sample(**arguments).images)
    assert (runner.stats()["captures"], runner.stats()["eager_runs"]) == (1, 0)


def student_spec(**changes: Any) -> ModelSpec:
    config = replace(SPEC.unet, guidance_range=(1.0, 4.0), num_classes=11)
    labels = {"kind": "classes", "count": 10, "null": 10}
    return replace(SPEC, **({"unet": config, "labels": labels, "guidance": GUIDANCE} | changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = student_spec()
    torch.manual_seed(0)
    unet = UNet(spec.unet)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    path = tmp_path_factory.mktemp("models") / "student"
    save_model(path, unet, spec)
    return path


def test_a_student_survives_its_folder(folder: Path) -> None:
    unet, spec = load_model(folder)
    assert spec == student_spec()
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert unet.guidance is not None
    assert Engine.from_pretrained(folder).model.guidance == EmbeddedGuidance(1.0, 4.0, 1.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guidance": None}, "guidance: got None; allowed: what the U-Net has, guidance_range"),
        ({"guidance": GUIDANCE | {"max": 5.0}}, "guidance: got .*; allowed: what the U-Net has"),
        ({"guidance": GUIDANCE | {"default": 9.0}}, r"guidance: guidance.default: got 9\.0"),
        ({"guidance": GUIDANCE | {"min": True}}, "guidance: min: got True; allowed: a number"),
        ({"guidance": {"min": 1.0, "max": 4.0}}, "guidance: default: is missing"),
        ({"guidance": GUIDANCE | {"mean": 2.0}}, "guidance: unknown field 'mean'"),
        ({"plan": SPEC.plan | {"guidance_scale": 2.0}}, "plan: guidance_scale: got 2.0; allowed: none beside guidance"),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        student_spec(**changes)


def test_a_guided_student_has_no_likelihood() -> None:
    digits: Any = None  # refused before they are looked at
    with pytest.raises(ArgumentError, match=r"bpd: got .* with the guidance scale as an input"):
        model_bound(student_engine(shape=DIGITS), digits, 1)


TEACHER = {"sampler": "ddim", "steps": 4, "clip": 1.0, "guidance_scale": 2.5}


def test_a_teacher_samples_with_its_own_scale_unless_told() -> None:
    net = SmallNet()
    engine = small_engine(net, defaults=TEACHER)
    own = engine.sample(labels=[1], seeds=0)
    assert net.calls[0][0] == 2
    assert torch.equal(own.images, small_engine().sample(labels=[1], seeds=0, guidance_scale=2.5).images)
    assert own.parameters_of(0)["guidance_scale"] == "2.5"
    assert (engine.plan(2, "ddpm").column("w") == 2.5).all()
    assert (engine.sample(labels=[1], guidance_scale=1.0).plan.column("w") == 1).all()
    assert (small_engine().plan().column("w") == 1).all()


def test_a_scale_needs_a_null_label_to_guide_from() -> None:
    spec = student_spec(guidance=None, unet=replace(SPEC.unet, num_classes=11), plan=SPEC.plan | {"guidance_scale": 2})
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    for changes, message in (
        ({"labels": None, "unet": SPEC.unet}, "plan: guidance_scale: got 2; allowed: 1, as there is no null label"),
        ({"plan": SPEC.plan | {"guidance_scale": "2"}}, "plan: guidance_scale: got '2'; allowed: a number"),
        ({"plan": SPEC.plan | {"guidance_rescale": 0.5}}, "plan: guidance_rescale: is for a request"),
    ):
        with pytest.raises(ModelError, match=message):
            replace(spec, **changes)
