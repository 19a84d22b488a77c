"""The ops of a network's layers as callers import them, and their registration. Training differentiates torch's own."""

import torch
from torch import Tensor
from torch.nn import functional

from fewstep_kernels import reference_layers as reference
from fewstep_kernels.attention import cuda_attention, torch_attention
from fewstep_kernels.attention_call import check_attention
from fewstep_kernels.host_norm import host_group_norm_silu
from fewstep_kernels.laid_out import check_laid_out, cuda_attention_laid_out, torch_attention_laid_out
from fewstep_kernels.registration import LIBRARY, chosen, like_first, register
from fewstep_kernels.torch_layers import (
    torch_add_layer_norm,
    torch_bias_residual,
    torch_geglu,
    torch_group_norm_silu,
    torch_layer_norm,
    wide_layer_norm,
)


def _attention_fake(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    check_attention(q, k, v)
    return q.new_empty(q.shape)


def _laid_out_fake(q: Tensor, kv: Tensor, scale: float | None = None) -> Tensor:
    check_laid_out(q, kv)
    return q.new_empty(q.shape)


def _rows(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape)


def _half_rows(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 2))


def _waves(t: Tensor, width: int, cos_first: bool, freq_shift: float) -> Tensor:
    reference.check_waves(width, freq_shift)
    return t.new_empty((t.shape[0], width), dtype=reference.compute_dtype(t))


register(
    "group_norm_silu(Tensor x, Tensor weight, Tensor bias, int groups, float eps, Tensor? shift_before=None, "
    "Tensor? scale=None, Tensor? shift=None, bool silu=True, Tensor? residual=None) -> Tensor",
    host_group_norm_silu,
    like_first,
)
register(
    "layer_norm(Tensor x, Tensor weight, Tensor bias, float eps) -> Tensor",
    wide_layer_norm,
    _rows,
)
register(
    "add_layer_norm(Tensor x, Tensor residual, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor)",
    torch_add_layer_norm,
    lambda x, *_: (_rows(x), _rows(x)),
)
register("geglu(Tensor x) -> Tensor", reference.geglu, _half_rows)
register(
    "bias_residual(Tensor x, Tensor bias, Tensor residual) -> Tensor",
    reference.bias_residual,
    like_first,
)
register(
    "timestep_embedding(Tensor t, int width, bool cos_first, float freq_shift) -> Tensor",
    reference.timestep_embedding,
    _waves,
)
register(
    "attention(Tensor q, Tensor k, Tensor v, float? scale=None) -> Tensor",
    torch_attention,
    _attention_fake,
    fused=False,
)
LIBRARY.impl("attention", cuda_attention, "CUDA")
register(
    "attention_laid_out(Tensor q, Tensor kv, float? scale=None) -> Tensor",
    torch_attention_laid_out,
    _laid_out_fake,
    fused=False,
)
LIBRARY.impl("attention_laid_out", cuda_attention_laid_out, "CUDA")


def group_norm_silu(
    x: Tensor,  # [B, C, H, W]
    weight: Tensor,  # [C]
    bias: Tensor,  # [C]
    groups: int,
    eps: float,
    *,
    shift_before: Tensor | None = None,  # [B, C]
    scale: Tensor | None = None,  # [B, C]
    shift: Tensor | None = None,  # [B, C]
    silu: bool = True,
    residual: Tensor | None = None,  # [B, C, H, W]
) -> Tensor:  # [B, C, H, W]
    """silu(group_norm(x + shift_before) (1 + scale) + shift) + residual; training differentiates torch's own."""
    ways = (torch.ops.fewstep.group_norm_silu.default, torch_group_norm_silu, reference.group_norm_silu)
    call = chosen(*ways, x, weight, bias, shift_before, scale, shift, residual)
    result: Tensor = call(x, weight, bias, groups, eps, shift_before, scale, shift, silu, residual)
    return result


def attention(
    q: Tensor,  # [B, Lq, H, D]
    k: Tensor,  # [B, Lk, H, D]
    v: Tensor,  # [B, Lk, H, D]
    scale: float | None = None,  # 1 / sqrt(D) unless given
) -> Tensor:  # [B, Lq, H, D] contiguous
    """softmax(scale q k^T) v for every head; training differentiates torch's own."""
    call = chosen(torch.ops.fewstep.attention.default, torch_attention, torch_attention, q, k, v)
    result: Tensor = call(q, k, v, scale)
    return result


