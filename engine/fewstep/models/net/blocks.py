"""The layers of a U-Net.

Images are [B, C, H, W] in channels-last memory. `modulation` [B, M] holds for each sample what all residual
blocks of the U-Net take from its time and label, side by side; each block reads columns of its own.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

import fewstep_kernels
from fewstep.models.net.config import UNetConfig

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


class GroupNorm(nn.Module):
    """act(group_norm(x + shift_before) (1 + scale) + shift), one fused op where act is SiLU; none for attention."""

    def __init__(self, channels: int, groups: int, eps: float, activation: str | None = "silu") -> None:
        super().__init__()
        self.groups, self.eps, self.activation = groups, eps, activation
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(
        self,
        x: Tensor,  # [B, C, H, W]
        shift_before: Tensor | None = None,  # [B, C]
        scale: Tensor | None = None,  # [B, C]
        shift: Tensor | None = None,  # [B, C]
    ) -> Tensor:  # [B, C, H, W]
        """The normalised image, in x's memory format and dtype."""
        own = (self.weight, self.bias, self.groups, self.eps)
        silu = self.activation == "silu"
        h = fewstep_kernels.group_norm_silu(x, *own, shift_before=shift_before, scale=scale, shift=shift, silu=silu)
        return h if silu or self.activation is None else activated(h, self.activation)


