"""A name that nobody takes is an error that says so and never goes unnoticed: in a network's call, and in options."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewstep import ArgumentError, Classes, Engine, Model, ModelError, schedules
from fewstep.models.spec import ModelSpec
from fewstep.request.conditions import condition_from_config
from fewstep.run.inputs import Inputs
from fewstep.train.config import TrainConfig
from support.loading_case import SPEC
from support.small import SmallNet, StyledNet, small_engine, small_model


class Context(nn.Module):
    """Answers with the mean of its context."""

    def forward(self, x: Tensor, t: Tensor, ctx: Tensor) -> Tensor:
        return x * 0 + ctx.mean(-1)[:, None, None, None]


class Open(nn.Module):
    def forward(self, x: Tensor, t: Tensor, **others: Tensor) -> Tensor:
        return x * 0 + others["ctx"].mean(-1)[:, None, None, None]


class Labelled(nn.Module):
    """Has labels under diffusers' name, and a context that need not be there."""

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor, ctx: Tensor | None = None) -> Tensor:
        answer = x * 0 + class_labels[:, None, None, None]
        return answer if ctx is None else answer + ctx.mean(-1)[:, None, None, None]


def engine_of(net: nn.Module, **options: Any) -> Engine:
    settings = {"schedule": schedules.linear(), "shape": (1, 2, 2), "prediction": "x_0", "defaults": {"steps": 1}}
    return Engine(Model(net, **(settings | options)), device="cpu")


def full(value: float, count: int = 1) -> Tensor:
    return torch.full((count, 3), value)


def traced() -> nn.Module:
    made: nn.Module = torch.jit.trace(Context(), (torch.ones(1, 1, 2, 2), torch.ones(1), torch.ones(1, 3)))
    return made


def exported() -> nn.Module:
    batch = torch.export.Dim.AUTO
    rows = torch.ones(2, 1, 2, 2), torch.ones(2)
    sizes = {"x": {0: batch}, "t": {0: batch}, "ctx": {0: batch}}
    return torch.export.export(Context(), rows, {"ctx": torch.ones(2, 3)}, dynamic_shapes=sizes).module()


def wrapped() -> nn.Module:
    net = Context().eval()
    plain = net.forward
    net.forward = functools.wraps(plain)(lambda *given, **named: plain(*given, **named))  # type: ignore[method-assign]
    return net


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": Context,
    "scripted": lambda: torch.jit.script(Context()),
    "traced": traced,
    "traced by fx": lambda: torch.fx.symbolic_trace(Context()),
    "compiled": lambda: torch.compile(Context().eval(), backend="eager"),  # type: ignore[return-value]
    "exported": exported,
    "wrapped on the instance": wrapped,
    "in parallel": lambda: nn.DataParallel(Context()),
}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_names_that_the_call_does_not_take_or_lacks_are_told(make: Callable[[], nn.Module]) -> None:
    engine = engine_of(make())
    guided = engine.sample(1, guidance_scale=3.0, condition={"ctx": (full(0.2), full(0.1))}, seeds=0)
    assert guided.images.flatten().tolist() == pytest.approx([0.4] * 4)  # 0.1 + 3 (0.2 - 0.1)
    with pytest.raises(ArgumentError, match=r"condition: got 'cxt'; allowed: .*: ctx; did you mean 'ctx'\?"):
        engine.sample(1, condition={"ctx": full(0.2), "cxt": full(0.1)})
    with pytest.raises(ArgumentError, match=r"condition: got 'cxt'"):
        engine.sample(1, guidance_scale=3.0, condition={"ctx": (full(0.2),) * 2, "cxt": (full(0.2), full(0.1))})
    with pytest.raises(ArgumentError, match=r"condition: got no 'ctx'; allowed: .* condition=\{'ctx': tensor\}"):
        engine.sample(1)
    with pytest.raises(ArgumentError, match=r"condition: got no 'ctx'"):
        engine.session(2)


def test_beside_guidance_each_name_has_a_counterpart_or_is_said_twice() -> None:
    engine = engine_of(Labelled(), conditions=Classes(5, null=0))
    given: dict[str, Any] = {"labels": [2], "guidance_scale": 3.0, "seeds": 0}
    with pytest.raises(ArgumentError, match=r"condition\['ctx'\]: got one tensor, .*; allowed: a pair: .*both halves"):
        engine.sample(**given, condition={"ctx": full(0.25)})
    kept = engine.sample(**given, condition={"ctx": (full(0.25), full(0.25))})
    assert kept.images.flatten().tolist() == [6.25] * 4  # 0 + 3 (2 - 0), and the context as it is
    alone = engine.sample(labels=[2], seeds=0, condition={"ctx": full(0.25)})
    assert alone.images.flatten().tolist() == [2.25] * 4
    with pytest.raises(ArgumentError, match=r"condition\['ctx'\]: got one tensor"):
        engine.sample(labels=[2], guidance_scale=0.0, condition={"ctx": full(0.25)})


