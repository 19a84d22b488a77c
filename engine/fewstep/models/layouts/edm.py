"""EDM, the code base of Karras et al. (2206.00364): its DDPM++, NCSN++ and ADM as a UNetConfig, their tensor names.

FastGen, which distils such networks, has the same with a second time r, and with networks that are not preconditioned.
"""

import math
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from fewstep.fields import Fields
from fewstep.models.layouts.keys import Keys, Naming, Piece
from fewstep.models.net.config import MAX_CHANNELS, MAX_CLASSES, MAX_LAYERS, UNetConfig
from fewstep.models.net.unet import UNet

SONG: Final = "SongUNet"
ADM: Final = "DhariwalUNet"
MAX_SIZE: Final = 16_384
HEAD: Final = 64  # channels of an attention head of ADM
GROUPS: Final = 32  # of a norm
GROUP: Final = 4  # channels that each of them has at least


def config_from_edm(read: Fields, twice: bool) -> tuple[UNetConfig, int]:
    """The UNetConfig that the arguments of EDM's networks mean, and how many classes the network knows.

    Where labels were dropped in training, the null class, which there is no class at all, is one row more.

    Args:
        read: the arguments; the caller calls `finish`.
        twice: whether it predicts a variance too.

    Raises:
        ModelError: naming the first argument that is out of bounds or not supported.
    """
    kind = read.choice("model_type", (SONG, ADM), ADM)
    channels = read.integer("img_channels", 1, MAX_CHANNELS)
    classes = read.integer("label_dim", 0, MAX_CLASSES, 0)
    dropped = read.number("label_dropout", 0.0, 1.0, 0.0) > 0
    read.integer("augment_dim", 0, MAX_CHANNELS, 0)  # no augmentation while sampling: zeros, which add nothing
    read.flag("use_fp16", False)  # the dtype is the caller's
    values = {
        "in_channels": channels,
        "out_channels": 2 * channels if twice else channels,
        "group_channels": GROUP,
        "groups": GROUPS,
        "dropout": read.number("dropout", 0.0, 0.99, 0.1),
        "num_classes": classes + dropped if classes else None,
        "second_time": "joined" if read.flag("r_timestep", False) else None,
        **(_song(read, classes > 0) if kind == SONG else _adm(read)),
    }
    return UNetConfig.from_dict(values, read.where, _NAMES), classes


def _song(read: Fields, labelled: bool) -> dict[str, Any]:
    """DDPM++ and NCSN++ (Song et al., 2011.13456, appendix H), as Karras et al. trained them."""
    width = read.integer("model_channels", 1, MAX_CHANNELS, 128)
    values = _levels(read, width, layers=4, multipliers=(1, 2, 2, 2), attention=(16,))
    features = width * read.integer("channel_mult_noise", 1, 64, 1)
    if features % 2:
        raise read.error("channel_mult_noise", f"makes {features} features of time; allowed: an even number")
    fourier = read.choice("embedding_type", ("positional", "fourier"), "positional") == "fourier"
    read.only("decoder_type", "standard", "standard")
    return values | {
        "stem": width,
        "up_attention_last": True,
        "resample_filter": list(read.integers("resample_filter", 1, MAX_CHANNELS, (1, 1))),
        "skip_projection": True,
        "pyramid": read.choice("encoder_type", ("standard", "residual"), "standard") == "residual",
        "block_scale": math.sqrt(2),
        "mid_scale": math.sqrt(2),
        "eps": 1e-6,
        "time_embedding": "fourier_of_t" if fourier else "sinusoidal",
        "time_channels": features // 2 if fourier else features,
        "cos_first": False,
        "freq_shift": 0.0 if fourier else 1.0,
        "label_place": "features" if labelled else "embedding",
    }


def _adm(read: Fields) -> dict[str, Any]:
    """ADM (Dhariwal and Nichol, 2105.05233, section 3)."""
    width = read.integer("model_channels", 1, MAX_CHANNELS, 192)
    values = _levels(read, width, layers=3, multipliers=(1, 2, 3, 4), attention=(32, 16, 8))
    channels = values["channels"]
    # A layer of less than a head has no heads there, and so no attention.
    attends = [here and wide >= HEAD for here, wide in zip(values["down_attention"], channels, strict=True)]
    for wide, here in zip(channels, (*attends[:-1], True), strict=True):
        if here and wide > HEAD and wide % HEAD:
            problem = f"makes a level of {wide} channels with attention; allowed: multiples of {HEAD}, as a head has"
            raise read.error("channel_mult", problem)
    return values | {
        "down_attention": attends,
        "up_attention": attends,
        "mid_attention": channels[-1] >= HEAD,
        "head_dim": HEAD,
        "scale_shift": True,
        "time_channels": width,
    }


