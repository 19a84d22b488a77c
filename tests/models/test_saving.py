"""All that `save_model` writes, `load_model` reads; what would not come back is refused before anything is written."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrizations, weight_norm

from fewstep.engine import Engine
from fewstep.errors import ArgumentError, ModelError, OutputError
from fewstep.fields import parse_json
from fewstep.models.load import load_model, save_model
from fewstep.models.model import Model
from fewstep.models.net.unet import UNet
from fewstep.models.spec import ModelSpec
from fewstep.run.modules import own_module
from support.loading_case import CONFIG, SPEC
from support.unet_case import CONFIGS, random_unet


def unet() -> UNet:
    return random_unet(CONFIG)


def tied(net: UNet) -> nn.Module:
    net.mid_2.conv_1.weight = net.mid_1.conv_1.weight
    return net


def overlapping(net: UNet) -> nn.Module:
    whole = torch.randn(16)
    net.conv_in.bias = nn.Parameter(whole[:8])
    net.norm_out.bias = nn.Parameter(whole[4:12])
    return net


def transposed(net: UNet) -> nn.Module:
    net.time.linear_2.weight = nn.Parameter(net.time.linear_2.weight.detach().t())
    return net


def compiled_part(net: UNet) -> nn.Module:
    net.mid_1 = torch.compile(net.mid_1, backend="eager")
    return net


def shared(net: UNet) -> nn.Module:
    return own_module(net, torch.device("cpu"))


WRITTEN: dict[str, Callable[[UNet], nn.Module]] = {
    "as it is": lambda net: net,
    "compiled": lambda net: torch.compile(net, backend="eager"),
    "compiled in place": lambda net: [net.compile(backend="eager"), net][1],
    "in DataParallel": nn.DataParallel,
    "compiled in DataParallel": lambda net: nn.DataParallel(torch.compile(net, backend="eager")),
    "averaged": torch.optim.swa_utils.AveragedModel,
    "a part compiled": compiled_part,
    "as an engine runs it": shared,
    "tied": tied,
    "in one another's memory": overlapping,
    "transposed": transposed,
    "contiguous": lambda net: net.to(memory_format=torch.contiguous_format),
    "float16": lambda net: net.half(),
    "bfloat16": lambda net: net.bfloat16(),
    "float64": lambda net: net.double(),
    "frozen and in training": lambda net: net.requires_grad_(False).train(),
}


@pytest.mark.parametrize("wrap", WRITTEN.values(), ids=WRITTEN)
def test_what_is_written_is_read(wrap: Callable[[UNet], nn.Module], tmp_path: Path) -> None:
    plain = unet()
    net = wrap(plain)
    before = {name: parameter.detach().clone() for name, parameter in plain.named_parameters(remove_duplicate=False)}
    save_model(tmp_path / "tiny", net, SPEC)
    loaded, spec = load_model(tmp_path / "tiny", dtype=plain.dtype)
    assert spec == SPEC
    assert len(dict(loaded.named_parameters())) == len(before)
    for name, tensor in before.items():
        assert torch.equal(loaded.get_parameter(name.replace("_orig_mod.", "")), tensor), name


def parametrized(net: UNet) -> nn.Module:
    parametrizations.weight_norm(net.conv_in)
    return net


def spectral(net: UNet) -> nn.Module:
    parametrizations.spectral_norm(net.conv_in)
    return net


def old_weight_norm(net: UNet) -> nn.Module:
    weight_norm(net.conv_in)
    return net


def with_buffer(net: UNet) -> nn.Module:
    net.register_buffer("extra", torch.zeros(1))
    return net


def with_parameter(net: UNet) -> nn.Module:
    net.conv_in.scale = nn.Parameter(torch.ones(1))  # type: ignore[assignment]
    return net


def without_bias(net: UNet) -> nn.Module:
    net.conv_in.bias = None
    return net


def wider(net: UNet) -> nn.Module:
    net.conv_out = nn.Conv2d(8, 2, 3, padding=1)
    return net


def patched(net: UNet) -> nn.Module:
    net.forward = lambda x, t, labels=None: x  # type: ignore[method-assign]
    return net


def quantized(net: UNet) -> nn.Module:
    net.conv_in.weight = nn.Parameter(torch.zeros_like(net.conv_in.weight, dtype=torch.int8), requires_grad=False)
    return net


def filled(value: float, dtype: torch.dtype = torch.float32) -> Callable[[UNet], nn.Module]:
    def fill(net: UNet) -> nn.Module:
        net.to(dtype)
        with torch.no_grad():
            net.conv_in.bias[3] = value
        return net

    return fill


def fake(net: UNet) -> nn.Module:
    net.conv_in.bias = nn.Parameter(FakeTensorMode().from_tensor(torch.zeros(8)))
    return net


class Subclass(UNet):
    """What it adds is code, which no folder keeps."""


REFUSED: dict[str, tuple[Callable[[UNet], nn.Module], str]] = {
    "parametrized": (parametrized, "got 'conv_in.parametrizations.weight.original0'; allowed: the parameters of"),
    "of a spectral norm": (spectral, "got 'conv_in.parametrizations"),
    "of the old weight norm": (old_weight_norm, "got 'conv_in.weight_g'; allowed: the parameters of a U-Net of its co"),
    "with a buffer": (with_buffer, "got 'extra'; allowed: the parameters of a U-Net of its config"),
    "with a parameter": (with_parameter, "got 'conv_in.scale'"),
    "without a bias": (without_bias, "got no conv_in.bias; allowed: all parameters of a U-Net of its config"),
    "of other widths": (wider, r"got conv_out.weight [2, 8, 3, 3]; allowed: [1, 8, 3, 3], as its config says"),
    "patched": (patched, "got UNet with a forward of its own; allowed: a fewstep.models.UNet, by itself or in torch"),
    "a subclass": (lambda _: Subclass(CONFIG), "got 'Subclass'; allowed: a fewstep.models.UNet"),
    "another network": (lambda _: nn.DataParallel(nn.Conv2d(1, 1, 3)), "got 'DataParallel'; allowed: a fewstep.models"),
    "no network": (lambda _: "unet", "got 'str'; allowed: a fewstep.models.UNet"),  # type: ignore[dict-item]
    "of integers": (quantized, "got conv_in.weight in torch.int8; allowed: torch.float64, torch.float32"),
    "on meta": (lambda net: net.to("meta"), "Tensor on meta; allowed: dense tensors that hold their numbers"),
    "fake": (fake, "FakeTensor on cpu; allowed: dense tensors that hold their numbers"),
    "NaN": (filled(math.nan), "got conv_in.bias with NaN or infinity; allowed: numbers that are finite in float32"),
    "infinite": (filled(-math.inf, torch.bfloat16), "got conv_in.bias with NaN or infinity"),
    "infinite as float32": (filled(1e300, torch.float64), "got conv_in.bias with NaN or infinity"),
}


@pytest.mark.parametrize(("change", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_could_not_be_read_is_not_written(
    change: Callable[[UNet], nn.Module], reason: str, tmp_path: Path
) -> None:
    net = change(unet())
    with pytest.raises(ArgumentError) as caught:
        save_model(tmp_path / "tiny", net, SPEC)
    assert str(caught.value).startswith("unet: got")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_unet_of_every_form_is_given_back(config: Any, tmp_path: Path) -> None:
    more = {"activation": "mish", "mid_block": False, "mid_scale": 0.5, "head_dim": 5, "freq_shift": 0.25}
    for unet_config in (config, replace(config, **more)):
        net = random_unet(unet_config)
        labels = None
        if unet_config.num_classes:
            labels = {"kind": "classes", "count": unet_config.num_classes, "null": None}
        if unet_config.label_range:
            labels = {"kind": "continuous", "min": 1.0, "max": 100.0}
        spec = replace(SPEC, unet=unet_config, shape=(2, 8, 12), labels=labels)
        save_model(tmp_path, net, spec, overwrite=True)
        loaded, read = load_model(tmp_path)
        assert read == spec
        assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(
    "changes",
    [
        {"plan": {"sampler": "ddim", "steps": 4, "clip": torch.float32}},
        {"plan": {"sampler": "ddim", "steps": 4, "clip": {"limit": math.inf, "ratio": 0.9}}},
    ],
    ids=["a type", "infinity"],
)
def test_a_spec_that_json_does_not_give_back_is_not_written(changes: dict[str, Any], tmp_path: Path) -> None:
    spec = copy.copy(SPEC)
    for name, value in changes.items():
        object.__setattr__(spec, name, value)
    with pytest.raises(ArgumentError, match="spec: got 'tiny'; allowed: a spec that JSON gives back"):
        save_model(tmp_path / "tiny", unet(), spec)
    assert list(tmp_path.iterdir()) == []


def student(**changes: Any) -> tuple[UNet, ModelSpec]:
    net, spec = load_model("digits/1-step")
    return net, replace(spec, **changes)


EMBEDDED = load_model("digits/1-step")[1].guidance
WAYS: dict[str, dict[str, Any]] = {
    "another order": {"guidance": dict(reversed((EMBEDDED or {}).items()))},
    "a left-out null": {"labels": {"count": 10, "kind": "classes"}},
    "no names": {"labels": {"kind": "classes", "count": 10, "null": None, "names": []}},
    "integers of numpy": {"shape": np.array([1, 32, 32]), "trained": {"steps": np.array([1]), "sampler": "ddim"}},
    "floats of numpy": {"guidance": {name: np.float32(value) for name, value in (EMBEDDED or {}).items()}},
    "a plan of numpy": {"plan": {"steps": np.int64(1), "sampler": np.str_("ddim"), "eta": np.float32(0), "clip": None}},
    "a clip of numpy": {"plan": {"sampler": "ddim", "steps": 1, "clip": {"ratio": np.float32(0.5), "limit": 2}}},
    "a schedule of torch": {"schedule": {"num_timesteps": torch.tensor(100), "name": "linear"}},
}


@pytest.mark.parametrize("changes", WAYS.values(), ids=WAYS)
def test_a_spec_may_be_said_in_more_ways_than_json_says_it(changes: dict[str, Any], tmp_path: Path) -> None:
    net, spec = student(**changes)
    save_model(tmp_path, net, spec)
    assert load_model(tmp_path)[1] == spec
    json.dumps(spec.to_dict(), allow_nan=False)


def test_guidance_in_integers_is_that_in_floats() -> None:
    net, spec = student()
    range_ = net.config.guidance_range
    assert range_ is not None
    low, high = range_
    assert (low, high) == (int(low), int(high))
    said = replace(spec, guidance={"min": int(low), "max": int(high), "default": 1.25}).guidance
    assert said is not None
    assert {type(value) for value in said.values()} == {float}


def test_continuous_labels_in_integers_are_written(tmp_path: Path) -> None:
    config = replace(CONFIG, num_classes=None, label_range=(1.0, 100.0))
    spec = replace(SPEC, unet=config, labels={"max": 100, "min": 1, "kind": "continuous"})
    save_model(tmp_path, random_unet(config), spec)
    assert load_model(tmp_path)[1].labels == {"kind": "continuous", "min": 1.0, "max": 100.0}


def test_the_field_that_json_does_not_give_back_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewstep.models.saving.parse_json", lambda data, where: {**json.loads(data), "licence": "MIT"})
    with pytest.raises(
        ArgumentError, match=r"spec\.licence: got ''; allowed: a spec that JSON gives back, and not 'MIT'"
    ):
        save_model(tmp_path / "tiny", unet(), SPEC)


def test_what_is_no_spec_and_what_is_no_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"spec: got .*; allowed: a fewstep\.models\.ModelSpec"):
        save_model(tmp_path / "tiny", unet(), SPEC.to_dict())  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="ModelSpec: unet: got"):
        replace(SPEC, unet=nn.Linear(1, 1))  # type: ignore[arg-type]
    for name in ("x\0", "", "x\ud800"):
        with pytest.raises(OutputError, match="is no name of a file"):
            save_model(name, unet(), SPEC)
    assert list(tmp_path.iterdir()) == []


texts = st.text(max_size=40)


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    """Specs of the tiny U-Net with any schedule, plan, words and labels."""
    schedule = draw(
        st.sampled_from(
            [
                {"name": "linear", "num_timesteps": 100},
                {"name": "cosine", "num_timesteps": 60, "zero_terminal_snr": True},
                {"name": "betas", "betas": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]},
                {"name": "flow", "shift": 2.5},
                {"name": "karras", "sigma_max": 40.0, "time": "edm"},
            ]
        )
    )
    prediction = draw(st.sampled_from(["x_0", "v"]))
    plan: dict[str, Any] = {"sampler": "ddim", "steps": draw(st.integers(1, 6)), "eta": draw(st.floats(0, 1))}
    plan["clip"] = draw(st.one_of(st.none(), st.floats(0.1, 10), st.just({"limit": 2.0, "ratio": 0.99})))
    if draw(st.booleans()):
        plan |= {"spacing": [5, 3, 1][: plan["steps"]], "steps": min(plan["steps"], 3)}
    if draw(st.booleans()):
        plan["guidance_scale"] = draw(st.floats(-5, 5))
    trained = {"sampler": "ddim", "steps": [plan["steps"]]} if draw(st.booleans()) else None
    words = {name: draw(texts) for name in ("name", "description", "licence", "source")}
    return replace(
        SPEC, schedule=schedule, prediction=prediction, plan=plan, trained=trained, notes=(draw(texts),), **words
    )


@given(specs())
@settings(max_examples=40, deadline=None)
def test_every_spec_survives_json(spec: ModelSpec) -> None:
    text = json.dumps(spec.to_dict(), allow_nan=False).encode()
    assert ModelSpec.from_dict(parse_json(text, "spec")) == spec


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    """In the cache of the Hugging Face hub it leads to a file that is named by its content."""
    other = tmp_path / "other"
    other.write_bytes(b"as it was")
    for name in ("model.safetensors", "fewstep.json"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).symlink_to(other)
        with pytest.raises(OutputError, match=rf"{name}/{name}: is a link, which is not written through"):
            save_model(folder, unet(), SPEC, overwrite=True)
        assert [path.name for path in folder.iterdir()] == [name]
    assert other.read_bytes() == b"as it was"


def test_a_compiled_model_is_saved_and_samples_the_same(tmp_path: Path) -> None:
    """The way a user comes to it: train, compile, sample, save, load."""
    net = unet()
    model = Model.of(torch.compile(net, backend="eager"), SPEC)
    save_model(tmp_path / "tiny", model.module, SPEC)
    again = Engine.from_pretrained(tmp_path / "tiny", device="cpu")
    before = Engine(Model.of(net, SPEC), device="cpu").sample(labels=[1], seeds=0, steps=2)
    assert torch.equal(again.sample(labels=[1], seeds=0, steps=2).images, before.images)
