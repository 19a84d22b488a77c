"""Every parameter of UNet2DModel, varied one at a time: we predict what diffusers does, or refuse the field by name."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel

from fewstep.models.layouts import diffusers
from fewstep.models.load import load_model
from support.diffusers_case import as_ours, inputs, ours, random_model, relative_difference, theirs
from support.loading_case import refusal

BASE: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 2,
    "out_channels": 2,
    "block_out_channels": (16, 24),
    "layers_per_block": 1,
    "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
    "attention_head_dim": 8,
    "norm_num_groups": 8,
}
ONE_LEVEL = {
    "block_out_channels": (16,),
    "down_block_types": ("AttnDownBlock2D",),
    "up_block_types": ("AttnUpBlock2D",),
}
READ = {  # predicts as diffusers does
    "sample_size": [16, (4, 12), 2],
    "in_channels": [],
    "out_channels": [4],  # the variance too
    "center_input_sample": [True],
    "time_embedding_type": ["positional", "fourier"],
    "time_embedding_dim": [None, 7, 100],
    "freq_shift": [1, 0.5, -2, 7.75],
    "flip_sin_to_cos": [False, True],
    "down_block_types": [
        ("DownBlock2D", "AttnDownBlock2D"),
        ("ResnetDownsampleBlock2D", "DownBlock2D"),
        ("UNetResDownBlock2D", "UNetResAttnDownBlock2D"),
    ],
    "mid_block_type": ["UNetMidBlock2D", None],
    "up_block_types": [("AttnUpBlock2D", "UpBlock2D"), ("ResnetUpsampleBlock2D", "UpBlock2D")],
    "block_out_channels": [(8, 8), (40, 16)],
    "layers_per_block": [2, 3],
    "mid_block_scale_factor": [1, 2, 0.7071],
    "downsample_padding": [0, 1],
    "downsample_type": ["conv", "resnet", None],
    "upsample_type": ["conv", "resnet", None],
    "dropout": [0.3],
    "act_fn": ["silu", "swish", "gelu", "mish", "relu"],
    "attention_head_dim": [1, 5, 16, None],  # 5 divides neither 16 nor 24
    "norm_num_groups": [1, 2],
    "attn_norm_num_groups": [None, 6, 24],
    "norm_eps": [1e-6, 0.1],
    "resnet_time_scale_shift": ["default", "scale_shift"],
    "add_attention": [False, True],
    "class_embed_type": [None],
    "num_class_embeds": [3],
    "num_train_timesteps": [1000, 10],
}
REFUSED = {  # by the name of the field
    "sample_size": [7, (8, 9), None, (8,), -8, 1.5],
    "in_channels": [4, 0, "2"],
    "out_channels": [1, 3, 0],
    "center_input_sample": ["yes", 1],
    "time_embedding_type": ["learned", "cosine"],
    "time_embedding_dim": [0, -1],
    "freq_shift": [8, 9, "1"],  # half of 16 channels: division by zero
    "flip_sin_to_cos": [0],
    "down_block_types": [("SkipDownBlock2D", "DownBlock2D"), ("DownBlock2D",), (), "DownBlock2D"],
    "mid_block_type": ["UNetMidBlock2DCrossAttn"],
    "up_block_types": [("AttnSkipUpBlock2D", "UpBlock2D"), ("UpBlock2D",) * 3],
    "block_out_channels": [(16,), (16, 20), (0, 8), 16],
    "layers_per_block": [0, [1, 2]],
    "mid_block_scale_factor": [0, "1"],
    "downsample_padding": [2, None],
    "downsample_type": ["fir"],
    "upsample_type": ["fir"],
    "dropout": [1.5],
    "act_fn": ["elu"],
    "attention_head_dim": [0, 17, [8, 8]],
    "norm_num_groups": [3, None],
    "attn_norm_num_groups": [5],
    "norm_eps": [0.0],
    "resnet_time_scale_shift": ["spatial", "ada_group"],
    "add_attention": [None],
    "class_embed_type": ["timestep", "identity"],
    "num_class_embeds": [0],
    "num_train_timesteps": [],
}


def cases(table: dict[str, list[Any]]) -> list[Any]:
    return [pytest.param(name, value, id=f"{name}={value}") for name, values in table.items() for value in values]


def test_no_parameter_is_left_out() -> None:
    parameters = set(inspect.signature(UNet2DModel.__init__).parameters) - {"self"}
    assert set(READ) == set(REFUSED) == parameters


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value"), cases(READ))
def test_a_config_that_is_read_predicts_the_same(name: str, value: Any) -> None:
    same(BASE | {name: value})


@pytest.mark.parametrize(
    "changes",
    [
        ONE_LEVEL | {"sample_size": (7, 5)},
        ONE_LEVEL | {"sample_size": 9, "mid_block_type": None, "add_attention": False},
        ONE_LEVEL | {"block_out_channels": (15,), "norm_num_groups": 5, "attention_head_dim": 4, "freq_shift": 0.5},
        {"act_fn": "mish", "resnet_time_scale_shift": "scale_shift", "mid_block_scale_factor": 2**0.5},
        {"act_fn": "gelu", "time_embedding_type": "fourier", "downsample_type": "resnet", "downsample_padding": 0},
        {"mid_block_type": None, "num_class_embeds": 4, "act_fn": "relu", "attention_head_dim": 7},
        {"mid_block_type": None, "attn_norm_num_groups": 5, "attention_head_dim": 9},
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_what_is_odd_together_predicts_the_same(changes: dict[str, Any]) -> None:
    same(BASE | changes)


def same(config: dict[str, Any]) -> None:
    model = random_model(config)
    arguments = inputs(model)
    expected = theirs(model, arguments)
    assert expected.std() > 0.05
    unet = as_ours(model)
    assert relative_difference(ours(unet, arguments), expected) <= 1e-5
    data = json.loads(model.to_json_string())
    assert diffusers.image_shape(data, unet.config, "config.json") == tuple(arguments["sample"].shape[1:])


@pytest.mark.parametrize(("name", "value"), cases(REFUSED))
def test_a_config_that_is_not_read_names_the_field(name: str, value: Any, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(BASE | {"_class_name": "UNet2DModel", name: value}))
    message = refusal(lambda: load_model(tmp_path))
    problem = message.removeprefix(f"{file}: ")
    assert problem != message
    assert name in problem
    assert "allowed: " in message or "supported: " in message


@pytest.mark.parametrize("size", [5, 6, 7, 9, 10])
def test_an_odd_size_is_no_size_of_theirs_either(size: int) -> None:
    """The way up doubles what the way down has halved, so only multiples of 4 fit 3 levels."""
    model = UNet2DModel(
        **BASE
        | {
            "block_out_channels": (8, 8, 8),
            "down_block_types": ("DownBlock2D",) * 3,
            "up_block_types": ("UpBlock2D",) * 3,
            "sample_size": size,
        }
    )
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        model.eval()(torch.zeros(1, 2, size, size), 1)
