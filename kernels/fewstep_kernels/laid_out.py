"""Keys and values laid out once for many queries: cross-attention's stay as they are over the steps of a sample."""

import torch
from torch import Tensor

from fewstep_kernels.attention import cuda_attention, torch_attention
from fewstep_kernels.attention_call import check_alike


def lay_out(
    k: Tensor,  # [B, Lk, H, D]
    v: Tensor,  # [B, Lk, H, D]
) -> Tensor:  # [B, 2, H, Lk, D] contiguous, in k's dtype
    """k and v in one tensor where the rows of a head lie together, for every call of `attention_laid_out` that follows.

    A projection [B, Lk, H D] has the heads of one token together, so that the rows of a head are H D elements apart.

    Raises:
        TypeError: the dtypes differ.
        ValueError: the devices differ, or the shapes are not twice [B, Lk, H, D].
    """
    check_alike("v", v, "k", k)
    if k.ndim != 4:
        raise ValueError(f"k: got {list(k.shape)}; allowed: [B, Lk, H, D]")
    if v.shape != k.shape:
        raise ValueError(f"v: got {list(v.shape)}; allowed: {list(k.shape)}, the shape of k")
    return torch.stack((k.transpose(1, 2), v.transpose(1, 2)), 1).contiguous()


def keys_and_values(kv: Tensor) -> tuple[Tensor, Tensor]:
    """The k and the v that were laid out, as views: [B, 2, H, Lk, D] -> twice [B, Lk, H, D]."""
    k, v = kv.transpose(2, 3).unbind(1)
    return k, v


def check_laid_out(q: Tensor, kv: Tensor) -> None:
    """Raise what no implementation could give a meaning to.

    Raises:
        TypeError: the dtypes differ.
        ValueError: the devices differ, or the shapes are not [B, Lq, H, D] and [B, 2, H, Lk, D].
    """
    check_alike("kv", kv, "q", q)
    if q.ndim != 4:
        raise ValueError(f"q: got {list(q.shape)}; allowed: [B, Lq, H, D]")
    B, _, H, D = q.shape
    if kv.ndim != 5 or (*kv.shape[:3], kv.shape[4]) != (B, 2, H, D):
        raise ValueError(f"kv: got {list(kv.shape)}; allowed: [{B}, 2, {H}, Lk, {D}], as `lay_out` gives")


def torch_attention_laid_out(q: Tensor, kv: Tensor, scale: float | None = None) -> Tensor:
    """`reference.attention_laid_out` by torch's scaled_dot_product_attention.

    Raises:
        TypeError, ValueError: the tensors do not belong together; see `check_laid_out`.
    """
    check_laid_out(q, kv)
    return torch_attention(q, *keys_and_values(kv), scale)


def cuda_attention_laid_out(q: Tensor, kv: Tensor, scale: float | None = None) -> Tensor:
    """What the op runs on a CUDA device: `attention.cuda_attention` and its choice, on views of kv."""
    check_laid_out(q, kv)
    return cuda_attention(q, *keys_and_values(kv), scale)
