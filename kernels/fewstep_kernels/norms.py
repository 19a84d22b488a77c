"""The norm that training differentiates: torch's own, whose backward is one kernel and a sixth less time a step."""

from torch import Tensor
from torch.nn import functional


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
