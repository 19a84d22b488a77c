"""The U-Nets of the engine, and the reading and writing of model folders (`fewstep.models.load`)."""

from fewstep.models.net.build import build_unet, empty_unet
from fewstep.models.net.config import UNetConfig
from fewstep.models.net.unet import FlowMapUNet, UNet, count_parameters

__all__ = ["FlowMapUNet", "UNet", "UNetConfig", "build_unet", "count_parameters", "empty_unet"]
