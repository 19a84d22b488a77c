"""Small U-Nets of every form, with random weights."""

from dataclasses import replace

import torch
from torch import Tensor

from fewstep.models.net.config import UNetConfig
from fewstep.models.net.unet import UNet

SMALL = UNetConfig(
    in_channels=2,
    out_channels=2,
    channels=(16, 32),
    layers=1,
    down_attention=(False, True),
    up_attention=(True, False),
    down=("conv",),
    up=("block",),
    head_dim=8,
    groups=8,
    mid_attention_groups=8,
)
CONFIGS = {
    "no-labels": SMALL,
    "classes": replace(SMALL, num_classes=5, scale_shift=True),
    "continuous-label": replace(SMALL, label_range=(1.0, 100.0), down=("conv_asymmetric",), up=("conv",)),
    "fourier": replace(SMALL, time_embedding="fourier", mid_attention_groups=None, down=("block",)),
}


def random_unet(config: UNetConfig) -> UNet:
    """A U-Net without zeros, so that every layer counts."""
    torch.manual_seed(0)
    unet = UNet(config).eval()
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return unet


def arguments(config: UNetConfig, batch: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    values = {"x": torch.randn(batch, 2, 8, 12, generator=generator), "t": torch.linspace(1, 900, batch)}
    if config.num_classes is not None:
        values["labels"] = torch.arange(batch)
    if config.label_range is not None:
        values["labels"] = torch.linspace(1, 100, batch)
    return values
