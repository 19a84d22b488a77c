"""The embeddings of time, label and guidance scale that steer every residual block."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewstep.models.net.config import UNetConfig

MAX_PERIOD = 10_000


class Sinusoid(nn.Module):
    """[cos(t f), sin(t f)] or [sin(t f), cos(t f)] with f_i = 10000^(-i / (width / 2 - freq_shift)).

    Ho et al. 2020 (sine first, shift 1) after Vaswani et al. 2017; ADM has cosine first, shift 0. An odd width ends in
    a zero.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.width, self.cos_first, self.freq_shift = config.time_width, config.cos_first, config.freq_shift

    def forward(self, t: Tensor) -> Tensor:
        """t [B] -> [B, width] float32."""
        half = self.width // 2
        # Computed here, not kept in a buffer: `.to(bfloat16)` would round f, and t f reaches 1000.
        index = torch.arange(half, dtype=torch.float32, device=t.device)
        f = (index * -math.log(MAX_PERIOD) / (half - self.freq_shift)).exp()
        waves = _waves(t.float()[:, None] * f, self.cos_first)
        return functional.pad(waves, (0, 1)) if self.width % 2 else waves


class RandomFourier(nn.Module):
    """[cos(2 pi f ln t), sin(2 pi f ln t)] or sine first, f ~ N(0, 16^2) and fixed (Song et al. 2021, NCSN++)."""

    SCALE = 16.0

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.width, self.cos_first = 2 * config.time_width, config.cos_first
        self.frequencies = nn.Parameter(torch.randn(config.time_width) * self.SCALE, requires_grad=False)

    def forward(self, t: Tensor) -> Tensor:
        """t [B], positive -> [B, width] float32, width twice the number of frequencies."""
        angle = t.float().log()[:, None] * self.frequencies.float() * 2 * math.pi
        return _waves(angle, self.cos_first)


class TimeEmbedding(nn.Module):
    """linear_2(silu(linear_1(features(t)))). t [B] -> [B, embed_width] in the weights' dtype."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.features = RandomFourier(config) if config.time_embedding == "fourier" else Sinusoid(config)
        self.linear_1 = nn.Linear(self.features.width, config.embed_width)
        self.linear_2 = nn.Linear(config.embed_width, config.embed_width)

    def forward(self, t: Tensor) -> Tensor:
        """t [B] -> [B, embed_width]."""
        hidden: Tensor = self.linear_1(self.features(t).to(self.linear_1.weight.dtype))
        result: Tensor = self.linear_2(functional.silu(hidden))
        return result


class ContinuousEmbedding(nn.Module):
    """linear_2(silu(linear_1(y))), y = (value - low) / (high - low). values [B] -> [B, embed_width]."""

    def __init__(self, low: float, high: float, channels: int) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.linear_1 = nn.Linear(1, channels)
        self.linear_2 = nn.Linear(channels, channels)

    def forward(self, values: Tensor) -> Tensor:
        """values [B] of any real dtype -> [B, embed_width]."""
        unit = (values.float() - self.low) / (self.high - self.low)
        hidden: Tensor = self.linear_1(unit[:, None].to(self.linear_1.weight.dtype))
        result: Tensor = self.linear_2(functional.silu(hidden))
        return result


def label_embedding(config: UNetConfig) -> nn.Embedding | ContinuousEmbedding | None:
    """A row for each class (the null class is one like any other), a map of a number, or None without labels."""
    if config.num_classes is not None:
        return nn.Embedding(config.num_classes, config.embed_width)
    if config.label_range is not None:
        return ContinuousEmbedding(*config.label_range, config.embed_width)
    return None


def guidance_embedding(config: UNetConfig) -> ContinuousEmbedding | None:
    """A map of the guidance scale that is zero until it is trained, or None where the scale is no input.

    With the weights of its teacher a student begins as its teacher, whatever the scale (Luo et al., Latent Consistency
    Models, 2310.04378).
    """
    if config.guidance_range is None:
        return None
    embedding = ContinuousEmbedding(*config.guidance_range, config.embed_width)
    nn.init.zeros_(embedding.linear_2.weight)
    nn.init.zeros_(embedding.linear_2.bias)
    return embedding


def _waves(angle: Tensor, cos_first: bool) -> Tensor:
    return torch.cat([angle.cos(), angle.sin()] if cos_first else [angle.sin(), angle.cos()], dim=1)