def test_a_network_that_takes_any_name_gets_any() -> None:
    engine = engine_of(Open())
    assert engine.sample(1, condition={"ctx": full(0.5), "other": full(1.0)}).images.flatten().tolist() == [0.5] * 4


@pytest.mark.parametrize("name", ["x", "t", "self"])
def test_x_and_t_are_given_once_to_a_network_that_takes_any_name(name: str) -> None:
    with pytest.raises(ArgumentError, match=f"condition: got '{name}'; allowed: .* beside x and t: any other name"):
        engine_of(Open()).sample(1, condition={"ctx": full(0.5), name: full(1.0)})


def test_labels_go_by_either_name_and_once() -> None:
    engine = engine_of(Labelled(), conditions=None)
    for name in ("labels", "class_labels"):
        assert engine.sample(1, condition={name: torch.tensor([3])}).images.flatten().tolist() == [3.0] * 4
    with pytest.raises(ArgumentError, match="labels once"):
        engine.sample(1, condition={"labels": torch.tensor([3]), "class_labels": torch.tensor([3])})
    with pytest.raises(ArgumentError, match=r"condition: got no 'class_labels'; .*conditions=fewstep\.Classes"):
        engine.sample(1)
    with pytest.raises(ArgumentError, match="labels: got"):
        engine.sample(labels=[1])
    compiled = torch.compile(Labelled(), backend="eager")
    assert Inputs.of(compiled).labels == "class_labels"  # type: ignore[arg-type]


