"""diffusers' UNet2DModel: its config.json as a UNetConfig, and its tensor names."""

from typing import Any, Final

from fewstep.fields import Fields
from fewstep.models.layouts.keys import Naming
from fewstep.models.net.config import MAX_CHANNELS, MAX_CLASSES, MAX_LAYERS, UNetConfig

DOWN_BLOCKS: Final = ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D")
UP_BLOCKS: Final = ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D")
RESAMPLING: Final = ("conv", "resnet")
MAX_SIZE: Final = 65_536
ACTIVATIONS: Final = {"silu": "silu", "swish": "silu", "gelu": "gelu", "mish": "mish", "relu": "relu"}

# What diffusers' EMAModel writes into the config of the averaged weights, such as those of a folder unet_ema.
EMA_FIELDS: Final = (
    "decay",
    "inv_gamma",
    "min_decay",
    "optimization_step",
    "power",
    "update_after_step",
    "use_ema_warmup",
)

# Attention layers were renamed in diffusers 0.15; checkpoints from before carry the old names.
_OLD_ATTENTION: Final = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def config_from_diffusers(data: Any, where: str) -> UNetConfig:
    """The UNetConfig of a UNet2DModel's config.json.

    Raises ModelError, `where` in front, naming the first field that is unknown, out of bounds or not supported.
    """
    read = Fields(data, where)
    read.ignore("_diffusers_version", "_name_or_path", "sample_size", "num_train_timesteps", *EMA_FIELDS)
    read.only("_class_name", "UNet2DModel", "UNet2DModel")
    read.only("class_embed_type", None)
    mid_block = read.optional_choice("mid_block_type", ("UNetMidBlock2D",), "UNetMidBlock2D") is not None
    down_blocks = read.choices("down_block_types", _old(DOWN_BLOCKS), ("DownBlock2D", *["AttnDownBlock2D"] * 3))
    up_blocks = read.choices("up_block_types", _old(UP_BLOCKS), (*["AttnUpBlock2D"] * 3, "UpBlock2D"))
    down_blocks, up_blocks = _new(down_blocks), _new(up_blocks)[::-1]
    down_type = read.optional_choice("downsample_type", RESAMPLING, "conv") or "conv"
    up_type = read.optional_choice("upsample_type", RESAMPLING, "conv") or "conv"
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
        "mid_block": mid_block,
        "mid_attention": read.flag("add_attention", True),
        "mid_scale": read.number("mid_block_scale_factor", 1e-6, 1e6, 1.0),
        "head_dim": read.optional_integer("attention_head_dim", 1, MAX_CHANNELS, 8),
        "groups": groups,
        "mid_attention_groups": read.optional_integer("attn_norm_num_groups", 1, MAX_CHANNELS)
        or (None if scale_shift else groups),
        "eps": read.number("norm_eps", 1e-12, 1.0, 1e-5),
        "activation": ACTIVATIONS[read.choice("act_fn", tuple(ACTIVATIONS), "silu")],
        "scale_shift": scale_shift,
        "time_embedding": "fourier" if fourier else "sinusoidal",
        "embed_channels": read.optional_integer("time_embedding_dim", 1, 4 * MAX_CHANNELS),
        # The Fourier features of UNet2DModel do not heed these two.
        "cos_first": read.flag("flip_sin_to_cos", True) and not fourier,
        "freq_shift": read.number("freq_shift", -MAX_CHANNELS, MAX_CHANNELS, 0.0) * (not fourier),
        "num_classes": read.optional_integer("num_class_embeds", 1, MAX_CLASSES),
        "dropout": read.number("dropout", 0.0, 0.99, 0.0),
        "center_input": read.flag("center_input_sample", False),
    }
    read.finish()
    config = UNetConfig.from_dict(values, where, _NAMES)
    once, twice = config.in_channels, 2 * config.in_channels
    if config.out_channels not in (once, twice):
        allowed = f"{once}, or {twice} where it predicts the variance too"
        raise read.error("out_channels", f"got {config.out_channels} beside in_channels {once}; allowed: {allowed}")
    return config


def image_shape(data: Any, config: UNetConfig, where: str) -> tuple[int, int, int]:
    """Channels, height and width of an image, the last two from `sample_size`, an integer or a pair.

    Raises ModelError, `where` in front, for a size that no image of this U-Net has.
    """
    read = Fields(data, where)
    if not read.has("sample_size"):
        problem = "got None; allowed: an integer from 1, or from_pretrained(folder, shape=(channels, height, width))"
        raise read.error("sample_size", problem)
    if isinstance(read.data.get("sample_size"), list):
        sizes = read.integers("sample_size", 1, MAX_SIZE)
        if len(sizes) != 2:
            raise read.error("sample_size", f"has {len(sizes)} entries; allowed: an integer, or height and width")
        height, width = sizes
    else:
        height = width = read.integer("sample_size", 1, MAX_SIZE)
    multiple = config.size_multiple
    if height % multiple or width % multiple:
        allowed = f"multiples of {multiple}, as it is halved between {config.levels} levels"
        raise read.error("sample_size", f"got {height} x {width}; allowed: {allowed}")
    return config.in_channels, height, width


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

# What our fields are called in a config.json, for messages.
_NAMES: Final = {
    "channels": "block_out_channels",
    "layers": "layers_per_block",
    "down_attention": "down_block_types",
    "up_attention": "up_block_types",
    "down": "down_block_types",
    "up": "up_block_types",
    "head_dim": "attention_head_dim",
    "groups": "norm_num_groups",
    "mid_attention_groups": "attn_norm_num_groups",
}

_OLD_BLOCK: Final = "UNetRes"  # how the names of blocks began in the first checkpoints, which diffusers still reads


def _old(names: tuple[str, ...]) -> tuple[str, ...]:
    return (*names, *(_OLD_BLOCK + name for name in names))


def _new(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name.removeprefix(_OLD_BLOCK) for name in names)


def _down(block: str, resampling: str, padding: int) -> str:
    # A DownBlock2D takes no notice of downsample_type.
    if block == "ResnetDownsampleBlock2D" or (block == "AttnDownBlock2D" and resampling == "resnet"):
        return "block"
    return "conv" if padding else "conv_asymmetric"


def _up(block: str, resampling: str) -> str:
    resnet = block == "ResnetUpsampleBlock2D" or (block == "AttnUpBlock2D" and resampling == "resnet")
    return "block" if resnet else "conv"
