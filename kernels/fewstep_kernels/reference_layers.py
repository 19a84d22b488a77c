"""The twins of a network's layers: every op in plain torch, the definition; `reference` has them too.

Everything is computed in float32, or in float64 for float64 inputs; only results are rounded.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

MAX_PERIOD = 10_000  # of a time embedding, in radians of t to 2 pi


def check_waves(width: int, freq_shift: float) -> None:
    """Raise ValueError where a time embedding of so many values has no frequencies, or the shift leaves none.

    Diffusers gives NaN for a width of 2 and a shift of 1.
    """
    if not freq_shift < width // 2:
        raise ValueError(f"freq_shift: got {freq_shift:g}; allowed: less than {width // 2}, half the width of {width}")


def compute_dtype(x: Tensor) -> torch.dtype:
    """What an op computes in: float64 for float64, float32 for all else."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def group_norm_silu(
    x: Tensor,  # [B, C, H, W]
    weight: Tensor,  # [C]
    bias: Tensor,  # [C]
    groups: int,
    eps: float,
    shift_before: Tensor | None = None,  # [B, C]
    scale: Tensor | None = None,  # [B, C]
    shift: Tensor | None = None,  # [B, C]
    silu: bool = True,
    residual: Tensor | None = None,  # [B, C, H, W]
) -> Tensor:  # [B, C, H, W] in x's dtype and memory format
    """silu(group_norm(x + shift_before) (1 + scale) + shift) + residual.

    Wu and He, Group Normalization (1803.08494); scale and shift: Dhariwal and Nichol (2105.05233), section 3.

    The variance is centred: torch's own takes E[x^2] - E[x]^2 in channels-last memory on a CPU and loses 20 times the
    accuracy to it.
    """
    wide = compute_dtype(x)
    batch, channels = x.shape[:2]

    def per_group(channel_means: Tensor) -> Tensor:  # [B, C] -> [B, C], the mean of the channel's group
        grouped = channel_means.view(batch, groups, -1).mean(2)
        return grouped.repeat_interleave(channels // groups, dim=1)

    before = torch.zeros(batch, 1, dtype=wide, device=x.device) if shift_before is None else shift_before.to(wide)
    centre = before - per_group(x.to(wide).mean((2, 3)) + before)
    h = x.to(wide) + centre[:, :, None, None]
    gain = weight.to(wide) * torch.rsqrt(per_group(h.square().mean((2, 3))) + eps)
    offset = bias.to(wide).expand_as(gain)
    if scale is not None and shift is not None:
        gain, offset = gain * (1 + scale.to(wide)), offset * (1 + scale.to(wide)) + shift.to(wide)
    h = torch.addcmul(offset[:, :, None, None], h, gain[:, :, None, None])
    h = functional.silu(h, inplace=True) if silu else h
    return (h if residual is None else h.add_(residual.to(wide))).to(x.dtype)


def attention(
    q: Tensor,  # [B, Lq, H, D]
    k: Tensor,  # [B, Lk, H, D]
    v: Tensor,  # [B, Lk, H, D]
    scale: float | None = None,  # 1 / sqrt(D) unless given
) -> Tensor:  # [B, Lq, H, D] contiguous, in q's dtype
    """softmax(scale q k^T) v for every head (Vaswani et al. 2017, eq. 1)."""
    wide = compute_dtype(q)
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    logits = torch.einsum("bqhd,bkhd->bhqk", q.to(wide) * factor, k.to(wide))
    return torch.einsum("bhqk,bkhd->bqhd", logits.softmax(-1), v.to(wide)).to(q.dtype).contiguous()


def attention_laid_out(
    q: Tensor,  # [B, Lq, H, D]
    kv: Tensor,  # [B, 2, H, Lk, D] k and v from `fewstep_kernels.lay_out`
    scale: float | None = None,  # 1 / sqrt(D) unless given
) -> Tensor:  # [B, Lq, H, D] contiguous, in q's dtype
    """`attention` of keys and values whose rows lie together head by head."""
    k, v = kv.transpose(2, 3).unbind(1)
    return attention(q, k, v, scale)


def layer_norm(
    x: Tensor,  # [..., C]
    weight: Tensor,  # [C]
    bias: Tensor,  # [C]
    eps: float,
) -> Tensor:  # [..., C] contiguous, in x's dtype
    """(x - mean) / sqrt(variance + eps) weight + bias over the last dimension.

    Ba et al., Layer Normalization (1607.06450). The variance is the mean of (x - mean)^2.
    """
    wide = compute_dtype(x)
    return _layer_norm(x.to(wide), weight, bias, eps).to(x.dtype).contiguous()


def add_layer_norm(
    x: Tensor,  # [..., C]
    residual: Tensor,  # [..., C]
    weight: Tensor,  # [C]
    bias: Tensor,  # [C]
    eps: float,
) -> tuple[Tensor, Tensor]:  # twice [..., C] contiguous, in x's dtype
    """s = x + residual, and `layer_norm` of s before it is rounded: what a block adds, and what it reads next."""
    wide = compute_dtype(x)
    total = x.to(wide) + residual.to(wide)
    normed = _layer_norm(total, weight, bias, eps)
    return total.to(x.dtype).contiguous(), normed.to(x.dtype).contiguous()


def geglu(
    x: Tensor,  # [..., 2 C]
) -> Tensor:  # [..., C] contiguous, in x's dtype
    """a gelu(b) for x = [a, b], gelu(b) = b (1 + erf(b / sqrt(2))) / 2 (Shazeer, GLU Variants, 2002.05202, eq. 6)."""
    a, b = x.to(compute_dtype(x)).chunk(2, dim=-1)
    return (a * functional.gelu(b)).to(x.dtype).contiguous()


def bias_residual(
    x: Tensor,  # [B, C, H, W]
    bias: Tensor,  # [C]
    residual: Tensor,  # [B, C, H, W]
) -> Tensor:  # [B, C, H, W] in x's dtype and memory format
    """x + bias + residual: what follows a convolution that was run without its bias."""
    wide = compute_dtype(x)
    return (x.to(wide) + bias.to(wide)[:, None, None] + residual.to(wide)).to(x.dtype)


def timestep_embedding(
    t: Tensor,  # [B] any real dtype
    width: int,
    cos_first: bool,
    freq_shift: float,  # less than width // 2
) -> Tensor:  # [B, width] float32, or float64 for a float64 t
    """[cos(t f), sin(t f)] or [sin(t f), cos(t f)] with f_i = 10000^(-i / (width // 2 - freq_shift)).

    Vaswani et al. 2017, section 3.5; Ho et al. 2020 have the sine first and a shift of 1. An odd width ends in a zero.

    Raises:
        ValueError: a width that is too little for the shift.
    """
    check_waves(width, freq_shift)
    half, t = width // 2, t.to(compute_dtype(t))
    index = torch.arange(half, dtype=t.dtype, device=t.device)
    angle = t[:, None] * (index * -math.log(MAX_PERIOD) / (half - freq_shift)).exp()
    waves = torch.cat([angle.cos(), angle.sin()] if cos_first else [angle.sin(), angle.cos()], dim=1)
    return functional.pad(waves, (0, 1)) if width % 2 else waves


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    root = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    return centred * root * weight.to(x.dtype) + bias.to(x.dtype)
