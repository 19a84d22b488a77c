"""Attention for U-Nets. The hand-written kernels are not built yet, so every device runs torch's own."""

from torch import Tensor
from torch.nn import functional


def torch_attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """`reference.attention` by torch's scaled_dot_product_attention: same arguments, same layout."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # torch's own wants heads before tokens
    return functional.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).contiguous()
