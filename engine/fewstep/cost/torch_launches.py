"""What torch launches on a GPU for an op of its own that is several kernels there; from its sources, torch 2.13."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def torch_launches(op: str, args: Sequence[Any], result: Any) -> list[list[Tensor]] | None:
    """For each launch of a call of `op` the tensors it reads or writes; None for an op that counts as one.

    A convolution's bias is added by a launch of its own (`_convolution` around `cudnn_convolution`, in
    aten/src/ATen/native/Convolution.cpp). A group norm is three: the moments, the factors of every channel that follow
    from them, and their use (aten/src/ATen/native/cuda/group_norm_kernel.cu).
    """
    lister = _LISTERS.get(op)
    return None if lister is None else lister(args, result)


def _convolution(args: Sequence[Any], out: Tensor) -> list[list[Tensor]]:
    x, weight, bias = args[:3]
    return [[x, weight, out]] if bias is None else [[x, weight, out], [out, bias, torch.empty_like(out)]]


def _group_norm(args: Sequence[Any], results: tuple[Tensor, Tensor, Tensor]) -> list[list[Tensor]]:
    x, weight, bias = args[:3]
    out, mean, scale = results
    if weight is None and bias is None:
        return [[x, mean, scale], [x, mean, scale, out]]
    factors = [x.new_empty(x.shape[:2]) for _ in range(2)]
    given = [each for each in (weight, bias) if each is not None]
    return [[x, mean, scale], [mean, scale, *given, *factors], [x, *factors, out]]


_LISTERS: dict[str, Callable[[Sequence[Any], Any], list[list[Tensor]]]] = {
    "convolution": _convolution,
    "native_group_norm": _group_norm,
}
