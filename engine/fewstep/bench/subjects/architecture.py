"""A U-Net as it was published: what `cost` counts on no memory at all, and what gets random weights to be timed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fewstep.diffusion.schedules import Schedule
from fewstep.models.layouts import diffusers, diffusers_condition
from fewstep.models.layouts.keys import Keys
from fewstep.models.net.config import UNetConfig
from fewstep.models.net.unet import UNet

PIXELS, CONDITIONAL = "UNet2DModel", diffusers_condition.CLASS  # classes of diffusers


@dataclass(frozen=True)
class Architecture:
    """A U-Net without weights, and what a sampling loop must know of it.

    Attributes:
        title: what it is.
        unet: the network.
        shape: (C, H, W) of one sample.
        schedule, prediction, conditions, defaults: as of a `Model`.
        given: what is given for each sample beside labels, by the names of the network's call, and the shape of each.
        diffusers_class: of its counterpart there; "" where it has none.
        diffusers_config: of that.
    """

    title: str
    unet: UNetConfig
    shape: tuple[int, int, int]
    schedule: Schedule
    prediction: str = "eps"
    conditions: Mapping[str, Any] | None = None
    defaults: Mapping[str, Any] | None = None
    given: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    diffusers_class: str = ""
    diffusers_config: Mapping[str, Any] = field(default_factory=dict)


def unet_config(config: Mapping[str, Any]) -> tuple[str, UNetConfig]:
    """Which class of diffusers a config is of, and the network that it means. ModelError for one that is neither's."""
    if "cross_attention_dim" in config:
        named = {"_class_name": CONDITIONAL, **config}
        return CONDITIONAL, diffusers_condition.config_from_diffusers_condition(named, CONDITIONAL)
    return PIXELS, diffusers.config_from_diffusers({"_class_name": PIXELS, **config}, PIXELS)


def diffusers_keys(kind: str, unet: UNet) -> Keys:
    """What a class of diffusers calls the tensors of a network of ours."""
    naming = diffusers_condition.naming if kind == CONDITIONAL else diffusers.naming
    return naming(unet.config).keys(unet)


def of_diffusers(title: str, config: Mapping[str, Any], schedule: Schedule, **known: Any) -> Architecture:
    """What a class of diffusers makes of a config, with square samples of its `sample_size`.

    Args:
        title: what it is.
        config: the arguments of UNet2DModel, or of UNet2DConditionModel where it has a cross_attention_dim.
        schedule: that it is trained on.
        known: further attributes of `Architecture`.
    """
    kind, unet = unet_config(config)
    size = config["sample_size"]
    shape = (config.get("in_channels", 4 if kind == CONDITIONAL else 3), size, size)
    counterpart: dict[str, Any] = {"diffusers_class": kind, "diffusers_config": config}
    return Architecture(title, unet, shape, schedule, **{"given": given_shapes(unet, shape), **counterpart, **known})


TOKENS = 77  # of a text encoder of CLIP
SIZES = 6  # of SDXL: (height, width) as it was, (top, left) of the crop, (height, width) as it is


def given_shapes(unet: UNetConfig, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """What a network is given for one sample [C, H, W] beside x, t, classes and a guidance scale, without its batch."""
    given: dict[str, tuple[int, ...]] = {}
    if unet.in_channels > shape[0]:
        given["concat"] = (unet.in_channels - shape[0], *shape[1:])
    own = unet.condition
    if own is None:
        return given
    if any((*own.down, *own.up, own.mid)):
        given["context"] = (TOKENS, own.given_width)
    if own.label_width is not None:
        given["labels"] = (own.label_width,)
    if own.added_width is not None and own.size_channels is not None:
        given |= {"pooled": (own.added_width - SIZES * own.size_channels,), "sizes": (SIZES,)}
    return given
