"""diffusers' UNet2DConditionModel: its config.json as a UNetConfig, and its tensor names."""

from collections.abc import Sequence
from typing import Any, Final

from fewstep.fields import Fields, shown
from fewstep.models.layouts.diffusers import ACTIVATIONS, EMA_FIELDS, MAX_SIZE
from fewstep.models.layouts.keys import Naming
from fewstep.models.net.condition_config import MAX_DEPTH, MAX_WIDTH
from fewstep.models.net.config import MAX_CHANNELS, MAX_CLASSES, MAX_LAYERS, MAX_LEVELS, UNetConfig

CLASS: Final = "UNet2DConditionModel"
DOWN_BLOCKS: Final = ("CrossAttnDownBlock2D", "DownBlock2D")
UP_BLOCKS: Final = ("UpBlock2D", "CrossAttnUpBlock2D")
MID: Final = "UNetMidBlock2DCrossAttn"
USUAL_SIZE, USUAL_SIZE_XL = 64, 128  # of latents, where diffusers' pipelines are not told another

# What it can be told and fewstep has no layer for: read only where it says what Stable Diffusion says.
ONLY: Final[dict[str, Any]] = {
    "dual_cross_attention": False,
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "time_embedding_type": "positional",
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "attention_type": "default",
    "class_embeddings_concat": False,
    "cross_attention_norm": None,
    "num_attention_heads": None,
}


def config_from_diffusers_condition(data: Any, where: str) -> UNetConfig:
    """The UNetConfig of a UNet2DConditionModel's config.json.

    Raises ModelError, `where` in front, naming the first field that is unknown, out of bounds or not supported.
    """
    read = Fields(data, where)
    read.ignore("_diffusers_version", "_name_or_path", "sample_size", *EMA_FIELDS)
    # The attention that diffusers runs takes no notice of the first, nor this U-Net of the others.
    read.ignore("upcast_attention", "addition_embed_type_num_heads", "mid_block_only_cross_attention")
    read.only("_class_name", CLASS, CLASS)
    for name, value in ONLY.items():
        read.only(name, value, value)
    channels = read.integers("block_out_channels", 1, MAX_CHANNELS, (320, 640, 1280, 1280))
    levels = len(channels)
    if not 1 <= levels <= MAX_LEVELS:
        raise read.error("block_out_channels", f"has {levels} levels; allowed: 1 to {MAX_LEVELS}")
    down_default = (*(DOWN_BLOCKS[0],) * 3, DOWN_BLOCKS[1])
    down_blocks = _blocks(read, "down_block_types", DOWN_BLOCKS, down_default, levels)
    up_default = (UP_BLOCKS[0], *(UP_BLOCKS[1],) * 3)
    up_blocks = _blocks(read, "up_block_types", UP_BLOCKS, up_default, levels)[::-1]
    layers = _same(read, "layers_per_block", 1, MAX_LAYERS, 2)
    mid_block = read.optional_choice("mid_block_type", (MID,), MID) is not None
    down, up, mid = _depths(read, down_blocks, up_blocks, layers)
    groups = read.integer("norm_num_groups", 1, MAX_CHANNELS, 32)
    class_type = read.optional_choice("class_embed_type", ("projection",))
    added = read.optional_choice("addition_embed_type", ("text_time",)) is not None
    projected = read.optional_integer("projection_class_embeddings_input_dim", 1, MAX_WIDTH)
    if projected is None and (class_type is not None or added):
        raise read.error("projection_class_embeddings_input_dim", "is missing beside a projection of that width")
    classes = read.optional_integer("num_class_embeds", 1, MAX_CLASSES)
    size_channels = read.optional_integer("addition_time_embed_dim", 1, MAX_WIDTH)
    if added and size_channels is None:
        raise read.error("addition_time_embed_dim", "is missing beside addition_embed_type")
    context_input = read.optional_integer("encoder_hid_dim", 1, MAX_WIDTH)
    if read.optional_choice("encoder_hid_dim_type", ("text_proj",)) is not None and context_input is None:
        raise read.error("encoder_hid_dim", "is missing beside encoder_hid_dim_type")
    read.flag("use_linear_projection", False)  # a 1x1 convolution is the same product
    values = {
        "in_channels": read.integer("in_channels", 1, MAX_CHANNELS, 4),
        "out_channels": read.integer("out_channels", 1, MAX_CHANNELS, 4),
        "channels": list(channels),
        "layers": layers,
        "down_attention": [False] * levels,
        "up_attention": [False] * levels,
        "down": ["conv" if read.integer("downsample_padding", 0, 1, 1) else "conv_asymmetric"] * (levels - 1),
        "up": ["conv"] * (levels - 1),
        "mid_block": mid_block,
        "mid_attention": False,
        "mid_scale": read.number("mid_block_scale_factor", 1e-6, 1e6, 1.0),
        "groups": groups,
        "eps": read.number("norm_eps", 1e-12, 1.0, 1e-5),
        "activation": ACTIVATIONS[read.choice("act_fn", tuple(ACTIVATIONS), "silu")],
        "scale_shift": read.choice("resnet_time_scale_shift", ("default", "scale_shift"), "default") == "scale_shift",
        "embed_channels": read.optional_integer("time_embedding_dim", 1, 4 * MAX_CHANNELS),
        "cos_first": read.flag("flip_sin_to_cos", True),
        "freq_shift": read.number("freq_shift", -MAX_CHANNELS, MAX_CHANNELS, 0.0),
        "num_classes": classes if class_type is None else None,
        "dropout": read.number("dropout", 0.0, 0.99, 0.0),
        "center_input": read.flag("center_input_sample", False),
        "condition": {
            "context_width": _same(read, "cross_attention_dim", 1, MAX_WIDTH, 1280),
            "down": list(down),
            "up": list(up),
            "mid": mid if mid_block else 0,
            "heads": list(_for_each(read, "attention_head_dim", 1, MAX_WIDTH, 8, levels)),
            "only_cross": _only_cross(read, levels),
            "context_input": context_input,
            "label_width": None if class_type is None else projected,
            "added_width": projected if added else None,
            "size_channels": size_channels if added else None,
            "guidance_channels": read.optional_integer("time_cond_proj_dim", 4, MAX_WIDTH),
        },
    }
    read.finish()
    return UNetConfig.from_dict(values, where, _NAMES)


