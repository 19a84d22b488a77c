"""Attention for U-Nets: torch's own, the hand-written kernels of csrc/, and the choice between them."""

import os
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from fewstep_kernels import _ext
from fewstep_kernels.attention_call import check_attention, prepare, refusal


class Ahead(NamedTuple):
    """Where the hand-written kernel was measured to be right and ahead of torch's own."""

    arch: tuple[int, int]
    head_dim: int
    queries: tuple[int, int]  # from, to
    keys: tuple[int, int]
    result: str  # the file in benchmarks/results that shows it


AHEAD: tuple[Ahead, ...] = ()  # nothing is measured yet


def ahead(table: tuple[Ahead, ...], arch: tuple[int, int], D: int, Lq: int, Lk: int) -> Ahead | None:
    """The entry of a table that covers a shape on an architecture, if there is one."""
    for entry in table:
        lengths = entry.queries[0] <= Lq <= entry.queries[1] and entry.keys[0] <= Lk <= entry.keys[1]
        if (entry.arch, entry.head_dim) == (arch, D) and lengths:
            return entry
    return None


def torch_attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """`reference.attention` by torch's scaled_dot_product_attention: same arguments, same layout.

    Raises:
        TypeError, ValueError: the tensors do not belong together; see `attention_call.check_attention`.
    """
    check_attention(q, k, v)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # torch's own wants heads before tokens
    return functional.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).contiguous()


def own_attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, *, arch: int | None = None) -> Tensor:
    """`reference.attention` by the hand-written kernel, on the current stream.

    `arch` is the device's unless given; 80 takes the kernel of sm_80 where there is a newer one.

    Raises:
        TypeError, ValueError: the tensors do not belong together, or the kernel does not take them.
        RuntimeError: the CUDA module is not there, or does not serve the device.
    """
    check_attention(q, k, v)
    if why_not := _device_refusal(q):
        raise RuntimeError(f"attention: {why_not}")
    if arch is not None and arch not in (80, _ext.architecture(q.device)):
        raise ValueError(f"arch: got {arch}; allowed: 80, or {_ext.architecture(q.device)}, the device's")
    if why_not := refusal(q, k, v, scale):
        raise ValueError(f"attention: {why_not}")
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    _ext.attention_fwd(prepare(q, k, v, out, scale), q.device, arch)
    return out


def cuda_attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """What the op runs on a CUDA device: the hand-written kernel where it is ahead, torch's own elsewhere.

    FEWSTEP_ATTENTION=ours takes the hand-written kernel wherever it can run, FEWSTEP_ATTENTION=torch nowhere.
    """
    check_attention(q, k, v)
    own = _wanted(q, k) and _device_refusal(q) is None and refusal(q, k, v, scale) is None
    return own_attention(q, k, v, scale) if own else torch_attention(q, k, v, scale)


def forced() -> str | None:
    """FEWSTEP_ATTENTION: ours, torch, or None for what is ahead."""
    value = os.environ.get("FEWSTEP_ATTENTION", "")
    if value not in ("", "ours", "torch"):
        raise ValueError(f"FEWSTEP_ATTENTION: got {value!r}; allowed: ours, torch")
    return value or None


def _wanted(q: Tensor, k: Tensor) -> bool:
    choice = forced()
    if choice is not None:
        return choice == "ours"
    if not AHEAD:
        return False
    arch = torch.cuda.get_device_capability(q.device)
    return ahead(AHEAD, arch, q.shape[3], q.shape[1], k.shape[1]) is not None


def _device_refusal(q: Tensor) -> str | None:
    if q.device.type != "cuda":
        return f"the hand-written kernel is for CUDA devices, not for {q.device}"
    index = torch.cuda.current_device() if q.device.index is None else q.device.index
    return _ext.device_refusal(index) or _ext.head_dim_refusal(q.shape[3])
