"""The embeddings of time, label and guidance scale that steer every residual block."""

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

import fewstep_kernels
from fewstep.errors import ArgumentError
from fewstep.models.net.blocks import activated
from fewstep.models.net.condition_config import ConditionConfig
from fewstep.models.net.config import UNetConfig

Embedding = TypeVar("Embedding", "TimeEmbedding", "ContinuousEmbedding")


class Sinusoid(nn.Module):
    """[cos(t f), sin(t f)] or [sin(t f), cos(t f)] with f_i = 10000^(-i / (width / 2 - freq_shift)).

    Ho et al. 2020 (sine first, shift 1) after Vaswani et al. 2017; ADM has cosine first, shift 0. An odd width ends in
    a zero.
    """

    def __init__(self, width: int, cos_first: bool, freq_shift: float) -> None:
        super().__init__()
        self.width, self.cos_first, self.freq_shift = width, cos_first, freq_shift

    def forward(self, t: Tensor) -> Tensor:
        """t [B] -> [B, width] in float32, or in float64 as t is."""
        # In the op's own precision, whatever the weights': `.to(bfloat16)` would round f, and t f reaches 1000.
        return fewstep_kernels.timestep_embedding(t, self.width, self.cos_first, self.freq_shift)


class RandomFourier(nn.Module):
    """[cos(2 pi f t), sin(2 pi f t)] or sine first, f ~ N(0, 16^2) and fixed (Song et al. 2021, NCSN++).

    ln t takes the place of t where the time embedding is "fourier", as there.
    """

    SCALE = 16.0

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.width, self.cos_first = 2 * config.time_width, config.cos_first
        self.of_logarithm = config.time_embedding == "fourier"
        self.frequencies = nn.Parameter(torch.randn(config.time_width) * self.SCALE, requires_grad=False)

    def forward(self, t: Tensor) -> Tensor:
        """t [B], positive where its logarithm is taken -> [B, width], twice as many as frequencies, as `Sinusoid`."""
        t = exact(t)
        f = self.frequencies.to(t.dtype)
        angle = t.log()[:, None] * f * 2 * math.pi if self.of_logarithm else t[:, None] * (2 * math.pi * f)
        return _waves(angle, self.cos_first)


