"""What the hand-written attention takes, and how it is called: what the CUDA module and its emulator have in common."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

DTYPES = (torch.bfloat16, torch.float16)
MAX_HEAD_DIM = 256
CHUNK = 8  # elements: what a thread copies at once
MAX_BLOCKS = 2**30 - 1
MIN_ROWS = 16  # queries of a block, or more
MAX_ROWS = 2**30 - 1


class Call(NamedTuple):
    """The arguments of `attention_fwd` in both modules, in its order."""

    pointers: list[int]  # of q, k, v and the result
    strides: list[list[int]]  # of each, in elements: batch, row, head
    sizes: list[int]  # B, H, Lq, Lk, D
    is_half: bool
    scale: float
    design: str  # of the kernel of sm_90; empty: its default


def check_alike(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raise where a tensor has another dtype (TypeError) or lies on another device (ValueError) than one beside it."""
    if tensor.dtype != other.dtype:
        raise TypeError(f"{name}: got {tensor.dtype}; allowed: {other.dtype}, the dtype of {other_name}")
    if tensor.device != other.device:
        raise ValueError(f"{name}: got a tensor on {tensor.device}; allowed: {other.device}, where {other_name} is")


def check_attention(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise what no implementation could give a meaning to.

    Raises:
        TypeError: the dtypes differ.
        ValueError: the devices differ, or the shapes are not [B, Lq, H, D] and twice [B, Lk, H, D].
    """
    check_alike("k", k, "q", q)
    check_alike("v", v, "q", q)
    if q.ndim != 4:
        raise ValueError(f"q: got {list(q.shape)}; allowed: [B, Lq, H, D]")
    B, _, H, D = q.shape
    if k.ndim != 4 or (k.shape[0], *k.shape[2:]) != (B, H, D):
        raise ValueError(f"k: got {list(k.shape)}; allowed: [{B}, Lk, {H}, {D}]")
    if v.shape != k.shape:
        raise ValueError(f"v: got {list(v.shape)}; allowed: {list(k.shape)}, the shape of k")


def refusal(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> str | None:
    """Why the kernels cannot take these arguments, which are sound; None if they can."""
    B, Lq, H, D = q.shape
    factor = _scale(q, scale)
    if q.dtype not in DTYPES:
        return f"{q.dtype} is not bfloat16 or float16"
    if D == 0 or D % CHUNK or D > MAX_HEAD_DIM:
        return f"the head dim {D} is not a multiple of 8 up to 256"
    for name, tensor in {"q": q, "k": k, "v": v}.items():
        if tensor.stride(3) != 1:
            return f"{name} is not contiguous along the head dim"
        if tensor.data_ptr() % (2 * CHUNK) or any(stride % CHUNK for stride in strides(tensor)):
            return f"{name} has rows that are not aligned to 16 bytes"
    if 0 in q.shape or k.shape[1] == 0:
        return f"q is {list(q.shape)} and k {list(k.shape)}: there is nothing to attend to"
    if max(Lq, k.shape[1]) > MAX_ROWS or B * H * -(-Lq // MIN_ROWS) > MAX_BLOCKS:
        return f"q is {list(q.shape)} and k {list(k.shape)}: too much for the 32-bit indices of blocks and rows"
    if not (factor > 0 and math.isfinite(factor)):
        return f"the scale {factor} is not positive and finite"
    return None


def prepare(
    q: Tensor,  # [B, Lq, H, D]
    k: Tensor,  # [B, Lk, H, D]
    v: Tensor,  # [B, Lk, H, D]
    out: Tensor,  # [B, Lq, H, D]
    scale: float | None = None,  # 1 / sqrt(D) unless given
    design: str = "",
) -> Call:
    """The call for arguments that `refusal` lets pass."""
    B, Lq, H, D = q.shape
    tensors = (q, k, v, out)
    return Call(
        pointers=[tensor.data_ptr() for tensor in tensors],
        strides=[strides(tensor) for tensor in tensors],
        sizes=[B, H, Lq, k.shape[1], D],
        is_half=q.dtype == torch.float16,
        scale=_scale(q, scale),
        design=design,
    )


def strides(x: Tensor) -> list[int]:
    """Of the batch, the rows and the heads; torch leaves the stride of a dim of size 1 to chance, here it is 0."""
    return [0 if size == 1 else stride for size, stride in zip(x.shape[:3], x.stride()[:3], strict=True)]


def _scale(q: Tensor, scale: float | None) -> float:
    return max(q.shape[-1], 1) ** -0.5 if scale is None else scale
