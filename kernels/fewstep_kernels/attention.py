"""Attention for U-Nets: torch's own, the hand-written kernels of csrc/, and the choice between them."""

import os

import torch
from torch import Tensor
from torch.nn import functional

from fewstep_kernels import _ext
from fewstep_kernels.ahead import ahead
from fewstep_kernels.attention_call import check_attention, prepare, refusal
from fewstep_kernels.measured import AHEAD, EXACT_WIDTHS


def torch_attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """`reference.attention` by torch's scaled_dot_product_attention: same arguments, same layout.

    Raises:
        TypeError, ValueError: the tensors do not belong together; see `attention_call.check_attention`.
    """
    check_attention(q, k, v)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # torch's own wants heads before tokens
    return functional.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).contiguous()


def own_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, *, arch: int | None = None, design: str = ""
) -> Tensor:
    """`reference.attention` by the hand-written kernel, on the current stream.

    `arch` is the device's unless given; 80 takes the kernel of sm_80 where there is a newer one. `design` is one of
    `_ext.designs`, or what `measured.EXACT_WIDTHS` says.

    Raises:
        TypeError, ValueError: the tensors do not belong together, the kernel does not take them, or has no such design.
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
    design = design or ("exact" if EXACT_WIDTHS else "padded")
    _ext.attention_fwd(prepare(q, k, v, out, scale, design), q.device, arch)
    return out


def cuda_attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """What the op runs on a CUDA device: the hand-written kernel where it is ahead, torch's own elsewhere.

    FEWSTEP_ATTENTION=ours takes the hand-written kernel wherever it can run, FEWSTEP_ATTENTION=torch nowhere.
    """
    check_attention(q, k, v)
    design = _wanted(q, k)
    if design is None or refusal(q, k, v, scale) is not None:
        return torch_attention(q, k, v, scale)
    return own_attention(q, k, v, scale, design=design)


def forced() -> str | None:
    """FEWSTEP_ATTENTION: ours, torch, or None for what is ahead."""
    value = os.environ.get("FEWSTEP_ATTENTION", "")
    if value not in ("", "ours", "torch"):
        raise ValueError(f"FEWSTEP_ATTENTION: got {value!r}; allowed: ours, torch")
    return value or None


def _wanted(q: Tensor, k: Tensor) -> str | None:
    """The design of the hand-written kernel that is to run, "" for its default; None: torch's own is."""
    choice = forced()
    if choice == "torch" or (choice is None and not AHEAD) or _device_refusal(q) is not None:
        return None
    entry = ahead(AHEAD, torch.cuda.get_device_capability(q.device), q.shape[3], q.shape[1], k.shape[1])
    if entry is not None:
        return entry.design
    return "" if choice == "ours" else None


def _device_refusal(q: Tensor) -> str | None:
    if q.device.type != "cuda":
        return f"the hand-written kernel is for CUDA devices, not for {q.device}"
    index = torch.cuda.current_device() if q.device.index is None else q.device.index
    return _ext.device_refusal(index) or _ext.head_dim_refusal(q.shape[3])