class TimeEmbedding(nn.Module):
    """linear_2(act(linear_1(features(t)))), with features_r(r) beside those of t where r is joined to them."""

    def __init__(self, config: UNetConfig, joined: bool = False) -> None:
        super().__init__()
        self.features = _features(config)
        self.features_r = _features(config) if joined else None
        self.width = self.features.width * (2 if joined else 1)
        self.activation = config.outer_activation
        self.linear_1 = nn.Linear(self.width, config.embed_width)
        self.linear_2 = nn.Linear(config.embed_width, config.embed_width)

    def forward(self, t: Tensor, r: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """t [B], r [B] where it is joined, `label` [B, width] to add to the features -> [B, embed_width]."""
        features = self.features(t)
        if self.features_r is not None:
            features = torch.cat([features, self.features_r(r)], dim=1)
        features = features.to(self.linear_1.weight.dtype)
        hidden: Tensor = self.linear_1(features if label is None else features + label)
        result: Tensor = self.linear_2(activated(hidden, self.activation))
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


class VectorEmbedding(nn.Module):
    """linear_2(silu(linear_1(vector))): of a pooled text or image, in the place of a class or beside it."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.width = width
        self.linear_1 = nn.Linear(width, channels)
        self.linear_2 = nn.Linear(channels, channels)

    def forward(self, vector: Tensor) -> Tensor:
        """vector [B, width] -> [B, embed_width]."""
        hidden: Tensor = self.linear_1(vector.to(self.linear_1.weight.dtype))
        result: Tensor = self.linear_2(functional.silu(hidden))
        return result


class AddedEmbedding(VectorEmbedding):
    """The embedding of [pooled, sinusoid(size) of each size] (Podell et al., SDXL, 2307.01952, section 2.2)."""

    def __init__(self, config: UNetConfig, condition: ConditionConfig) -> None:
        width, channels = condition.added_width or 0, condition.size_channels or 0
        super().__init__(width, config.embed_width)
        self.features = Sinusoid(channels, config.cos_first, config.freq_shift)

    def of(self, pooled: Tensor, sizes: Tensor) -> Tensor:
        """pooled [B, P], sizes [B, n] in pixels -> [B, embed_width]. ArgumentError where P + n channels do not fit."""
        features = self.features(sizes.flatten()).view(sizes.shape[0], -1)
        if pooled.shape[1] + features.shape[1] != self.width:
            given = f"{list(pooled.shape)} beside sizes {list(sizes.shape)}"
            allowed = f"{self.width - features.shape[1]} wide beside {sizes.shape[1]} sizes, for {self.width} in all"
            raise ArgumentError("pooled", given, allowed)
        return super().forward(torch.cat([pooled.to(features.dtype), features], dim=1))


class GuidanceFeatures(nn.Module):
    """What the guidance scale w adds to the features of t: linear(sinusoid(1000 (w - 1))), linear without bias.

    Meng et al., On Distillation of Guided Diffusion Models, 2210.03142; Luo et al., Latent Consistency Models,
    2310.04378, whose sinusoid has sine first and reaches its longest period.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.features = Sinusoid(channels, cos_first=False, freq_shift=1)
        self.linear = nn.Linear(channels, width, bias=False)

    def forward(self, guidance: Tensor) -> Tensor:
        """guidance [B], or its sinusoid [B, channels] -> [B, width]."""
        if guidance.ndim == 2 and guidance.shape[1] != self.features.width:
            raise ArgumentError("guidance", list(guidance.shape), f"[B], or [B, {self.features.width}]")
        features = guidance if guidance.ndim == 2 else self.features(1000 * (exact(guidance) - 1))
        result: Tensor = self.linear(features.to(self.linear.weight.dtype))
        return result


Label = nn.Embedding | ContinuousEmbedding | VectorEmbedding


def label_embedding(config: UNetConfig, features: int) -> Label | None:
    """A row for each class (the null class is one like any other), a map of a number or a vector, or None without.

    A row is as long as the embedding of t, or as its features are, where it is added to these.
    """
    if config.num_classes is not None:
        return nn.Embedding(config.num_classes, features if config.label_place == "features" else config.embed_width)
    if config.label_range is not None:
        return ContinuousEmbedding(*config.label_range, config.embed_width)
    if config.condition is not None and config.condition.label_width is not None:
        return VectorEmbedding(config.condition.label_width, config.embed_width)
    return None


def guidance_embedding(config: UNetConfig) -> ContinuousEmbedding | None:
    """A map of the guidance scale that is zero until it is trained, or None where the scale is no input.

    With the weights of its teacher a student begins as its teacher, whatever the scale (Luo et al., Latent Consistency
    Models, 2310.04378).
    """
    if config.guidance_range is None:
        return None
    return _silent(ContinuousEmbedding(*config.guidance_range, config.embed_width))


def second_embedding(config: UNetConfig) -> TimeEmbedding | None:
    """An embedding of the second time r that is zero until it is trained, or None where none is added.

    With the weights of a teacher of instantaneous velocities u(x_t, t, t) a flow map begins as its teacher, whatever r.
    """
    return _silent(TimeEmbedding(config)) if config.second_time == "added" else None


def exact(t: Tensor) -> Tensor:
    """A time in float32, or in float64 as it is: in 16 bits neighbouring timesteps are one."""
    return t if t.dtype == torch.float64 else t.float()


def _silent(embedding: Embedding) -> Embedding:
    nn.init.zeros_(embedding.linear_2.weight)
    nn.init.zeros_(embedding.linear_2.bias)
    return embedding


def _features(config: UNetConfig) -> "Sinusoid | RandomFourier":
    if config.time_embedding == "sinusoidal":
        return Sinusoid(config.time_width, config.cos_first, config.freq_shift)
    return RandomFourier(config)


def _waves(angle: Tensor, cos_first: bool) -> Tensor:
    return torch.cat([angle.cos(), angle.sin()] if cos_first else [angle.sin(), angle.cos()], dim=1)