def _levels(
    read: Fields, width: int, layers: int, multipliers: tuple[int, ...], attention: tuple[int, ...]
) -> dict[str, Any]:
    """What both have: widths, depths, where there is attention, and how wide the embedding is."""
    size = read.integer("img_resolution", 1, MAX_SIZE)
    channels = [width * each for each in read.integers("channel_mult", 1, 64, multipliers)]
    resolutions = read.integers("attn_resolutions", 0, MAX_SIZE, attention)
    attends = [size >> level in resolutions for level in range(len(channels))]
    steps = ["block"] * (len(channels) - 1)
    return {
        "channels": channels,
        "layers": read.integer("num_blocks", 1, MAX_LAYERS, layers),
        "down_attention": attends,
        "up_attention": attends,
        "down": steps,
        "up": steps,
        "mid_attention_groups": min(GROUPS, channels[-1] // GROUP) if channels else None,
        "embed_channels": width * read.integer("channel_mult_emb", 1, 64, 4),
    }


def keys(config: UNetConfig, size: int, classes: int) -> Callable[[UNet], Keys]:
    """What EDM calls the tensors of a U-Net with this config, for images of so many pixels a side."""
    naming = _naming(config, size)

    def of(unet: UNet) -> Keys:
        named = naming.keys(unet)
        for ours, theirs in (("features", "map_noise"), ("features_r", "r_timestep")):
            if f"time.{ours}.frequencies" in named:
                named[f"time.{ours}.frequencies"] = (Piece(f"{theirs}.freqs", (config.time_width,)),)
        if "label.weight" in named:
            width = unet.get_parameter("label.weight").shape[1]
            named["label.weight"] = (Piece("map_label.weight", (width, classes)),)
            if config.label_place == "features":
                named["label.weight"] += (Piece("map_label.bias", (width,)),)
        return named

    return of


def class_rows(config: UNetConfig, classes: int) -> Callable[[list[Tensor]], Tensor]:
    """The rows of the embedding from EDM's linear map of a one-hot label; no class is all zeros there.

    ADM     e_k = W[:, k],                     e_null = 0
    DDPM++  e_k = W[:, k] sqrt(classes) + b,   e_null = b
    """
    added = 0 if config.num_classes is None else config.num_classes - classes

    def rows(pieces: list[Tensor]) -> Tensor:
        scale = math.sqrt(classes) if config.label_place == "features" else 1.0
        known = scale * pieces[0].t()
        every = torch.cat([known, known.new_zeros(added, known.shape[1])])
        return every + pieces[1] if len(pieces) > 1 else every.contiguous()

    return rows


def unused(config: UNetConfig) -> Callable[[str, tuple[int, ...]], bool]:
    """What a file holds beside the network: labels of augmentations, a weight of losses, and filters that are known."""
    side = len(config.resample_filter)

    def is_unused(name: str, shape: tuple[int, ...]) -> bool:
        if name.endswith("resample_filter"):
            return shape == (1, 1, side, side)
        return name.endswith(("map_augment.weight", "logvar_linear.weight", "logvar_linear.bias"))

    return is_unused


def _naming(config: UNetConfig, size: int) -> Naming:
    song = config.up_attention_last
    sides = [size >> level for level in range(config.levels)]
    coarsest, finest = f"{sides[-1]}x{sides[-1]}", f"{size}x{size}"
    places = {
        "conv_in": f"enc.{finest}_conv",
        "time.linear_1": "map_layer0",
        "time.linear_2": "map_layer1",
        "time.features": "map_noise",
        "time.features_r": "r_timestep",
        "label": "map_label",
        "mid_1": f"dec.{coarsest}_in0",
        "mid_attention": f"dec.{coarsest}_in0",
        "mid_2": f"dec.{coarsest}_in1",
        "norm_out": f"dec.{finest}_aux_norm" if song else "out_norm",
        "conv_out": f"dec.{finest}_aux_conv" if song else "out_conv",
    }
    for level, side in enumerate(sides):
        index = config.levels - 1 - level
        for stage in range(config.layers + 1):
            for ours, theirs in ((f"down.{level}", "enc"), (f"up.{index}", "dec")):
                block = f"{theirs}.{side}x{side}_block{stage}"
                places |= {f"{ours}.stages.{stage}.{part}": block for part in ("block", "attention")}
        below = f"{side // 2}x{side // 2}"
        places[f"down.{level}.resample"] = f"enc.{below}_down"
        places[f"down.{level}.pyramid.conv"] = f"enc.{below}_aux_residual"
        places[f"up.{index}.resample"] = f"dec.{2 * side}x{2 * side}_up"
    return Naming(places, _LAYERS, projection="affine", qkv=("qkv",), qkv_order="channel")


_LAYERS: Final = {
    "norm_1": "norm0",
    "conv_1": "conv0",
    "norm_2": "norm1",
    "conv_2": "conv1",
    "skip": "skip",
    "norm": "norm2",
    "out": "proj",
}

# What our fields are called among EDM's arguments, for messages.
_NAMES: Final = {"channels": "channel_mult", "layers": "num_blocks", "down_attention": "attn_resolutions"}
