"""diffusers' UNet2DModel: its config.json as a UNetConfig, and its tensor names."""

from typing import Any, Final

from fewstep.fields import Fields
from fewstep.models.layouts.keys import Naming
from fewstep.models.net.config import MAX_CHANNELS, MAX_CLASSES, MAX_LAYERS, UNetConfig

DOWN_BLOCKS: Final = ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D")
UP_BLOCKS: Final = ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D")
RESAMPLING: Final = ("conv", "resnet")

# Attention layers were renamed in diffusers 0.15; checkpoints from before carry the old names.
_OLD_ATTENTION: Final = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def config_from_diffusers(data: Any, where: str) -> UNetConfig:
    """The UNetConfig of a UNet2DModel's config.json.

    Raises ModelError, `where` in front, naming the first field that is unknown, out of bounds or not supported.
    """
    read = Fields(data, where)
    read.ignore("_diffusers_version", "_name_or_path", "sample_size", "num_train_timesteps")
    read.only("_class_name", "UNet2DModel", "UNet2DModel")
    for name, supported in _FIXED.items():
        read.only(name, supported, supported)
    read.choice("act_fn", ("silu", "swish"), "silu")
    down_blocks = read.choices("down_block_types", DOWN_BLOCKS, ("DownBlock2D", *["AttnDownBlock2D"] * 3))
    up_blocks = read.choices("up_block_types", UP_BLOCKS, (*["AttnUpBlock2D"] * 3, "UpBlock2D"))[::-1]
    down_type = read.choice("downsample_type", RESAMPLING, "conv")
    up_type = read.choice("upsample_type", RESAMPLING, "conv")
    padding = read.integer("downsample_padding", 0, 1, 1)
    scale_shift = read.choice("resnet_time_scale_shift", ("default", "scale_shift"), "default") == "scale_shift"
    fourier = read.choice("time_embedding_type", ("positional", "fourier"), "positional") == "fourier"
    groups = read.integer("norm_num_groups", 1, MAX_CHANNELS, 32)
    channels = read.integers("block_out_channels", 1, MAX_CHANNELS, (224, 448, 672, 896))
    values = {
        "in_channels": read.integer("in_channels", 1, MAX_CHANNELS, 3),
        "out_channels": read.integer("out_channels", 1, MAX_CHANNELS, 3),
        "channels": list(channels),
        "layers": read.integer("layers_per_block", 1, MAX_LAYERS, 2),
        "down_attention": [block == "AttnDownBlock2D" for block in down_blocks],
        "up_attention": [block == "AttnUpBlock2D" for block in up_blocks],
        "down": [_down(block, down_type, padding) for block in down_blocks[:-1]],
        "up": [_up(block, up_type) for block in up_blocks[1:]],
        "mid_attention": read.flag("add_attention", True),
        "head_dim": read.optional_integer("attention_head_dim", 1, MAX_CHANNELS, 8),
        "groups": groups,
        "mid_attention_groups": read.optional_integer("attn_norm_num_groups", 1, MAX_CHANNELS)
        or (None if scale_shift else groups),
        "eps": read.number("norm_eps", 1e-12, 1.0, 1e-5),
        "scale_shift": scale_shift,
        "time_embedding": "fourier" if fourier else "sinusoidal",
        "embed_channels": read.optional_integer("time_embedding_dim", 1, 4 * MAX_CHANNELS),
        # The Fourier features of UNet2DModel do not heed these two.
        "cos_first": read.flag("flip_sin_to_cos", True) and not fourier,
        "freq_shift": read.integer("freq_shift", 0, MAX_CHANNELS, 0) * (not fourier),
        "num_classes": read.optional_integer("num_class_embeds", 1, MAX_CLASSES),
        "dropout": read.number("dropout", 0.0, 0.99, 0.0),
        "center_input": read.flag("center_input_sample", False),
    }
    read.finish()
    return UNetConfig.from_dict(values, where)


def sample_size(data: Any, where: str) -> tuple[int, int]:
    """Height and width from `sample_size`, an integer or a pair."""
    read = Fields(data, where)
    if isinstance(read.data.get("sample_size"), list):
        sizes = read.integers("sample_size", 1, 65_536)
        if len(sizes) != 2:
            raise read.error("sample_size", f"has {len(sizes)} entries; allowed: an integer, or height and width")
        return sizes[0], sizes[1]
    size = read.integer("sample_size", 1, 65_536)
    return size, size


def naming(config: UNetConfig) -> Naming:
    """UNet2DModel's names of the layers of a U-Net with this config."""
    places = {
        "conv_in": "conv_in",
        "time.features": "time_proj",
        "time.linear_1": "time_embedding.linear_1",
        "time.linear_2": "time_embedding.linear_2",
        "label": "class_embedding",
        "mid_1": "mid_block.resnets.0",
        "mid_attention": "mid_block.attentions.0",
        "mid_2": "mid_block.resnets.1",
        "norm_out": "conv_norm_out",
        "conv_out": "conv_out",
    }
    for index in range(config.levels):
        for ours, stages in (("down", config.layers), ("up", config.layers + 1)):
            theirs = f"{ours}_blocks.{index}"
            for stage in range(stages):
                places[f"{ours}.{index}.stages.{stage}.block"] = f"{theirs}.resnets.{stage}"
                places[f"{ours}.{index}.stages.{stage}.attention"] = f"{theirs}.attentions.{stage}"
            places[f"{ours}.{index}.resample"] = f"{theirs}.{ours}samplers.0"
    return Naming(places, _LAYERS, projection="time_emb_proj", qkv=("to_q", "to_k", "to_v"))


def modern_name(name: str) -> str:
    """A tensor's name as diffusers writes it now."""
    parts = name.split(".")
    if "attentions" in parts and len(parts) > 1:
        parts[-2] = _OLD_ATTENTION.get(parts[-2], parts[-2])
    return ".".join(parts)


_LAYERS: Final = {
    "norm_1": "norm1",
    "conv_1": "conv1",
    "norm_2": "norm2",
    "conv_2": "conv2",
    "skip": "conv_shortcut",
    "norm": "group_norm",
    "out": "to_out.0",
    "conv": "conv",
}
_FIXED: Final[dict[str, Any]] = {
    "mid_block_type": "UNetMidBlock2D",
    "mid_block_scale_factor": 1,
    "class_embed_type": None,
}


def _down(block: str, resampling: str, padding: int) -> str:
    # A DownBlock2D takes no notice of downsample_type.
    if block == "ResnetDownsampleBlock2D" or (block == "AttnDownBlock2D" and resampling == "resnet"):
        return "block"
    return "conv" if padding else "conv_asymmetric"


def _up(block: str, resampling: str) -> str:
    resnet = block == "ResnetUpsampleBlock2D" or (block == "AttnUpBlock2D" and resampling == "resnet")
    return "block" if resnet else "conv"
