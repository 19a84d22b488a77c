"""What the Triton kernels of an op launch: asked of the kernels, which list their launches for given tensors."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fewstep.errors import FewstepError


def listed_launches(op: str, args: Sequence[Any]) -> list[list[Tensor]] | None:
    """For each launch of a call of `op` the tensors it reads or writes; None for an op that is always one launch.

    Raises:
        FewstepError: triton, which the kernels are written in, is not installed.
    """
    lister = _LISTERS.get(op)
    if lister is None:
        return None
    try:
        return lister(*args)
    except ImportError:
        raise FewstepError("triton: not installed; the launches of its kernels are known on Linux alone") from None


def _group_norm_silu(x: Tensor, *others: Any) -> list[list[Tensor]]:
    """One launch for a map of one tile, two for a larger one; a copy before and after for unusual strides."""
    from fewstep_kernels.fused.norms import group_norm_silu_launches

    dense = x if x.is_contiguous() else x.contiguous(memory_format=torch.channels_last)
    out = torch.empty_like(dense)
    launches = [_tensors(launch) for launch in group_norm_silu_launches(out, dense, *others)]
    return launches if dense is x else [[x, dense], *launches, [out, torch.empty_like(x)]]


def _cfg_combine(cond: Tensor, uncond: Tensor, w: Tensor, phi: Tensor) -> list[list[Tensor]]:
    """One launch for the rescale factors, one for the combination."""
    from fewstep_kernels.fused.guidance import cfg_combine_launches

    m, factor = torch.empty_like(cond), torch.empty(len(cond), dtype=torch.float32, device=cond.device)
    return [_tensors(launch) for launch in cfg_combine_launches(m, factor, cond, uncond, w, phi)]


def _tensors(launch: Any) -> list[Tensor]:
    return [value for value in launch.arguments.values() if isinstance(value, Tensor)]


_LISTERS: dict[str, Callable[..., list[list[Tensor]]]] = {
    "group_norm_silu": _group_norm_silu,
    "cfg_combine": _cfg_combine,
}
