"""The U-Net of the pixel DDPM / ADM family."""

from typing import Final

import torch
from torch import Tensor, nn

from fewstep.errors import ArgumentError, ModelError
from fewstep.models.net.blocks import Downsample, GroupNorm, ResidualBlock, SelfAttention, Upsample, activated
from fewstep.models.net.config import UNetConfig
from fewstep.models.net.embeddings import TimeEmbedding, guidance_embedding, label_embedding

MAX_PARAMETERS: Final = 8_000_000_000


class Stage(nn.Module):
    """A residual block, and self-attention after it where the level has it."""

    def __init__(self, config: UNetConfig, in_channels: int, channels: int, attends: bool) -> None:
        super().__init__()
        self.block = ResidualBlock(config, in_channels, channels)
        self.attention = SelfAttention(config, channels, config.groups) if attends else nn.Identity()

    def forward(self, h: Tensor, modulation: Tensor) -> Tensor:
        """h [B, C_in, H, W], modulation [B, M] -> [B, C, H, W]."""
        result: Tensor = self.attention(self.block(h, modulation))
        return result


class DownLevel(nn.Module):
    """One resolution on the way down: stages, then a halving; every result is kept for the way up."""

    def __init__(self, config: UNetConfig, level: int, in_channels: int) -> None:
        super().__init__()
        channels, attends = config.channels[level], config.down_attention[level]
        widths = [in_channels] + [channels] * (config.layers - 1)
        self.stages = nn.ModuleList(Stage(config, width, channels, attends) for width in widths)
        self.resample: nn.Module | None = None
        if level < config.levels - 1:
            kind = config.down[level]
            if kind == "block":
                self.resample = ResidualBlock(config, channels, channels, resample="down")
            else:
                self.resample = Downsample(channels, asymmetric=kind == "conv_asymmetric")

    def forward(self, h: Tensor, modulation: Tensor, kept: list[Tensor]) -> Tensor:
        """h [B, C_in, H, W] -> [B, C, H / 2, W / 2] (the last level: H, W), its results appended to `kept`."""
        for stage in self.stages:
            h = stage(h, modulation)
            kept.append(h)
        if self.resample is not None:
            h = self.resample(h, modulation)
            kept.append(h)
        return h


class UpLevel(nn.Module):
    """One resolution on the way up: stages, each on [h, what was kept last], then a doubling."""

    def __init__(self, config: UNetConfig, level: int, in_channels: int, kept: list[int]) -> None:
        super().__init__()
        channels, attends = config.channels[level], config.up_attention[level]
        widths = [in_channels] + [channels] * config.layers
        self.stages = nn.ModuleList(Stage(config, width + kept.pop(), channels, attends) for width in widths)
        self.resample: nn.Module | None = None
        if level > 0:
            block = config.up[level - 1] == "block"
            self.resample = ResidualBlock(config, channels, channels, resample="up") if block else Upsample(channels)

    def forward(self, h: Tensor, modulation: Tensor, kept: list[Tensor]) -> Tensor:
        """h [B, C_in, H, W] -> [B, C, 2 H, 2 W] (the last level: H, W), taking from the end of `kept`."""
        for stage in self.stages:
            h = stage(torch.cat([h, kept.pop()], dim=1), modulation)
        if self.resample is not None:
            h = self.resample(h, modulation)
        return h


