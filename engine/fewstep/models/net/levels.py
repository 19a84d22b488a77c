"""The levels of a U-Net: what happens at one resolution on the way down, and on the way up."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fewstep.models.net.blocks import Downsample, Pyramid, ResidualBlock, SelfAttention, Upsample
from fewstep.models.net.config import UNetConfig
from fewstep.models.net.transformer import SpatialTransformer

NOTHING: Sequence[Tensor] = ()


class Stage(nn.Module):
    """A residual block, and after it self-attention or a transformer of some depth, where the level has one."""

    def __init__(self, config: UNetConfig, level: int, in_channels: int, attends: bool = False, depth: int = 0) -> None:
        super().__init__()
        channels = config.channels[level]
        groups, scale = config.groups_of(channels), config.block_scale
        self.block = ResidualBlock(config, in_channels, channels, divisor=scale)
        self.attention = SelfAttention(config, channels, groups, scale) if attends else nn.Identity()
        self.transformer: SpatialTransformer | None = None
        if config.condition is not None and depth:
            self.transformer = SpatialTransformer(config.condition, level, channels, groups, depth)

    def forward(self, h: Tensor, modulation: Tensor, kv: Sequence[Tensor]) -> Tensor:
        """h [B, C_in, H, W], modulation [B, M], kv the keys and values of the whole U-Net -> [B, C, H, W]."""
        result: Tensor = self.attention(self.block(h, modulation))
        return result if self.transformer is None else self.transformer(result, kv)


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
        depths = [0] * len(widths) if config.condition is None else config.condition.depths(config.levels)[0][level]
        self.stages = nn.ModuleList(
            Stage(config, level, width, attends, depth) for width, depth in zip(widths, depths, strict=True)
        )
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

    def forward(
        self, h: Tensor, modulation: Tensor, kept: list[Tensor], entered: Tensor, kv: Sequence[Tensor] = NOTHING
    ) -> Tensor:
        """h [B, C_in, H, W] -> [B, C, H / 2, W / 2] (the last level: H, W), its results appended to `kept`."""
        for stage in self.stages:
            h = stage(h, modulation, kv)
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
        depths = [0] * len(widths) if config.condition is None else config.condition.depths(config.levels)[1][level]
        self.stages = nn.ModuleList(
            Stage(
                config,
                level,
                width + kept.pop(),
                attends and (index == config.layers or not config.up_attention_last),
                depths[index],
            )
            for index, width in enumerate(widths)
        )
        self.resample: nn.Module | None = None
        if level > 0:
            block = config.up[level - 1] == "block"
            up = ResidualBlock(config, channels, channels, "up", config.block_scale) if block else Upsample(channels)
            self.resample = up

    def forward(self, h: Tensor, modulation: Tensor, kept: list[Tensor], kv: Sequence[Tensor] = NOTHING) -> Tensor:
        """h [B, C_in, H, W] -> [B, C, 2 H, 2 W] (the last level: H, W), taking from the end of `kept`.

        A convolution that halved an odd side rounded up: then the doubling gives the sides of what was kept there.
        """
        for stage in self.stages:
            h = stage(torch.cat([h, kept.pop()], dim=1), modulation, kv)
        if self.resample is not None:
            steering = kept[-1].shape[2:] if isinstance(self.resample, Upsample) else modulation
            h = self.resample(h, steering)
        return h