def attention_laid_out(
    q: Tensor,  # [B, Lq, H, D]
    kv: Tensor,  # [B, 2, H, Lk, D] as `lay_out` gives
    scale: float | None = None,  # 1 / sqrt(D) unless given
) -> Tensor:  # [B, Lq, H, D] contiguous
    """`attention` where many q meet the same k and v: `lay_out` them once; training differentiates torch's own."""
    ways = (torch.ops.fewstep.attention_laid_out.default, torch_attention_laid_out, torch_attention_laid_out)
    call = chosen(*ways, q, kv)
    result: Tensor = call(q, kv, scale)
    return result


def layer_norm(
    x: Tensor,  # [..., C]
    weight: Tensor,  # [C]
    bias: Tensor,  # [C]
    eps: float,
) -> Tensor:  # [..., C] contiguous
    """(x - mean) / sqrt(variance + eps) weight + bias over the last dimension; training differentiates torch's own."""
    call = chosen(torch.ops.fewstep.layer_norm.default, torch_layer_norm, wide_layer_norm, x, weight, bias)
    result: Tensor = call(x, weight, bias, eps)
    return result


def add_layer_norm(
    x: Tensor,  # [..., C]
    residual: Tensor,  # [..., C]
    weight: Tensor,  # [C]
    bias: Tensor,  # [C]
    eps: float,
) -> tuple[Tensor, Tensor]:  # twice [..., C] contiguous
    """x + residual, and `layer_norm` of it before it is rounded; training differentiates torch's own."""
    ways = (torch.ops.fewstep.add_layer_norm.default, torch_add_layer_norm, torch_add_layer_norm)
    call = chosen(*ways, x, residual, weight, bias)
    total, normed = call(x, residual, weight, bias, eps)
    return total, normed


def geglu(
    x: Tensor,  # [..., 2 C]
) -> Tensor:  # [..., C] contiguous
    """a gelu(b) for x = [a, b], with the exact gelu; training differentiates torch's own."""
    result: Tensor = chosen(torch.ops.fewstep.geglu.default, torch_geglu, reference.geglu, x)(x)
    return result


def bias_residual(
    x: Tensor,  # [B, C, H, W]
    bias: Tensor,  # [C]
    residual: Tensor,  # [B, C, H, W]
) -> Tensor:  # [B, C, H, W] in x's memory format
    """x + bias + residual; training differentiates torch's own."""
    ways = (torch.ops.fewstep.bias_residual.default, torch_bias_residual, reference.bias_residual)
    call = chosen(*ways, x, bias, residual)
    result: Tensor = call(x, bias, residual)
    return result


def conv2d_residual(
    x: Tensor,  # [B, C_in, H, W]
    weight: Tensor,  # [C, C_in, kernel height, kernel width]
    bias: Tensor,  # [C]
    residual: Tensor,  # [B, C, H', W']
    padding: int,
) -> Tensor:  # [B, C, H', W']
    """conv2d(x, weight, bias) + residual, of stride 1.

    torch adds a convolution's bias in a launch of its own on a GPU, and the residual in another: there `bias_residual`
    is both. A CPU's convolution adds its bias as it goes.
    """
    if x.device.type == "cpu":
        return functional.conv2d(x, weight, bias, padding=padding) + residual
    return conv2d_residual_on_gpu(x, weight, bias, residual, padding)


def conv2d_residual_on_gpu(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, padding: int) -> Tensor:
    """`conv2d_residual` in two launches."""
    return bias_residual(functional.conv2d(x, weight, padding=padding), bias, residual)


def pointwise(
    x: Tensor,  # [B, C_in, H, W]
    weight: Tensor,  # [C, C_in, 1, 1]
    bias: Tensor | None,  # [C]
) -> Tensor:  # [B, C, H, W]
    """conv2d(x, weight, bias) of a 1x1 convolution.

    On a GPU it is a product of matrices, of pixels in channels-last memory: that adds the bias as it goes, where a
    convolution's is a launch of its own.
    """
    return functional.conv2d(x, weight, bias) if x.device.type == "cpu" else pointwise_on_gpu(x, weight, bias)


def pointwise_on_gpu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`pointwise` in one launch."""
    return functional.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


def timestep_embedding(
    t: Tensor,  # [B] any real dtype
    width: int,
    cos_first: bool,
    freq_shift: float,  # less than width // 2
) -> Tensor:  # [B, width] float32, or float64 for a float64 t
    """Cosines and sines of t f_i: see `reference.timestep_embedding`, which training differentiates."""
    definition = reference.timestep_embedding
    call = chosen(torch.ops.fewstep.timestep_embedding.default, definition, definition, t)
    result: Tensor = call(t, width, cos_first, freq_shift)
    return result