class UNet(nn.Module):
    """Predicts what its training asked for (eps, x_0, v, ...) from a noisy image and its time.

        e          = time(t) + label(labels) + guidance(guidance)      label and guidance where the model has them
        modulation = project(act(e)), the columns of all residual blocks side by side
        image      = conv_out(up(mid(down(conv_in(x), modulation), modulation), modulation))

    The topology is that of ADM (Dhariwal and Nichol 2021) and diffusers' UNet2DModel. It works in channels-last
    memory, whatever the input's. Nothing looks at values on the host, so a CUDA graph or
    `torch.compile(fullgraph=True)` takes it whole.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.time = TimeEmbedding(config)
        self.label = label_embedding(config)
        self.conv_in = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.down = nn.ModuleList(
            DownLevel(config, level, channels[max(level - 1, 0)]) for level in range(config.levels)
        )
        coarsest = channels[-1]
        if config.mid_block:
            self.mid_1 = ResidualBlock(config, coarsest, coarsest, divisor=config.mid_scale)
            self.mid_attention = (
                SelfAttention(config, coarsest, config.mid_attention_groups, config.mid_scale)
                if config.mid_attention
                else nn.Identity()
            )
            self.mid_2 = ResidualBlock(config, coarsest, coarsest, divisor=config.mid_scale)
        kept = kept_channels(config)
        self.up = nn.ModuleList(  # coarsest first, in the order in which they run
            UpLevel(config, level, channels[min(level + 1, config.levels - 1)], kept)
            for level in reversed(range(config.levels))
        )
        self.norm_out = GroupNorm(channels[0], config.groups, config.eps)
        self.conv_out = nn.Conv2d(channels[0], config.out_channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        self.project = nn.Linear(config.embed_width, self._pack())
        self.guidance = guidance_embedding(
            config
        )  # last, so that a seed gives the rest the weights it gives without it
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _pack(self) -> int:
        """Give each residual block its columns of the modulation; the number of columns."""
        start = 0
        for block in self.residual_blocks().values():
            block.modulation_start = start
            start += block.modulation_width
        return start

    def residual_blocks(self) -> dict[str, ResidualBlock]:
        """Every residual block by name, in the order in which they run and the modulation packs them."""
        return {name: module for name, module in self.named_modules() if isinstance(module, ResidualBlock)}

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights and of the prediction."""
        return self.conv_in.weight.dtype

    def modulation(self, t: Tensor, labels: Tensor | None = None, guidance: Tensor | None = None) -> Tensor:
        """What the residual blocks take from t, labels and guidance, each [B]: [B, M]; the image has no part in it.

        Raises ArgumentError where labels or guidance are missing, or given to a model that has none.
        """
        _check_condition("labels", labels, "labels", self.label)
        _check_condition("guidance", guidance, "guidance input", self.guidance)
        embedding = self.time(t)
        if self.label is not None:
            embedding = embedding + self.label(labels)
        if self.guidance is not None:
            embedding = embedding + self.guidance(guidance)
        result: Tensor = self.project(activated(embedding, self.config.activation))
        return result

    def forward(
        self,
        x: Tensor,  # [B, C_in, H, W]
        t: Tensor,  # [B] of any real dtype
        labels: Tensor | None = None,  # [B] integer classes, or floats for a continuous label
        modulation: Tensor | None = None,  # [B, M], where `modulation(t, labels, guidance)` is already known
        guidance: Tensor | None = None,  # [B] of any real dtype: the guidance scale, where it is an input
    ) -> Tensor:  # [B, C_out, H, W] in the weights' dtype
        """The prediction. Raises ArgumentError on a shape that the U-Net does not take."""
        self._check(x, t)
        if modulation is None:
            modulation = self.modulation(t, labels, guidance)
        h = x.to(self.dtype, memory_format=torch.channels_last)
        h = self.conv_in(2 * h - 1 if self.config.center_input else h)
        kept = [h]
        for level in self.down:
            h = level(h, modulation, kept)
        if self.config.mid_block:
            h = self.mid_2(self.mid_attention(self.mid_1(h, modulation)), modulation)
        for level in self.up:
            h = level(h, modulation, kept)
        prediction: Tensor = self.conv_out(self.norm_out(h))
        if self.config.time_embedding == "fourier":
            prediction = prediction / t.to(prediction.dtype)[:, None, None, None]
        return prediction

    def _check(self, x: Tensor, t: Tensor) -> None:
        channels, multiple = self.config.in_channels, self.config.size_multiple
        if x.ndim != 4 or x.shape[1] != channels or x.shape[2] % multiple or x.shape[3] % multiple:
            allowed = f"[B, {channels}, H, W] with H and W multiples of {multiple}"
            raise ArgumentError("x", list(x.shape), allowed)
        if t.shape != x.shape[:1]:
            raise ArgumentError("t", list(t.shape), f"[{x.shape[0]}], one for each image")


def _check_condition(name: str, given: Tensor | None, what: str, embedding: nn.Module | None) -> None:
    if (given is None) != (embedding is None):
        allowed = f"None: the model has no {what}" if embedding is None else f"a tensor [B]: the model has {what}"
        raise ArgumentError(name, None if given is None else "a tensor", allowed)


def kept_channels(config: UNetConfig) -> list[int]:
    """Widths of what the way down keeps, in order: input convolution, then each stage and each halving."""
    kept = [config.channels[0]]
    for level, channels in enumerate(config.channels):
        kept += [channels] * (config.layers + (level < config.levels - 1))
    return kept


def kept_numbers(config: UNetConfig, height: int, width: int) -> int:
    """How many numbers the way down keeps of one image for the way up: all of them are there at once in the middle."""
    total, places = config.channels[0] * height * width, height * width
    for level, channels in enumerate(config.channels):
        total += config.layers * channels * places
        if level < config.levels - 1:
            places //= 4
            total += channels * places
    return total


def empty_unet(config: UNetConfig, where: str = "UNetConfig") -> UNet:
    """The U-Net on the meta device: shapes without memory.

    ModelError, with `where` in front, if it would be absurdly large.
    """
    with torch.device("meta"):
        unet = UNet(config)
    total = count_parameters(unet)
    if total > MAX_PARAMETERS:
        raise ModelError(f"{where}: the U-Net has {total:,} parameters; allowed: at most {MAX_PARAMETERS:,}")
    return unet


def count_parameters(module: nn.Module) -> int:
    """Numbers in all parameters, from shapes alone."""
    return sum(parameter.numel() for parameter in module.parameters())