class Bare(nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x


class Alone(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Prepares(Bare):
    def prepare_condition(self, condition: dict[str, Tensor], times: Tensor) -> dict[str, Tensor]:
        return {}


WRONG: dict[str, tuple[nn.Module, dict[str, Any], str]] = {
    "labels for none": (Bare(), {"conditions": Classes(3)}, "conditions: got Classes.*takes no labels"),
    "guidance for none": (SmallNet(), {"guidance": {"min": 1, "max": 2, "default": 1}}, "guidance: got .*no guidance"),
    "no time": (Alone(), {}, "module: got Alone, whose forward does not take x and t"),
}


@pytest.mark.parametrize(("net", "options", "message"), WRONG.values(), ids=WRONG)
def test_a_model_whose_network_cannot_be_called_so_is_refused_when_it_is_made(
    net: nn.Module, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        engine_of(net, **options)


def test_a_network_whose_call_cannot_be_known_is_left_alone() -> None:
    hooked = Bare()
    hooked.register_forward_pre_hook(lambda module, given, named: (given, {}), with_kwargs=True)
    for net in (Prepares(), hooked):
        found = engine_of(net, conditions=Classes(3, null=2)).sample(1, condition={"any": full(1.0)}, seeds=0)
        assert torch.isfinite(found.images).all()


class Called(nn.Module):
    """Answers with its labels, under the name that its call has for them."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return x * 0 if y is None else x * 0 + y[:, None, None, None]


class Around(Called):
    def __call__(self, *given: Any, **named: Any) -> Any:
        return super().__call__(*given, **named)


class Renamed(Called):
    def __call__(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Any:
        return super().__call__(x, t, y=class_labels)


class Unchanged(Called):
    def prepare_condition(self, condition: dict[str, Tensor], times: Tensor) -> dict[str, Tensor]:
        return condition


def hooked() -> nn.Module:
    net = Called()
    net.register_forward_pre_hook(lambda module, given: None)
    return net


def hooked_unet() -> nn.Module:
    """diffusers', whose labels are `class_labels`."""
    from diffusers import UNet2DModel

    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
    net = UNet2DModel(8, 1, 1, layers_per_block=1, norm_num_groups=4, num_class_embeds=4, **blocks).eval()
    net.register_forward_pre_hook(lambda module, given: None)
    return net


@pytest.mark.parametrize("make", [Called, Around, Renamed, Unchanged, hooked])
def test_labels_go_by_their_name_past_what_stands_around_a_network(make: Callable[[], nn.Module]) -> None:
    engine = engine_of(make(), conditions=Classes(3, null=0))
    assert engine.sample(labels=[2], guidance_scale=3.0, seeds=0).images.flatten().tolist() == [6.0] * 4
    assert engine.sample(1, condition={"labels": torch.tensor([2])}, seeds=0).images.flatten().tolist() == [2.0] * 4


def test_a_hook_on_diffusers_network_leaves_its_labels() -> None:
    engine = engine_of(hooked_unet(), conditions=Classes(3, null=3), shape=(1, 8, 8))
    one, other = engine.sample(labels=[1, 2], seeds=[0, 0]).images
    assert not torch.equal(one, other)


def test_nested_inputs_are_told_that_they_are_no_tensors() -> None:
    engine = small_engine(StyledNet(), device="cpu")
    with pytest.raises(ArgumentError, match=r"condition\['style'\]: got 'dict'; allowed: a tensor with 1 rows"):
        engine.sample(labels=[1], condition={"style": {"text_embeds": torch.ones(1, 3)}})
    with pytest.raises(ArgumentError, match=r"condition\['style'\]: got '\(\)'"):
        engine.sample(labels=[1], condition={"style": ()})


ENGINE = small_engine(device="cpu")
MISSPELT: dict[str, tuple[Callable[[], object], str]] = {
    "an argument of sample": (lambda: ENGINE.sample(seed=0), "seeds"),
    "another": (lambda: ENGINE.sample(1, guidence_scale=3.0), "guidance_scale"),
    "a strength": (lambda: ENGINE.sample(1, strenght=0.5), "strength"),
    "a mask": (lambda: ENGINE.sample(1, masks=0.5), "mask"),
    "labels": (lambda: ENGINE.sample(label=[3]), "labels"),
    "beside a plan": (lambda: ENGINE.sample(plan=ENGINE.plan(2), seed=0), "seeds"),
    "of samples": (lambda: ENGINE.samples(1, seed=0), "seeds"),
    "an argument of plan": (lambda: ENGINE.plan(3, strenght=0.5), "strength"),
    "an option of a sampler": (lambda: ENGINE.plan(3, etta=0.5), "eta"),
    "a spacing's option": (lambda: ENGINE.plan(3, "euler", spacing="karras", sigma_mim=1.0), "sigma_min"),
    "a sampler": (lambda: ENGINE.plan(3, "dimm"), "ddim"),
    "a part of a clip": (lambda: ENGINE.plan(3, clip={"limt": 1.0}), "limit"),
    "a default": (lambda: small_model(defaults={"stesp": 4}), "steps"),
    "a schedule": (lambda: schedules.from_config({"name": "linear", "num_timestep": 10}), "num_timesteps"),
    "a kind of condition": (lambda: condition_from_config({"kind": "class", "count": 3}), "classes"),
    "a field of classes": (lambda: condition_from_config({"kind": "classes", "cuont": 3}), "count"),
    "a field of guidance": (lambda: small_model(guidance={"min": 1, "mx": 2, "default": 1}), "max"),
    "what it was trained for": (lambda: small_model(trained={"sampler": "ddim", "step": [4]}), "steps"),
    "a prediction": (lambda: small_model(prediction="epsi"), "eps"),
    "a feature": (lambda: ENGINE.session(2, features=["stocastic"]), "stochastic"),
    "a request to warm up": (lambda: ENGINE.warm_up([{"n": 1, "setps": 2}]), "steps"),
    "a session to warm up": (lambda: ENGINE.warm_up([{"session": {"slot": 2}}]), "slots"),
    "an argument of Engine": (lambda: Engine.from_pretrained("digits", max_batches=2), "max_batch"),
    "an attribute of a model": (lambda: Model.from_pretrained("digits", predicton="v"), "prediction"),
    "a setting": (lambda: TrainConfig.from_dict({"batches": 4}), "batch"),
    "a field of fewstep.json": (lambda: ModelSpec.from_dict(SPEC.to_dict() | {"licences": "MIT"}), "licence"),
}


@pytest.mark.parametrize(("call", "meant"), MISSPELT.values(), ids=MISSPELT)
def test_a_misspelt_name_is_told_the_one_that_is_meant(call: Callable[[], object], meant: str) -> None:
    with pytest.raises((ArgumentError, ModelError), match=rf"did you mean '?{meant}'?\?") as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_name_that_is_far_from_all_is_told_each_once_and_what_is_said_elsewhere_says_where() -> None:
    with pytest.raises(ArgumentError) as caught:
        ENGINE.sample(1, foo=0.5)
    names = caught.value.allowed.removeprefix("nothing, since there is no such argument or option, but ").split(", ")
    assert len(names) == len(set(names))
    assert {"steps", "guidance_scale", "eta"} <= set(names)
    assert "strength" not in names
    with pytest.raises(ArgumentError, match=r"'strength'\? It is said by start=fewstep\.Image\(x, strength\)"):
        ENGINE.sample(1, strenght=0.5)


def test_a_misspelt_name_in_a_manifest_is_told_too(tmp_path: Path) -> None:
    path = tmp_path / "warm.json"
    path.write_text(json.dumps({"format": 2, "requests": [{"n": 1, "steps": 2, "guidance": 3.0}]}))
    with pytest.raises(ModelError, match=r"unknown field 'guidance'; allowed: .*did you mean 'guidance_\w+'\?"):
        ENGINE.warm_up(path)
