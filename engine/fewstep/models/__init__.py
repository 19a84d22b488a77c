"""The U-Nets of the engine, and the reading and writing of model folders (`fewstep.models.load`)."""

from fewstep.models.net.config import UNetConfig
from fewstep.models.net.unet import UNet, count_parameters, empty_unet

__all__ = ["UNet", "UNetConfig", "count_parameters", "empty_unet"]
