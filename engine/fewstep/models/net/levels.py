"""The levels of a U-Net: what happens at one resolution on the way down, and on the way up."""

import torch
from torch import Tensor, nn

from fewstep.models.net.blocks import Downsample, Pyramid, ResidualBlock, SelfAttention, Upsample
from fewstep.models.net.config import UNetConfig


class Stage(nn.Module):
    """A residual block, and self-attention after it where the level has it."""

    def __init__(self, config: UNetConfig, in_channels: int, channels: int, attends: bool) -> None:
        super().__init__()
        groups, scale = config.groups_of(channels), config.block_scale
        self.block = ResidualBlock(config, in_channels, channels, divisor=scale)
        self.attention = SelfAttention(config, channels, groups, scale) if attends else nn.Identity()

    def forward(self, h: Tensor, modulation: Tensor) -> Tensor:
        """h [B, C_in, H, W], modulation [B, M] -> [B, C, H, W]."""
        result: Tensor = self.attention(self.block(h, modulation))
        return result


class DownLevel(nn.Module):
    """One resolution on the way down: stages, then a halving; every result is kept for the way up.

    With a pyramid what the halving gives is (h + pyramid(entered)) / block_scale, `entered` being the image or what the
    level above gave (Song et al. 2021, NCSN++).
    """

    def __init__(self, config: UNetConfig, level: int, in_channels: int) -> None:
        super().__init__()
        self.scale = config.block_scale
        channels, attends = config.channels[level], config.down_attention[level]
        widths = [in_channels] + [channels] * (config.layers - 1)
        self.stages = nn.ModuleList(Stage(config, width, channels, attends) for width in widths)
        self.resample: nn.Module | None = None
        self.pyramid: Pyramid | None = None
        if level < config.levels - 1:
            kind = config.down[level]
            if kind == "block":
                self.resample = ResidualBlock(config, channels, channels, "down", self.scale)
            else:
                self.resample = Downsample(channels, asymmetric=kind == "conv_asymmetric")
            if config.pyramid:
                entering = config.in_channels if level == 0 else in_channels
                self.pyramid = Pyramid(config, entering, channels)

    def forward(self, h: Tensor, modulation: Tensor, kept: list[Tensor], entered: Tensor) -> Tensor:
        """h [B, C_in, H, W] -> [B, C, H / 2, W / 2] (the last level: H, W), its results appended to `kept`."""
        for stage in self.stages:
            h = stage(h, modulation)
            kept.append(h)
        if self.resample is not None:
            h = self.resample(h, modulation)
            if self.pyramid is not None:
                h = (h + self.pyramid(entered)) / self.scale
            kept.append(h)
        return h


class UpLevel(nn.Module):
    """One resolution on the way up: stages, each on [h, what was kept last], then a doubling."""

    def __init__(self, config: UNetConfig, level: int, in_channels: int, kept: list[int]) -> None:
        super().__init__()
        channels, attends = config.channels[level], config.up_attention[level]
        widths = [in_channels] + [channels] * config.layers
        self.stages = nn.ModuleList(
            Stage(
                config,
                width + kept.pop(),
                channels,
                attends and (index == config.layers or not config.up_attention_last),
            )
            for index, width in enumerate(widths)
        )
        self.resample: nn.Module | None = None
        if level > 0:
            block = config.up[level - 1] == "block"
            up = ResidualBlock(config, channels, channels, "up", config.block_scale) if block else Upsample(channels)
            self.resample = up

    def forward(self, h: Tensor, modulation: Tensor, kept: list[Tensor]) -> Tensor:
        """h [B, C_in, H, W] -> [B, C, 2 H, 2 W] (the last level: H, W), taking from the end of `kept`."""
        for stage in self.stages:
            h = stage(torch.cat([h, kept.pop()], dim=1), modulation)
        if self.resample is not None:
            h = self.resample(h, modulation)
        return h