def latent_shape(data: Any, config: UNetConfig, where: str) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    """Channels, height and width of the latents, and a note where `sample_size` does not say the last two.

    What a U-Net predicts has the channels of what it denoises, or twice as many where it predicts the variance too;
    its further input channels are what stands beside that. Raises ModelError, `where` in front, for a size or for
    channels that no latents have.
    """
    read = Fields(data, where)
    once, out = config.in_channels, config.out_channels
    if out > once and out != 2 * once:
        allowed = f"at most {once}, as in_channels, or {2 * once} where it predicts the variance too"
        raise read.error("out_channels", f"got {out}; allowed: {allowed}")
    channels = out if out <= once else once
    if not read.has("sample_size"):
        condition = config.condition
        side = USUAL_SIZE if condition is None or condition.added_width is None else USUAL_SIZE_XL
        note = f"the config has no sample_size: latents of {side} x {side} are assumed"
        return (channels, side, side), (note,)
    if isinstance(read.data["sample_size"], list | tuple):
        sizes = read.integers("sample_size", 1, MAX_SIZE)
        if len(sizes) != 2:
            raise read.error("sample_size", f"has {len(sizes)} entries; allowed: an integer, or height and width")
        return (channels, sizes[0], sizes[1]), ()
    side = read.integer("sample_size", 1, MAX_SIZE)
    return (channels, side, side), ()


def naming(config: UNetConfig) -> Naming:
    """UNet2DConditionModel's names of the layers of a U-Net with this config."""
    places = {
        "conv_in": "conv_in",
        "time.linear_1": "time_embedding.linear_1",
        "time.linear_2": "time_embedding.linear_2",
        "guidance_features.linear": "time_embedding.cond_proj",
        "label": "class_embedding",
        "label.linear_1": "class_embedding.linear_1",
        "label.linear_2": "class_embedding.linear_2",
        "added.linear_1": "add_embedding.linear_1",
        "added.linear_2": "add_embedding.linear_2",
        "context_in": "encoder_hid_proj",
        "mid_1": "mid_block.resnets.0",
        "mid_2": "mid_block.resnets.1",
        "norm_out": "conv_norm_out",
        "conv_out": "conv_out",
    }
    condition = config.condition
    assert condition is not None
    down, up = condition.depths(config.levels)
    places |= _transformer("mid_transformer", "mid_block.attentions.0", condition.mid)
    for index in range(config.levels):
        for ours, depths in (("down", down[index]), ("up", up[config.levels - 1 - index])):
            theirs = f"{ours}_blocks.{index}"
            for stage, depth in enumerate(depths):
                places[f"{ours}.{index}.stages.{stage}.block"] = f"{theirs}.resnets.{stage}"
                places |= _transformer(
                    f"{ours}.{index}.stages.{stage}.transformer", f"{theirs}.attentions.{stage}", depth
                )
            places[f"{ours}.{index}.resample"] = f"{theirs}.{ours}samplers.0"
    return Naming(places, _LAYERS, "time_emb_proj", qkv=("to_q", "to_k", "to_v"), kv=("to_k", "to_v"))


def _transformer(ours: str, theirs: str, depth: int) -> dict[str, str]:
    places = {ours: theirs}
    for block in range(depth):
        own, there = f"{ours}.blocks.{block}", f"{theirs}.transformer_blocks.{block}"
        places |= {own: there, f"{own}.attention": f"{there}.attn1", f"{own}.cross": f"{there}.attn2"}
    return places


