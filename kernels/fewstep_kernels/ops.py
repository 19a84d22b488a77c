"""Registration of every op with torch.library, and the one place that chooses an implementation by device.

Each op is `torch.ops.fewstep.<name>`: a schema, the implementation per device, and a fake one that knows only shapes,
so that torch.compile(fullgraph=True) and torch.export see through it. The functions below are what callers import.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep_kernels import host, reference
from fewstep_kernels.attention import cuda_attention, torch_attention
from fewstep_kernels.attention_call import check_attention
from fewstep_kernels.host_noise import FEW, host_normal
from fewstep_kernels.laid_out import check_laid_out, cuda_attention_laid_out, torch_attention_laid_out
from fewstep_kernels.norms import torch_group_norm_silu
from fewstep_kernels.operands import StepOperands, by_arguments, schema

_LIBRARY = torch.library.Library("fewstep", "DEF")


def _register(
    text: str,  # the schema
    definition: Callable[..., Any],
    fake: Callable[..., Any],
    fused: bool = True,
    takes_operands: bool = False,  # an implementation takes StepOperands, where the schema has them one by one
) -> None:
    """Define an op. Every device runs the twin, but CUDA the fused kernel of the same name, where there is one."""
    name = text.split("(", 1)[0]
    kernel = _fused(name, definition)
    _LIBRARY.define(text)
    _LIBRARY.impl(name, by_arguments(definition) if takes_operands else definition, "CompositeExplicitAutograd")
    if fused and find_spec("triton") is not None:
        _LIBRARY.impl(name, by_arguments(kernel) if takes_operands else kernel, "CUDA")
    torch.library.register_fake(f"fewstep::{name}", fake, lib=_LIBRARY)
    getattr(torch.ops.fewstep, name).default.__doc__ = definition.__doc__


def _fused(name: str, definition: Callable[..., Any]) -> Callable[..., Any]:
    """The Triton kernel of an op, imported at its first call; float64, which oracles use, stays with the twin."""

    def call(*arguments: Any, **options: Any) -> Any:
        tensors = arguments[0] if isinstance(arguments[0], StepOperands) else arguments
        if any(isinstance(each, Tensor) and each.dtype == torch.float64 for each in tensors):
            return definition(*arguments, **options)
        return getattr(import_module("fewstep_kernels.fused"), name)(*arguments, **options)

    return call


def _nothing(*_: Any, **__: Any) -> None:
    """The fake of an op that writes its arguments in place."""


def _like_first(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.empty_like(x)


def _attention_fake(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    check_attention(q, k, v)
    return q.new_empty(q.shape)


def _laid_out_fake(q: Tensor, kv: Tensor, scale: float | None = None) -> Tensor:
    check_laid_out(q, kv)
    return q.new_empty(q.shape)


_register(
    "normal(Tensor seed, Tensor step, int stream, SymInt[] shape) -> Tensor",
    reference.normal,
    lambda seed, step, stream, shape: seed.new_empty((seed.shape[0], *shape), dtype=torch.float32),
)
_register(
    "add_noise(Tensor x_0, Tensor signal_scale, Tensor noise_scale, Tensor noise) -> Tensor",
    reference.add_noise,
    _like_first,
)
_register(
    "cfg_combine(Tensor cond, Tensor uncond, Tensor w, Tensor phi) -> Tensor",
    reference.cfg_combine,
    _like_first,
)
_register(
    "posterior_update(Tensor x, Tensor x_0, Tensor m, Tensor row, Tensor? z=None, Tensor? v=None) -> Tensor",
    reference.posterior_update,
    _like_first,
)
_register(
    "begin_step(Tensor table, Tensor(a!) index, Tensor(b!) row, Tensor(c!) step, Tensor(d!) t, Tensor cond_lane, "
    "Tensor uncond_lane, Tensor(e!)? r=None) -> ()",
    reference.begin_step,
    _nothing,
)
_register(
    "step_statistics(Tensor(a!) statistics, Tensor x, Tensor model_output, Tensor row, Tensor cond_lane, "
    "Tensor uncond_lane, Tensor? gradient=None) -> ()",
    reference.step_statistics,
    _nothing,
)
_register(
    "step_log_prob(Tensor(a!) log_prob, Tensor model_output, Tensor row, Tensor step, Tensor seed, Tensor cond_lane, "
    "int channels, Tensor? noise=None, Tensor? mask=None, bool learned_variance=False) -> ()",
    reference.step_log_prob,
    _nothing,
)
_register(schema("denoise_step"), reference.denoise_step, _nothing, takes_operands=True)
_register(
    "group_norm_silu(Tensor x, Tensor weight, Tensor bias, int groups, float eps, Tensor? shift_before=None, "
    "Tensor? scale=None, Tensor? shift=None, bool silu=True, Tensor? residual=None) -> Tensor",
    reference.group_norm_silu,
    _like_first,
)
_register(
    "attention(Tensor q, Tensor k, Tensor v, float? scale=None) -> Tensor",
    torch_attention,
    _attention_fake,
    fused=False,
)
_LIBRARY.impl("attention", cuda_attention, "CUDA")
_register(
    "attention_laid_out(Tensor q, Tensor kv, float? scale=None) -> Tensor",
    torch_attention_laid_out,
    _laid_out_fake,
    fused=False,
)
_LIBRARY.impl("attention_laid_out", cuda_attention_laid_out, "CUDA")

normal: Callable[[Tensor, Tensor, int, Sequence[int]], Tensor] = torch.ops.fewstep.normal.default
add_noise: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = torch.ops.fewstep.add_noise.default
cfg_combine: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = torch.ops.fewstep.cfg_combine.default
posterior_update: Callable[..., Tensor] = torch.ops.fewstep.posterior_update.default
begin_step: Callable[..., None] = torch.ops.fewstep.begin_step.default
step_statistics: Callable[..., None] = torch.ops.fewstep.step_statistics.default
step_log_prob: Callable[..., None] = torch.ops.fewstep.step_log_prob.default


def denoise_step(operands: StepOperands) -> None:
    """All that happens between two U-Net calls: see `reference.denoise_step`, the definition."""
    torch.ops.fewstep.denoise_step.default(*operands)


class StepOps(NamedTuple):
    """The four ops of a step, of which two are in every one."""

    begin_step: Callable[..., None]
    step_statistics: Callable[..., None]
    denoise_step: Callable[[StepOperands], None]
    step_log_prob: Callable[..., None]


STEP_OPS = StepOps(begin_step, step_statistics, denoise_step, step_log_prob)


def eager_normal(
    seeds: Sequence[int], steps: Sequence[int], stream: int, shape: Sequence[int], device: torch.device
) -> Tensor:
    """`normal` for seeds and steps that the host knows: [B, *shape] float32 on the device.

    On a CPU a few samples are drawn by numpy, with the same bits; see `host_noise`.
    """
    if device.type == "cpu" and len(seeds) * prod(shape) <= FEW:
        return host_normal(seeds, steps, stream, shape)
    seed, step = (torch.tensor(values, dtype=torch.int64, device=device) for values in (seeds, steps))
    return normal(seed, step, stream, list(shape))


def eager_step_ops(device: torch.device) -> StepOps:
    """The ops of a step for a caller that neither traces nor captures: on a CPU those of `host`, the twins' bits.

    torch's call of a registered op costs 20 to 30 us there after a U-Net has emptied the caches, a tenth of the step.
    """
    if device.type == "cpu":
        return StepOps(host.begin_step, reference.step_statistics, host.denoise_step, reference.step_log_prob)
    return STEP_OPS


def group_norm_silu(
    x: Tensor,  # [B, C, H, W]
    weight: Tensor,  # [C]
    bias: Tensor,  # [C]
    groups: int,
    eps: float,
    *,
    shift_before: Tensor | None = None,  # [B, C]
    scale: Tensor | None = None,  # [B, C]
    shift: Tensor | None = None,  # [B, C]
    silu: bool = True,
    residual: Tensor | None = None,  # [B, C, H, W]
) -> Tensor:  # [B, C, H, W]
    """silu(group_norm(x + shift_before) (1 + scale) + shift) + residual; training differentiates torch's own."""
    differentiated = _needs_grad(x, weight, bias, shift_before, scale, shift, residual)
    call = torch_group_norm_silu if differentiated else torch.ops.fewstep.group_norm_silu.default
    result: Tensor = call(x, weight, bias, groups, eps, shift_before, scale, shift, silu, residual)
    return result


def attention(
    q: Tensor,  # [B, Lq, H, D]
    k: Tensor,  # [B, Lk, H, D]
    v: Tensor,  # [B, Lk, H, D]
    scale: float | None = None,  # 1 / sqrt(D) unless given
) -> Tensor:  # [B, Lq, H, D] contiguous
    """softmax(scale q k^T) v for every head; training differentiates torch's own."""
    call = torch_attention if _needs_grad(q, k, v) else torch.ops.fewstep.attention.default
    result: Tensor = call(q, k, v, scale)
    return result


def attention_laid_out(
    q: Tensor,  # [B, Lq, H, D]
    kv: Tensor,  # [B, 2, H, Lk, D] as `lay_out` gives
    scale: float | None = None,  # 1 / sqrt(D) unless given
) -> Tensor:  # [B, Lq, H, D] contiguous
    """`attention` where many q meet the same k and v: `lay_out` them once; training differentiates torch's own."""
    call = torch_attention_laid_out if _needs_grad(q, kv) else torch.ops.fewstep.attention_laid_out.default
    result: Tensor = call(q, kv, scale)
    return result


def _needs_grad(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
