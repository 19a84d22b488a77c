"""What the U-Net promises beyond its predictions: layout, graphs, labels, and a config that is checked."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from fewstep.errors import ArgumentError, ModelError
from fewstep.models.net.build import build_unet, empty_unet
from fewstep.models.net.config import UNetConfig
from fewstep.models.net.unet import UNet
from fewstep_kernels import layer_ops
from support.unet_case import CONFIGS, SMALL, arguments, random_unet


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS)
def config(request: pytest.FixtureRequest) -> UNetConfig:
    return request.param


@pytest.mark.slow
@torch.no_grad()
def test_compile_traces_the_whole_graph(config: UNetConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    unet, values = random_unet(config), arguments(config)
    torch.compiler.reset()
    compiled = torch.compile(unet, fullgraph=True, backend="eager")
    answer = compiled(**values)
    monkeypatch.setattr(layer_ops, "chosen", lambda op, native, definition, *tensors: definition)
    torch.testing.assert_close(answer, unet(**values), rtol=0, atol=0)  # a compiler is given what an op is defined by


@torch.no_grad()
def test_nothing_depends_on_values(config: UNetConfig) -> None:
    values = {name: tensor.to("meta") for name, tensor in arguments(config).items()}
    assert empty_unet(config)(**values).shape == (3, 2, 8, 12)


@torch.no_grad()
def test_the_image_stays_channels_last(config: UNetConfig) -> None:
    unet, seen = random_unet(config), []
    for module in unet.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    unet(**arguments(config))
    assert len(seen) > 10
    assert all(image.is_contiguous(memory_format=torch.channels_last) for image in seen)


@torch.no_grad()
def test_modulation_can_be_computed_ahead(config: UNetConfig) -> None:
    unet, values = random_unet(config), arguments(config)
    modulation = unet.modulation(values["t"], values.get("labels"), r=values.get("r"))
    ahead = unet(values["x"], values["t"], modulation=modulation)
    torch.testing.assert_close(ahead, unet(**values), rtol=0, atol=0)


@torch.no_grad()
def test_samples_do_not_mix(config: UNetConfig) -> None:
    unet, values = random_unet(config), arguments(config)
    together = unet(**values)
    for index in range(3):
        alone = unet(**{name: tensor[index : index + 1] for name, tensor in values.items()})
        torch.testing.assert_close(together[index : index + 1], alone, rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_a_gradient(config: UNetConfig) -> None:
    unet = random_unet(config).train()
    unet(**arguments(config)).square().mean().backward()
    without = [name for name, p in unet.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []


@torch.no_grad()
def test_a_new_unet_predicts_zero(config: UNetConfig) -> None:
    unet = build_unet(config)
    unet.conv_out.bias.zero_()
    assert not unet(**arguments(config)).any()


@pytest.mark.parametrize("name", ["classes", "continuous-label"])
@torch.no_grad()
def test_labels_steer(name: str) -> None:
    unet, values = random_unet(CONFIGS[name]), arguments(CONFIGS[name])
    flipped = values | {"labels": values["labels"].flip(0)}
    changed = (unet(**flipped) - unet(**values)).abs().amax(dim=(1, 2, 3))
    assert (changed > 1e-4).tolist() == [True, False, True]


@torch.no_grad()
def test_dropout_is_for_training_alone() -> None:
    unet, values = random_unet(replace(SMALL, dropout=0.5)), arguments(SMALL)
    assert torch.equal(unet(**values), unet(**values))
    unet.train()
    assert not torch.equal(unet(**values), unet(**values))


def test_labels_must_be_there_exactly_where_the_model_has_them() -> None:
    values = arguments(SMALL)
    with pytest.raises(ArgumentError, match=r"labels: got None; allowed: a tensor \[B\]: the model has labels"):
        UNet(CONFIGS["classes"])(**values)
    with pytest.raises(ArgumentError, match=r"labels: got .*; allowed: None: the model has no labels"):
        UNet(SMALL)(**values, labels=torch.zeros(3))


@pytest.mark.parametrize("shape", [(3, 2, 8, 9), (3, 1, 8, 8), (2, 8, 8)], ids=["odd-width", "channels", "no-batch"])
def test_an_image_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match=r"x: got .*; allowed: \[B, 2, H, W\] with H and W multiples of 2"):
        UNet(SMALL)(torch.zeros(shape), torch.zeros(3))


def test_a_time_for_each_image_is_needed() -> None:
    with pytest.raises(ArgumentError, match=r"t: got \[1\]; allowed: \[3\], one for each image"):
        UNet(SMALL)(torch.zeros(3, 2, 8, 8), torch.zeros(1))


def test_a_config_survives_json(config: UNetConfig) -> None:
    assert UNetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": [16, 10**9]}, "channels[1]: got 1000000000; allowed: an integer from 1 to 16384"),
        ({"channels": []}, "channels: has 0 levels; allowed: 1 to 10"),
        ({"channels": "16"}, "channels: got '16'; allowed: a list"),
        ({"in_channels": 0}, "in_channels: got 0; allowed: an integer from 1"),
        ({"in_channels": True}, "in_channels: got True; allowed: an integer"),
        ({"in_channels": 2.0}, "in_channels: got 2.0; allowed: an integer"),
        ({"layers": 10**6}, "layers: got 1000000; allowed: an integer from 1 to 32"),
        ({"eps": float("nan")}, "eps: got nan; allowed: a number from"),
        ({"groups": 6}, "groups: got 6; allowed: a divisor of channels[0] = 16"),
        ({"head_dim": 17}, "head_dim: got 17; allowed: at most channels[0] = 16"),
        ({"head_dim": None, "heads": 3}, "heads: got 3; allowed: a divisor of channels[0] = 16"),
        ({"mid_attention_groups": 5}, "mid_attention_groups: got 5; allowed: a divisor of channels[-1] = 32"),
        ({"down": []}, "down: has 0 entries; allowed: 1, for 2 levels"),
        ({"up": ["pixel_shuffle"]}, "up[0]: got 'pixel_shuffle'; supported: conv, block"),
        ({"freq_shift": 8}, "freq_shift: got 8; allowed: less than 8, half the length of the sinusoid"),
        ({"activation": "elu"}, "activation: got 'elu'; supported: silu, gelu, mish, relu"),
        ({"stem": 12}, "groups: got 8; allowed: a divisor of stem = 12"),
        (
            {"channels": [16, 48], "group_channels": 2, "groups": 24},
            "groups: got 24; allowed: a divisor of the channels",
        ),
        ({"group_channels": 17}, "group_channels: got 17; allowed: at most channels[0] = 16"),
        ({"group_channels": 3}, "groups: got 8, of which 5 are left; allowed: a divisor of channels[0] = 16"),
        ({"resample_filter": [1, 2, 1]}, "resample_filter: got [1, 2, 1]; allowed: [1, 1] or [1, 3, 3, 1]"),
        ({"label_place": "features"}, "label_place: got 'features' without num_classes; allowed: 'embedding'"),
        (
            {"second_time": "added", "time_embedding": "fourier"},
            "second_time: is given beside 'fourier', and r may be 0",
        ),
        ({"mid_scale": 0}, "mid_scale: got 0; allowed: a number from 1e-06"),
        ({"num_classes": 3, "label_range": [0, 1]}, "label_range: is given beside num_classes"),
        ({"label_range": [1, 1]}, "label_range: got [1.0, 1.0]; allowed: two numbers, the smaller first"),
        ({"channel": [16]}, "unknown field 'channel'; allowed: activation, block_scale, center_input, channels"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_config_that_cannot_be_built_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        UNetConfig.from_dict(SMALL.to_dict() | changes, "fewstep.json: unet")
    assert str(caught.value).startswith("fewstep.json: unet: " + message)
    assert "\n" not in str(caught.value)


def test_a_missing_field_is_named() -> None:
    data = SMALL.to_dict()
    del data["in_channels"]
    with pytest.raises(ModelError, match="in_channels: is missing"):
        UNetConfig.from_dict(data)


def test_an_absurd_number_of_parameters_is_refused_before_any_memory_is_taken() -> None:
    wide = UNetConfig.from_dict(SMALL.to_dict() | {"channels": [16384, 16384], "layers": 16})
    with pytest.raises(ModelError, match=r"the U-Net has [\d,]+ parameters; allowed: at most 8,000,000,000"):
        empty_unet(wide)