_LAYERS: Final = {
    "norm_1": "norm1",
    "norm_2": "norm2",
    "norm_3": "norm3",
    "conv_1": "conv1",
    "conv_2": "conv2",
    "skip": "conv_shortcut",
    "norm": "norm",
    "proj_in": "proj_in",
    "proj_out": "proj_out",
    "q": "to_q",
    "out": "to_out.0",
    "ff_in": "ff.net.0.proj",
    "ff_out": "ff.net.2",
    "conv": "conv",
}

# What our fields are called in a config.json, for messages.
_NAMES: Final = {
    "channels": "block_out_channels",
    "layers": "layers_per_block",
    "groups": "norm_num_groups",
    "condition.heads": "attention_head_dim",
}


def _depths(
    read: Fields, down_blocks: Sequence[str], up_blocks: Sequence[str], layers: int
) -> tuple[list[int], list[int], int]:
    """Depths of the transformers: behind each residual block on the way down, on the way up, and in the middle.

    A number for all, one for each level, or a list for each level with one for each residual block; the last needs
    `reverse_transformer_layers_per_block` for the way up, coarsest level first.
    """
    levels = len(down_blocks)
    said = _levels(read, "transformer_layers_per_block", levels, 1)
    reverse = "reverse_transformer_layers_per_block"
    said_up = _levels(read, reverse, levels, 1) if read.has(reverse) else said[::-1]
    if reverse not in read.data and any(isinstance(each, list | tuple) for each in said):
        raise read.error(reverse, "is missing beside transformer_layers_per_block of lists")
    last = said[-1]
    mid = last[0] if isinstance(last, list | tuple) else last
    down: list[int] = []
    up: list[int] = []
    for depth, kind in zip(said, down_blocks, strict=True):
        down += _stages(read, "transformer_layers_per_block", depth, layers, kind == DOWN_BLOCKS[0])
    for depth, kind in zip(said_up, up_blocks[::-1], strict=True):
        up += _stages(read, reverse, depth, layers + 1, kind == UP_BLOCKS[1])
    return down, up, mid


def _stages(read: Fields, name: str, depth: Any, stages: int, attends: bool) -> list[int]:
    if not attends:
        return [0] * stages
    each = list(depth) if isinstance(depth, list | tuple) else [depth] * stages
    if len(each) < stages:
        raise read.error(name, f"has {len(each)} entries for a level; allowed: {stages}, one for each residual block")
    return each[:stages]


def _levels(read: Fields, name: str, levels: int, default: int) -> list[Any]:
    """One entry for each level: an integer, or a list of them."""
    value = read.data.get(name, default)
    read.ignore(name)
    each = list(value) if isinstance(value, list | tuple) else [value] * levels
    flat = [number for entry in each for number in (entry if isinstance(entry, list | tuple) else [entry])]
    good = all(isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= MAX_DEPTH for number in flat)
    if len(each) != levels or not good:
        allowed = f"an integer from 1 to {MAX_DEPTH}, or one or a list of them for each of {levels} levels"
        raise read.error(name, f"got {shown(value)}; allowed: {allowed}")
    return each


def _blocks(read: Fields, name: str, allowed: Sequence[str], default: Sequence[str], levels: int) -> tuple[str, ...]:
    """The kind of each level."""
    values = read.choices(name, allowed, default)
    if len(values) != levels:
        raise read.error(name, f"has {len(values)} entries; allowed: {levels}, as block_out_channels has")
    return values


def _for_each(read: Fields, name: str, low: int, high: int, default: int, levels: int) -> tuple[int, ...]:
    """An integer for each level, or one for all."""
    if not isinstance(read.data.get(name, default), list | tuple):
        return (read.integer(name, low, high, default),) * levels
    values = read.integers(name, low, high)
    if len(values) != levels:
        raise read.error(name, f"has {len(values)} entries; allowed: an integer, or {levels} of them")
    return values


def _same(read: Fields, name: str, low: int, high: int, default: int) -> int:
    """One integer, also where it is written once for each level."""
    if not isinstance(read.data.get(name, default), list | tuple):
        return read.integer(name, low, high, default)
    values = read.integers(name, low, high)
    if len(set(values)) != 1:
        raise read.error(name, f"got {shown(list(values))}; supported: the same at every level")
    return values[0]


def _only_cross(read: Fields, levels: int) -> list[bool]:
    value = read.data.get("only_cross_attention", False)
    if isinstance(value, list | tuple):
        flags = read.flags("only_cross_attention")
        if len(flags) != levels:
            raise read.error("only_cross_attention", f"has {len(flags)} entries; allowed: a flag, or {levels} of them")
        return list(flags)
    return [read.flag("only_cross_attention", False)] * levels
