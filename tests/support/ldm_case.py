"""A U-Net of diffusers in the names of latent diffusion's files, by the order in which that code builds its parts."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

BLOCK = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "class_embedding.linear_1": "label_emb.0.0",
    "class_embedding.linear_2": "label_emb.0.2",
}


def as_ldm(
    state: Mapping[str, Tensor], config: Mapping[str, Any], prefix: str = "model.diffusion_model."
) -> dict[str, Tensor]:
    """The state of a UNet2DConditionModel as `UNetModel` of latent diffusion names it.

    That code appends to `input_blocks` a list for each residual block, with a transformer behind it where one attends,
    and a list for each halving; to `output_blocks` a list for each residual block, with the doubling at its end.
    """
    places: dict[str, str] = {}
    layers, levels = config["layers_per_block"], len(config["block_out_channels"])
    number = 1
    for level, kind in enumerate(config["down_block_types"]):
        for stage in range(layers):
            places[f"down_blocks.{level}.resnets.{stage}"] = f"input_blocks.{number}.0"
            if kind == "CrossAttnDownBlock2D":
                places[f"down_blocks.{level}.attentions.{stage}"] = f"input_blocks.{number}.1"
            number += 1
        if level < levels - 1:
            places[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
            number += 1
    places["mid_block.resnets.0"] = "middle_block.0"
    places["mid_block.attentions.0"] = "middle_block.1"
    places["mid_block.resnets.1"] = "middle_block.2"
    number = 0
    for level, kind in enumerate(config["up_block_types"]):
        for stage in range(layers + 1):
            places[f"up_blocks.{level}.resnets.{stage}"] = f"output_blocks.{number}.0"
            parts = 1
            if kind == "CrossAttnUpBlock2D":
                places[f"up_blocks.{level}.attentions.{stage}"] = f"output_blocks.{number}.1"
                parts = 2
            if level < levels - 1 and stage == layers:
                places[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{number}.{parts}.conv"
            number += 1
    renamed = {}
    for name, tensor in state.items():
        module, _, kind = name.rpartition(".")
        if module in TOP:
            renamed[f"{TOP[module]}.{kind}"] = tensor
            continue
        place = next(place for place in places if name.startswith(place + "."))
        rest = name.removeprefix(place + ".")
        if ".resnets." in place:
            layer, _, kind = rest.rpartition(".")
            rest = f"{BLOCK[layer]}.{kind}"
        renamed[f"{places[place]}.{rest}"] = tensor
    assert len(renamed) == len(state)
    return {prefix + name: tensor for name, tensor in renamed.items()}
