"""ADM, the code base guided-diffusion (Dhariwal and Nichol 2021): its flags as a UNetConfig, its tensor names."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from fewstep.errors import ModelError
from fewstep.models.layouts.keys import Naming
from fewstep.models.net.config import UNetConfig

# What an empty --channel_mult means, by --image_size.
_MULTIPLIERS: Final = {
    512: (Fraction(1, 2), 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
}


@dataclass(frozen=True)
class Flags:
    """guided-diffusion's flags, by their names.

    `attention_resolutions` are in pixels, as on its command line; `num_classes` is given for --class_cond True, and
    `label_range`, which it does not know, for a continuous label.
    """

    image_size: int
    num_channels: int
    num_res_blocks: int
    in_channels: int = 3
    channel_mult: Sequence[float] = ()
    attention_resolutions: Sequence[int] = (16, 8)
    num_heads: int = 4
    num_head_channels: int = -1
    use_scale_shift_norm: bool = True
    resblock_updown: bool = False
    learn_sigma: bool = False
    num_classes: int | None = None
    label_range: tuple[float, float] | None = None
    dropout: float = 0.0


def config_from_adm(flags: Flags) -> UNetConfig:
    """The UNetConfig that some flags mean. ModelError for flags that make no U-Net."""
    multipliers = tuple(flags.channel_mult) or _MULTIPLIERS.get(flags.image_size)
    if multipliers is None:
        sizes = ", ".join(map(str, _MULTIPLIERS))
        raise ModelError(f"ADM flags: image_size: got {flags.image_size} without channel_mult; allowed: {sizes}")
    levels = len(multipliers)
    attention = tuple(flags.image_size // 2**level in flags.attention_resolutions for level in range(levels))
    for level, attends in enumerate((*attention[:-1], True)):  # the middle attends in any case, at the coarsest level
        width = int(multipliers[level] * flags.num_channels)
        if attends and flags.num_head_channels != -1 and width % flags.num_head_channels:
            problem = f"got {flags.num_head_channels}; allowed: -1, or a divisor of {width}, the width of level {level}"
            raise ModelError(f"ADM flags: num_head_channels: {problem}")
    step = "block" if flags.resblock_updown else "conv"
    return UNetConfig(
        in_channels=flags.in_channels,
        out_channels=flags.in_channels * (2 if flags.learn_sigma else 1),
        channels=tuple(int(multiplier * flags.num_channels) for multiplier in multipliers),
        layers=flags.num_res_blocks,
        down_attention=attention,
        up_attention=attention,
        down=(step,) * (levels - 1),
        up=(step,) * (levels - 1),
        head_dim=None if flags.num_head_channels == -1 else flags.num_head_channels,
        heads=flags.num_heads,
        scale_shift=flags.use_scale_shift_norm,
        time_channels=flags.num_channels,
        embed_channels=4 * flags.num_channels,
        num_classes=flags.num_classes,
        label_range=flags.label_range,
        dropout=flags.dropout,
    )


def naming(config: UNetConfig, *, new_attention_order: bool = False) -> Naming:
    """guided-diffusion's names of the layers of a U-Net with this config.

    Its attention stores q, k and v head by head unless it was trained with --use_new_attention_order.
    """
    places = {
        "conv_in": "input_blocks.0.0",
        "time.linear_1": "time_embed.0",
        "time.linear_2": "time_embed.2",
        "label": "label_emb",
        "label.linear_1": "label_emb.0",
        "label.linear_2": "label_emb.2",
        "mid_1": "middle_block.0",
        "mid_attention": "middle_block.1",
        "mid_2": "middle_block.2",
        "norm_out": "out.0",
        "conv_out": "out.2",
    }
    for level in range(config.levels):
        first = 1 + level * (config.layers + 1)
        for stage in range(config.layers):
            places[f"down.{level}.stages.{stage}.block"] = f"input_blocks.{first + stage}.0"
            places[f"down.{level}.stages.{stage}.attention"] = f"input_blocks.{first + stage}.1"
        halving = f"input_blocks.{first + config.layers}.0"
        places[f"down.{level}.resample"] = halving
        places[f"down.{level}.resample.conv"] = f"{halving}.op"
    for index, level in enumerate(reversed(range(config.levels))):
        first = index * (config.layers + 1)
        for stage in range(config.layers + 1):
            places[f"up.{index}.stages.{stage}.block"] = f"output_blocks.{first + stage}.0"
            places[f"up.{index}.stages.{stage}.attention"] = f"output_blocks.{first + stage}.1"
        after_attention = 2 if config.up_attention[level] else 1
        places[f"up.{index}.resample"] = f"output_blocks.{first + config.layers}.{after_attention}"
    return Naming(
        places, _LAYERS, projection="emb_layers.1", qkv=("qkv",), qkv_order="kind" if new_attention_order else "head"
    )


_LAYERS: Final = {
    "norm_1": "in_layers.0",
    "conv_1": "in_layers.2",
    "norm_2": "out_layers.0",
    "conv_2": "out_layers.3",
    "skip": "skip_connection",
    "norm": "norm",
    "out": "proj_out",
    "conv": "conv",
}
