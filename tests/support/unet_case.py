"""Small U-Nets of every form, with random weights."""

from dataclasses import replace

import torch
from torch import Tensor

from fewstep.models.net.build import build_unet
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
    "flow-map": replace(SMALL, second_time="added", num_classes=5),
    "flow-map-joined": replace(SMALL, second_time="joined", num_classes=5, label_place="features"),
    "ncsn++": replace(
        SMALL,
        stem=12,
        down=("block",),
        up_attention=(True, True),
        up_attention_last=True,
        resample_filter=(1, 3, 3, 1),
        skip_projection=True,
        pyramid=True,
        block_scale=2**0.5,
        mid_scale=2**0.5,
        groups=8,
        group_channels=4,
        time_embedding="fourier_of_t",
    ),
}


def random_unet(config: UNetConfig) -> UNet:
    """A U-Net without zeros, so that every layer counts."""
    torch.manual_seed(0)
    unet = build_unet(config).eval()
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return unet


def arguments(config: UNetConfig, batch: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    values = {"x": torch.randn(batch, 2, 8, 12, generator=generator), "t": torch.linspace(1, 900, batch)}
    if config.num_classes is not None:
        values["labels"] = torch.arange(batch)
    if config.second_time is not None:
        values["r"] = torch.linspace(1, 300, batch)
    if config.label_range is not None:
        values["labels"] = torch.linspace(1, 100, batch)
    return values
