"""Our U-Net against diffusers' UNet2DModel: same weights from disk, same inputs, same predictions."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file

from fewstep.errors import ModelError
from fewstep.models.layouts.diffusers import config_from_diffusers
from fewstep.models.load import load_model
from fewstep.models.net.unet import count_parameters
from support.diffusers_case import inputs, ours, random_model, relative_difference, theirs

CIFAR10: dict[str, Any] = {
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
    "norm_num_groups": 32,
    "mid_block_scale_factor": 1,
}
SCALE_SHIFT_CLASSES: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (32, 64, 96),
    "layers_per_block": 2,
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "resnet_time_scale_shift": "scale_shift",
    "attention_head_dim": 16,
    "attn_norm_num_groups": 16,
    "num_class_embeds": 11,
    "norm_num_groups": 32,
}
FOURIER: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
    "time_embedding_type": "fourier",
    "time_embedding_dim": 48,
    "attention_head_dim": 8,
    "norm_num_groups": 8,
    "center_input_sample": True,
    "act_fn": "swish",
}
LEARNED_VARIANCE: dict[str, Any] = {
    "sample_size": (24, 16),
    "out_channels": 6,
    "block_out_channels": (32, 32, 64, 64),
    "layers_per_block": 3,
    "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    "downsample_padding": 1,
    "resnet_time_scale_shift": "scale_shift",
    "attention_head_dim": None,
    "norm_num_groups": 16,
    "dropout": 0.2,
}
ONE_LAYER: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 2,
    "out_channels": 2,
    "block_out_channels": (24,),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",),
    "add_attention": False,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "norm_num_groups": 8,
    "norm_eps": 1e-3,
}
CONFIGS = {
    "cifar10-ddpm": CIFAR10,
    "scale-shift-classes-resampling-in-blocks": SCALE_SHIFT_CLASSES,
    "fourier-time-centred-input": FOURIER,
    "learned-variance-not-square": LEARNED_VARIANCE,
    "one-level-no-attention": ONE_LAYER,
}


@pytest.fixture(scope="module", params=CONFIGS.values(), ids=CONFIGS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[UNet2DModel, Path]:
    model = random_model(request.param)
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return model, folder


@pytest.mark.slow
def test_a_saved_unet_2d_model_predicts_the_same(saved: tuple[UNet2DModel, Path]) -> None:
    model, folder = saved
    unet, spec = load_model(folder)
    arguments = inputs(model)
    expected = theirs(model, arguments)
    assert expected.std() > 0.1
    assert ours(unet, arguments).shape == expected.shape
    assert relative_difference(ours(unet, arguments), expected) <= 1e-5
    assert count_parameters(unet) == count_parameters(model)
    assert spec.shape == tuple(arguments["sample"].shape[1:])


@pytest.mark.slow
def test_bfloat16_is_as_accurate_as_diffusers(saved: tuple[UNet2DModel, Path]) -> None:
    model, folder = saved
    arguments = inputs(model)
    expected = theirs(model, arguments)
    unet, _ = load_model(folder, dtype=torch.bfloat16)
    if model.config.time_embedding_type == "fourier":
        # diffusers rounds the frequencies to bfloat16, so its own error says nothing here.
        allowed = 0.05
    else:
        low = random_model(model.config).to(torch.bfloat16)
        rounded = arguments | {"sample": arguments["sample"].to(torch.bfloat16)}
        allowed = 2 * relative_difference(theirs(low, rounded), expected) + 2**-7
    prediction = ours(unet, arguments)
    assert prediction.dtype == torch.bfloat16
    assert relative_difference(prediction, expected) <= allowed


def test_attention_under_its_old_names_loads(tmp_path: Path) -> None:
    model = random_model(SCALE_SHIFT_CLASSES)
    model.save_pretrained(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(weights)
    for new, name in old.items():
        state = {key.replace(f".{new}.", f".{name}."): tensor for key, tensor in state.items()}
    assert any("proj_attn" in key for key in state)
    save_file(state, weights)
    unet, _ = load_model(tmp_path)
    arguments = inputs(model)
    assert relative_difference(ours(unet, arguments), theirs(model, arguments)) <= 1e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mid_block_scale_factor": 0}, "mid_block_scale_factor: got 0; allowed: a number from 1e-06"),
        ({"mid_block_type": "Mid"}, "mid_block_type: got 'Mid'; supported: UNetMidBlock2D"),
        ({"class_embed_type": "timestep"}, "class_embed_type: got 'timestep'; supported: None"),
        ({"act_fn": "elu"}, "act_fn: got 'elu'; supported: silu, swish, gelu, mish, relu"),
        ({"time_embedding_type": "learned"}, "time_embedding_type: got 'learned'; supported: positional, fourier"),
        (
            {"down_block_types": ["SkipDownBlock2D"]},
            "down_block_types[0]: got 'SkipDownBlock2D'; supported: DownBlock2D",
        ),
        (
            {"resnet_time_scale_shift": "spatial"},
            "resnet_time_scale_shift: got 'spatial'; supported: default, scale_shift",
        ),
        ({"downsample_padding": 2}, "downsample_padding: got 2; allowed: an integer from 0 to 1"),
        (
            {"up_block_types": ["UpBlock2D"] * 2},
            "up_block_types: has 2 entries; allowed: 1, for 1 levels of block_out_channels",
        ),
        ({"_class_name": "UNet2DConditionModel"}, "_class_name: got 'UNet2DConditionModel'; supported: 'UNet2DModel'"),
        ({"norm_num_groups": 7}, "norm_num_groups: got 7; allowed: a divisor of block_out_channels[0] = 24"),
        ({"encoder_hid_dim": 8}, "unknown field 'encoder_hid_dim'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_not_supported_is_named(changes: dict[str, Any], message: str) -> None:
    data = json.loads(UNet2DModel(**ONE_LAYER).to_json_string())
    with pytest.raises(ModelError) as caught:
        config_from_diffusers(data | changes, "config.json")
    assert f"config.json: {message}" in str(caught.value)
    assert "\n" not in str(caught.value)
