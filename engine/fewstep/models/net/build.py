"""A U-Net of a config: the config says which of the three it is."""

from typing import Final

import torch

from fewstep.errors import ModelError
from fewstep.models.net.conditional import ConditionalUNet
from fewstep.models.net.config import UNetConfig
from fewstep.models.net.unet import FlowMapUNet, UNet, count_parameters

MAX_PARAMETERS: Final = 8_000_000_000


def build_unet(config: UNetConfig) -> UNet:
    """A new U-Net of the config, with cross-attention, with a second time, or with neither."""
    if config.condition is not None:
        return ConditionalUNet(config)
    return UNet(config) if config.second_time is None else FlowMapUNet(config)


def empty_unet(config: UNetConfig, where: str = "UNetConfig") -> UNet:
    """The U-Net on the meta device: shapes without memory.

    ModelError, with `where` in front, if it would be absurdly large.
    """
    with torch.device("meta"):
        unet = build_unet(config)
    total = count_parameters(unet)
    if total > MAX_PARAMETERS:
        raise ModelError(f"{where}: the U-Net has {total:,} parameters; allowed: at most {MAX_PARAMETERS:,}")
    return unet