class ResidualBlock(nn.Module):
    """(skip(x) + conv_2(norm_2(conv_1(resample(norm_1(x)))))) / divisor, activations in both norms, x resampled too.

    The modulation enters at norm_2: added before it (Ho et al. 2020), or as its scale and shift (Dhariwal and Nichol
    2021, section 3). `resample` is "down", "up" or None, by the config's filter, of which (1, 1) is the mean of 2x2
    and the nearest neighbour.
    """

    def __init__(
        self,
        config: UNetConfig,
        in_channels: int,
        out_channels: int,
        resample: str | None = None,
        divisor: float = 1.0,
    ) -> None:
        super().__init__()
        self.resample, self.divisor = resample, divisor
        self.dropout = config.dropout
        self.scale_shift = config.scale_shift
        self.modulation_width = 2 * out_channels if config.scale_shift else out_channels
        self.modulation_start = 0  # set by the U-Net, which packs the projections of all blocks into one
        self.bias_in_modulation = False  # set by a U-Net whose modulation has conv_1's bias in it
        self.blur = config.resample_filter == (1, 3, 3, 1)
        self.norm_1 = GroupNorm(in_channels, config.groups_of(in_channels), config.eps, config.activation)
        self.conv_1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm_2 = GroupNorm(out_channels, config.groups_of(out_channels), config.eps, config.activation)
        self.conv_2 = _zero(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        projects = in_channels != out_channels or (resample is not None and config.skip_projection)
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if projects else nn.Identity()

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """x [B, C_in, H, W], modulation [B, M] -> [B, C_out, H', W']."""
        h = self.norm_1(x)
        if self.resample == "down":
            h, x = _halve(h, self.blur), _halve(x, self.blur)
        elif self.resample == "up":
            h, x = _double(h, self.blur), _double(x, self.blur)
        h = _convolved(self.conv_1, h, biased=False) if self.bias_in_modulation else self.conv_1(h)
        own = modulation[:, self.modulation_start : self.modulation_start + self.modulation_width]
        if self.scale_shift:
            scale, shift = own.chunk(2, dim=1)
            h = self.norm_2(h, scale=scale, shift=shift)
        else:
            h = self.norm_2(h, shift_before=own)
        h = functional.dropout(h, self.dropout, self.training)
        if isinstance(self.skip, nn.Conv2d):
            x = _pointwise(self.skip, x)
        return _divided(_beside(x, self.conv_2, h), self.divisor)


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2, padded by 1 all round, or at the right and bottom alone (`asymmetric`)."""

    def __init__(self, channels: int, asymmetric: bool) -> None:
        super().__init__()
        self.asymmetric = asymmetric
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if asymmetric else 1)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C, H / 2, W / 2]; the modulation is not used."""
        result: Tensor = self.conv(functional.pad(x, (0, 1, 0, 1)) if self.asymmetric else x)
        return result


class Upsample(nn.Module):
    """Nearest-neighbour doubling, to `size` where that is one less, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """x [B, C, H, W] -> [B, C, *size]."""
        result: Tensor = self.conv(functional.interpolate(x, size=size, mode="nearest"))
        return result


class Pyramid(nn.Module):
    """A 3x3 convolution, then a halving by the config's filter: the input's own way down (Song et al. 2021, NCSN++)."""

    def __init__(self, config: UNetConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.blur = config.resample_filter == (1, 3, 3, 1)
        # What the filter sees around the image is the convolution there, and not zeros.
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=2 if self.blur else 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C_in, H, W] -> [B, C_out, H / 2, W / 2]."""
        return _halve(self.conv(x), self.blur, around=0)


class SelfAttention(nn.Module):
    """(x + out(attention(q, k, v))) / divisor over the pixels of each image; q, k, v are one projection of norm(x)."""

    def __init__(self, config: UNetConfig, channels: int, groups: int | None, divisor: float = 1.0) -> None:
        super().__init__()
        self.heads, self.width, self.divisor = config.heads_of(channels), config.head_width(channels), divisor
        inner = self.heads * self.width  # channels, unless the width of a head does not divide them
        self.norm = nn.Identity() if groups is None else GroupNorm(channels, groups, config.eps, activation=None)
        self.qkv = nn.Linear(channels, 3 * inner)
        self.out = _zero(nn.Linear(inner, channels))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> the same shape."""
        B, C, H, W = x.shape
        pixels = self.norm(x).permute(0, 2, 3, 1).reshape(B, H * W, C)  # a view: x is channels-last
        q, k, v = self.qkv(pixels).view(B, H * W, 3, self.heads, self.width).unbind(2)
        mixed = fewstep_kernels.attention(q, k, v).view(B, H * W, self.heads * self.width)
        attended: Tensor = self.out(mixed).view(B, H, W, C).permute(0, 3, 1, 2)
        return _divided(x + attended, self.divisor)


def activated(x: Tensor, activation: str) -> Tensor:
    """x through the function of that name, one of `config.ACTIVATIONS`."""
    result: Tensor = getattr(functional, activation)(x)
    return result


def _convolved(layer: nn.Conv2d, x: Tensor, biased: bool = True) -> Tensor:
    """layer(x) as its class convolves it, or that without its bias."""
    result: Tensor = layer._conv_forward(x, layer.weight, layer.bias if biased else None)
    return result


def _pointwise(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """layer(x) of a 1x1 convolution."""
    if x.device.type == "cpu":
        return _convolved(layer, x)
    return fewstep_kernels.pointwise(x, layer.weight, layer.bias)


def _beside(residual: Tensor, layer: nn.Conv2d, x: Tensor) -> Tensor:
    """layer(x) + residual of a 3x3 convolution."""
    if x.device.type == "cpu" or layer.bias is None:
        return _convolved(layer, x) + residual
    return fewstep_kernels.conv2d_residual(x, layer.weight, layer.bias, residual, padding=1)


def _divided(x: Tensor, divisor: float) -> Tensor:
    return x if divisor == 1.0 else x / divisor


def _halve(x: Tensor, blur: bool = False, around: int = 1) -> Tensor:
    """Every other pixel of x filtered by (1, 1) / 2 along each side, three times (so (1, 3, 3, 1) / 8) with blur.

    x has a rim of so many zeros `around` it for the blur.
    """
    return functional.avg_pool2d(_blur(x, around) if blur else x, 2)


def _double(x: Tensor, blur: bool = False) -> Tensor:
    """Each pixel twice along each side, which is the filter (1, 1); (1, 3, 3, 1) / 4 with blur."""
    x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
    return _blur(x, 1) if blur else x


def _blur(x: Tensor, around: int) -> Tensor:
    """x in a rim of zeros, filtered by (1, 2, 1) / 4 along each side: the mean of two, twice. The sides are 2 less."""
    return functional.avg_pool2d(functional.avg_pool2d(x, 2, stride=1, padding=around), 2, stride=1)


def _zero(layer: Layer) -> Layer:
    """A new block ends in zeros, so that training starts from the identity (Dhariwal and Nichol 2021)."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
