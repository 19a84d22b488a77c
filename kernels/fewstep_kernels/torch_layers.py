"""Layers of torch's own ops: what training differentiates, since a norm's backward is one kernel there, and more.

With torch's group norm a step of training takes a sixth less time than with the twin's. A CPU runs torch's layer norm.
"""

from torch import Tensor
from torch.nn import functional

from fewstep_kernels.reference_layers import compute_dtype


def torch_group_norm_silu(
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
    """`reference.group_norm_silu` by torch's group_norm: same arguments, same layout.

    Its variance is E[x^2] - E[x]^2 in channels-last memory on a CPU: enough for a gradient, too little for sampling.
    """
    h = x if shift_before is None else x + shift_before[:, :, None, None]
    h = functional.group_norm(h, groups, weight.to(h.dtype), bias.to(h.dtype), eps)
    if scale is not None and shift is not None:
        h = shift[:, :, None, None] + h * (1 + scale[:, :, None, None])
    h = functional.silu(h) if silu else h
    return (h if residual is None else h + residual).to(x.dtype)


def torch_layer_norm(
    x: Tensor,  # [..., C]
    weight: Tensor,  # [C]
    bias: Tensor,  # [C]
    eps: float,
) -> Tensor:  # [..., C] contiguous, in x's dtype
    """`reference.layer_norm` by torch's layer_norm: same arguments, same layout."""
    return functional.layer_norm(x, x.shape[-1:], weight.to(x.dtype), bias.to(x.dtype), eps)


def wide_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`torch_layer_norm` in float32, for a CPU: in a third of the twin's time or less, and as near to float64.

    In bfloat16 torch's own leaves 0.06 of a row of equal values near 10,000, and this nothing.
    """
    return torch_layer_norm(x.to(compute_dtype(x)), weight, bias, eps).to(x.dtype)


def torch_add_layer_norm(
    x: Tensor,  # [..., C]
    residual: Tensor,  # [..., C]
    weight: Tensor,  # [C]
    bias: Tensor,  # [C]
    eps: float,
) -> tuple[Tensor, Tensor]:  # twice [..., C] contiguous, in x's dtype
    """`reference.add_layer_norm` by torch's layer_norm, in float32 as there: same arguments, same layout."""
    wide = compute_dtype(x)
    total = (x.to(wide) + residual.to(wide)).contiguous()
    return total.to(x.dtype), torch_layer_norm(total, weight, bias, eps).to(x.dtype)


def torch_geglu(x: Tensor) -> Tensor:  # [..., 2 C] -> [..., C] contiguous, in x's dtype
    """`reference.geglu` by torch's gelu."""
    a, b = x.chunk(2, dim=-1)
    return (a * functional.gelu(b)).contiguous()


def torch_bias_residual(
    x: Tensor,  # [B, C, H, W]
    bias: Tensor,  # [C]
    residual: Tensor,  # [B, C, H, W]
) -> Tensor:  # [B, C, H, W] in x's dtype and memory format
    """`reference.bias_residual` in x's dtype."""
    return (x + bias[:, None, None] + residual).to(x.dtype)
