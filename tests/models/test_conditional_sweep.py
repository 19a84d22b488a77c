"""Every parameter of UNet2DConditionModel, one at a time: predicted as diffusers does, or refused by its name."""

import inspect
import json
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from fewstep.models.layouts.diffusers_condition import config_from_diffusers_condition
from support.conditional_case import as_ours, call_ours, call_theirs, error, prepared
from support.conditional_configs import condition_inputs, random_unet
from support.loading_case import refusal

BASE: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
EVERYWHERE = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
}
# What a field needs beside it, so that it says anything.
BESIDE: dict[str, dict[str, Any]] = {
    "reverse_transformer_layers_per_block": EVERYWHERE | {"transformer_layers_per_block": ((1,), (2,))},
    "transformer_layers_per_block": EVERYWHERE,
    "only_cross_attention": EVERYWHERE,
    "attention_head_dim": EVERYWHERE,
    "use_linear_projection": EVERYWHERE,
    "mid_block_only_cross_attention": EVERYWHERE | {"only_cross_attention": True},
    "encoder_hid_dim_type": {"encoder_hid_dim": 20},
    "class_embed_type": {"projection_class_embeddings_input_dim": 10},
    "projection_class_embeddings_input_dim": {"class_embed_type": "projection"},
    "addition_embed_type": {"addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 5 + 6 * 4},
    "addition_time_embed_dim": {"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": 53},
}
READ: dict[str, list[Any]] = {  # predicts as diffusers does
    "sample_size": [None, 7, (4, 12)],
    "in_channels": [1, 9],
    "out_channels": [1, 8],
    "center_input_sample": [True],
    "flip_sin_to_cos": [False],
    "freq_shift": [1, 0.5, -2],
    "down_block_types": [("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnDownBlock2D",) * 2],
    "mid_block_type": [None, "UNetMidBlock2DCrossAttn"],
    "up_block_types": [("CrossAttnUpBlock2D", "UpBlock2D"), ("UpBlock2D",) * 2],
    "only_cross_attention": [True, (True, False), (False, True)],
    "block_out_channels": [(16, 8), (24, 24)],
    "layers_per_block": [2, (2, 2)],
    "downsample_padding": [0],
    "mid_block_scale_factor": [2, 0.7071],
    "dropout": [0.3],
    "act_fn": ["swish", "gelu", "mish", "relu"],
    "norm_num_groups": [1, 8],
    "norm_eps": [1e-6, 0.1],
    "cross_attention_dim": [1, 40, (12, 12)],
    "transformer_layers_per_block": [2, (1, 3), (3, 1)],
    "reverse_transformer_layers_per_block": [((2, 1), (1, 2)), (2, 1)],
    "encoder_hid_dim": [20],
    "encoder_hid_dim_type": ["text_proj"],
    "attention_head_dim": [1, (1, 4), (4, 1)],
    "num_attention_heads": [None],
    "dual_cross_attention": [False],
    "use_linear_projection": [True],
    "class_embed_type": [None, "projection"],
    "addition_embed_type": ["text_time"],
    "addition_time_embed_dim": [8],
    "num_class_embeds": [1, 5],
    "upcast_attention": [True],
    "resnet_time_scale_shift": ["scale_shift"],
    "resnet_skip_time_act": [],
    "resnet_out_scale_factor": [],
    "time_embedding_type": ["positional"],
    "time_embedding_dim": [7, 100],
    "time_embedding_act_fn": [],
    "timestep_post_act": [],
    "time_cond_proj_dim": [4, 30],
    "conv_in_kernel": [],
    "conv_out_kernel": [],
    "projection_class_embeddings_input_dim": [3],
    "attention_type": [],
    "class_embeddings_concat": [],
    "mid_block_only_cross_attention": [True, False, None],
    "cross_attention_norm": [],
    "addition_embed_type_num_heads": [8],
}
REFUSED: dict[str, list[Any]] = {  # by the name of the field
    "sample_size": [],
    "in_channels": [0, "4"],
    "out_channels": [0, -1],
    "center_input_sample": [1],
    "flip_sin_to_cos": [0],
    "freq_shift": ["1", 4],  # half of 8 channels: division by zero
    "down_block_types": [("SimpleCrossAttnDownBlock2D", "DownBlock2D"), ("DownBlock2D",), "DownBlock2D"],
    "mid_block_type": ["UNetMidBlock2DSimpleCrossAttn", "UNetMidBlock2D"],
    "up_block_types": [("UpBlock2D", "AttnUpBlock2D"), ("UpBlock2D",) * 3],
    "only_cross_attention": ["yes", (True,)],
    "block_out_channels": [(8,), (8, 10), 16],
    "layers_per_block": [0, (1, 2)],
    "downsample_padding": [2, None],
    "mid_block_scale_factor": [0, "1"],
    "dropout": [1.5],
    "act_fn": ["elu"],
    "norm_num_groups": [None, 3, 0],
    "norm_eps": [0.0],
    "cross_attention_dim": [0, (12, 16), None],
    "transformer_layers_per_block": [0, (1,), 1.5, ((1,), (2,)), "1"],
    "reverse_transformer_layers_per_block": [(1,), ((1,), (2,)), 0],
    "encoder_hid_dim": [0],
    "encoder_hid_dim_type": ["image_proj", "text_image_proj", "ip_image_proj"],
    "attention_head_dim": [3, 0, (2,), None],
    "num_attention_heads": [2],
    "dual_cross_attention": [True],
    "use_linear_projection": [1],
    "class_embed_type": ["timestep", "identity", "simple_projection"],
    "addition_embed_type": ["text", "text_image", "image", "image_hint"],
    "addition_time_embed_dim": [0, None],
    "num_class_embeds": [0],
    "upcast_attention": [],
    "resnet_time_scale_shift": ["spatial", "ada_group"],
    "resnet_skip_time_act": [True],
    "resnet_out_scale_factor": [1.5],
    "time_embedding_type": ["fourier"],
    "time_embedding_dim": [0],
    "time_embedding_act_fn": ["silu"],
    "timestep_post_act": ["silu"],
    "time_cond_proj_dim": [0, 2],
    "conv_in_kernel": [1, 5],
    "conv_out_kernel": [1, 5],
    "projection_class_embeddings_input_dim": [None, 0],
    "attention_type": ["gated"],
    "class_embeddings_concat": [True],
    "mid_block_only_cross_attention": [],
    "cross_attention_norm": ["layer_norm"],
    "addition_embed_type_num_heads": [],
}


def cases(table: dict[str, list[Any]]) -> list[Any]:
    return [pytest.param(name, value, id=f"{name}={value}") for name, values in table.items() for value in values]


def with_one_field(name: str, value: Any) -> dict[str, Any]:
    return BASE | BESIDE.get(name, {}) | {name: value}


def test_no_parameter_is_left_out() -> None:
    parameters = set(inspect.signature(UNet2DConditionModel.__init__).parameters) - {"self"}
    assert set(READ) == set(REFUSED) == parameters


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value"), cases(READ))
def test_a_config_that_is_read_predicts_the_same(name: str, value: Any) -> None:
    config = with_one_field(name, value)
    theirs = random_unet(config)
    ours = as_ours(theirs)
    given = condition_inputs(config | {"cross_attention_dim": ours.condition.given_width}, 2, 8, tokens=5)
    if config.get("class_embed_type") == "projection":
        given["class_labels"] = torch.randn(2, config["projection_class_embeddings_input_dim"])
    right = call_theirs(theirs, given)
    assert right.std() > 0.05
    assert error(call_ours(ours, given), right) <= 1e-5
    lanes = prepared(ours, given, given["timestep"])
    with torch.no_grad():
        assert error(ours(given["sample"], given["timestep"], **lanes), right) <= 1e-5


@pytest.mark.parametrize(("name", "value"), cases(REFUSED))
def test_a_config_that_is_not_read_names_the_field(name: str, value: Any) -> None:
    data = json.loads(json.dumps(with_one_field(name, value)))
    message = refusal(lambda: config_from_diffusers_condition(data, "config.json"))
    assert name in message
    assert "allowed: " in message or "supported: " in message or "missing beside" in message


@pytest.mark.parametrize("value", [True, (False, True)])
def test_pixels_see_each_other_in_the_middle_whatever_the_levels_do(value: Any) -> None:
    theirs = random_unet(with_one_field("only_cross_attention", value))
    given = condition_inputs(BASE, 2, 8, tokens=5)
    assert error(call_ours(as_ours(theirs), given), call_theirs(theirs, given)) <= 1e-5
