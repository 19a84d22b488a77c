"""What the parts of an autoencoder's view run: the attributes are those of the part of diffusers that each stands for.

Images are [B, C, H, W], on a GPU in channels-last memory between the first and the last convolution. A CPU's
convolutions err 3 to 7 times more in that memory and take the same time (3.7 s for an image of 192x192, one core), so
there images are contiguous. The weights stay as they lie: cuDNN lays out 0.1 GB of them anew in a decode, which moves
7 GB for an image of 512x512.
"""

from typing import Any

import torch
from torch import Tensor, nn

import fewstep_kernels
from fewstep.pipelines.views import runs_its_class


class Norm(nn.GroupNorm):
    """group_norm(x + shift_before) in one op."""

    silu = False

    def forward(
        self,
        input: Tensor,  # [B, C, H, W], or [B, C, L] as an attention of diffusers calls it
        shift_before: Tensor | None = None,  # [B, C]
    ) -> Tensor:  # the shape and memory format of the input
        """The normalised image."""
        if input.ndim == 3:
            return self.forward(input[..., None], shift_before)[..., 0]
        options: dict[str, Any] = {"shift_before": shift_before, "silu": self.silu}
        return fewstep_kernels.group_norm_silu(input, self.weight, self.bias, self.num_groups, self.eps, **options)


class NormSilu(Norm):
    """silu(group_norm(x + shift_before)) in one op; the activation behind it is an Identity in the view."""

    silu = True


class FirstConv(nn.Conv2d):
    """The convolution that brings an image into the memory format which what follows keeps."""

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H', W'] channels-last on a GPU, contiguous on a CPU."""
        best = torch.contiguous_format if input.device.type == "cpu" else torch.channels_last
        return super().forward(input.contiguous(memory_format=best))


class LastConv(nn.Conv2d):
    """The convolution whose answer is contiguous again, as it is without the view."""

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H', W'] contiguous."""
        return super().forward(input).contiguous()


class ResidualBlock(nn.Module):
    """(skip(x) + conv2(act(norm2(conv1(act(norm1(x))))))) / divisor, as diffusers' ResnetBlock2D without a time.

    The bias of conv1 is added within norm2, and that of conv2 together with skip(x).
    """

    norm1: Norm
    conv1: nn.Conv2d
    norm2: Norm
    dropout: nn.Dropout
    conv2: nn.Conv2d
    conv_shortcut: nn.Module | None
    nonlinearity: nn.Module
    output_scale_factor: float

    def forward(self, input_tensor: Tensor, temb: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B, C', H, W]; `temb` is not used."""
        h, bias = without_bias(self.conv1, self.nonlinearity(self.norm1(input_tensor)))
        h = self.dropout(self.nonlinearity(self.norm2(h, bias)))
        skip = input_tensor if self.conv_shortcut is None else _shortcut(self.conv_shortcut, input_tensor)
        return _divided(with_residual(self.conv2, h, skip), self.output_scale_factor)


class TinyBlock(nn.Module):
    """relu(skip(x) + conv(x)), as diffusers' AutoencoderTinyBlock; conv ends in a convolution."""

    conv: nn.Sequential
    skip: nn.Module
    fuse: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H, W]."""
        *first, last = self.conv
        h = x
        for layer in first:
            h = layer(h)
        result: Tensor = self.fuse(with_residual(last, h, self.skip(x)))
        return result


class PixelAttention:
    """A processor for diffusers' Attention over the pixels of each image: out(attention(q, k, v)) + x.

    The rows of pixels are a view of a channels-last image, before the attention and behind it.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,  # [B, C, H, W]
        encoder_hidden_states: None = None,
        attention_mask: None = None,
        temb: None = None,
    ) -> Tensor:  # [B, C, H, W]
        """What the processors of diffusers answer for an autoencoder's attention."""
        B, C, H, W = hidden_states.shape
        pixels = attn.group_norm(hidden_states).permute(0, 2, 3, 1).reshape(B, H * W, C)
        q, k, v = (project(pixels).unflatten(-1, (attn.heads, -1)) for project in (attn.to_q, attn.to_k, attn.to_v))
        mixed = fewstep_kernels.attention(q, k, v).flatten(-2)
        project, dropout = attn.to_out
        attended: Tensor = dropout(project(mixed)).view(B, H, W, C).permute(0, 3, 1, 2)
        result = hidden_states + attended if attn.residual_connection else attended  # in the first one's format
        return _divided(result, attn.rescale_output_factor)


def without_bias(conv: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """h [B, C, H, W] and b [B, C] or None, of which h + b is conv(x): whoever reads h can add b as it goes."""
    if isinstance(conv, nn.Conv2d) and _is_plain(conv) and conv.bias is not None:
        return conv._conv_forward(x, conv.weight, None), conv.bias.expand(len(x), -1)
    return conv(x), None


def with_residual(conv: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
    """conv(x) + residual, both [B, C, H, W]."""
    if isinstance(conv, nn.Conv2d) and _is_plain(conv) and conv.bias is not None:
        return fewstep_kernels.conv2d_residual(x, conv.weight, conv.bias, residual, int(conv.padding[0]))
    result: Tensor = conv(x) + residual
    return result


def _shortcut(conv: nn.Module, x: Tensor) -> Tensor:
    """conv(x) of a 1x1 convolution."""
    if isinstance(conv, nn.Conv2d) and _is_plain(conv) and (*conv.kernel_size, *conv.padding) == (1, 1, 0, 0):
        return fewstep_kernels.pointwise(x, conv.weight, conv.bias)
    result: Tensor = conv(x)
    return result


def _is_plain(conv: nn.Conv2d) -> bool:
    """Whether it is a convolution of stride 1 and zeros around it, whose weights may be read."""
    ways = (conv.stride, conv.dilation, conv.groups, conv.padding_mode)
    same = not isinstance(conv.padding, str) and conv.padding[0] == conv.padding[1]
    return runs_its_class(conv, nn.Conv2d) and ways == ((1, 1), (1, 1), 1, "zeros") and same


def _divided(x: Tensor, divisor: float) -> Tensor:
    return x if divisor == 1.0 else x / divisor
