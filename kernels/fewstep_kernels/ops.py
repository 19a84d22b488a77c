"""The ops of a step as callers import them, and their registration; those of a network's layers are in `layer_ops`."""

from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from fewstep_kernels import reference
from fewstep_kernels.host import HostStep
from fewstep_kernels.host_noise import FEW, host_normal
from fewstep_kernels.operands import StepOperands, schema
from fewstep_kernels.registration import like_first, nothing, register

register(
    "normal(Tensor seed, Tensor step, int stream, SymInt[] shape) -> Tensor",
    reference.normal,
    lambda seed, step, stream, shape: seed.new_empty((seed.shape[0], *shape), dtype=torch.float32),
)
register(
    "add_noise(Tensor x_0, Tensor signal_scale, Tensor noise_scale, Tensor noise) -> Tensor",
    reference.add_noise,
    like_first,
)
register(
    "cfg_combine(Tensor cond, Tensor uncond, Tensor w, Tensor phi) -> Tensor",
    reference.cfg_combine,
    like_first,
)
register(
    "posterior_update(Tensor x, Tensor x_0, Tensor m, Tensor row, Tensor? z=None, Tensor? v=None) -> Tensor",
    reference.posterior_update,
    like_first,
)
register(
    "begin_step(Tensor table, Tensor(a!) index, Tensor(b!) row, Tensor(c!) step, Tensor(d!) t, Tensor cond_lane, "
    "Tensor uncond_lane, Tensor(e!)? r=None) -> ()",
    reference.begin_step,
    nothing,
)
register(
    "step_statistics(Tensor(a!) statistics, Tensor x, Tensor model_output, Tensor row, Tensor cond_lane, "
    "Tensor uncond_lane, Tensor? gradient=None) -> ()",
    reference.step_statistics,
    nothing,
)
register(
    "step_log_prob(Tensor(a!) log_prob, Tensor model_output, Tensor row, Tensor step, Tensor seed, Tensor cond_lane, "
    "int channels, Tensor? noise=None, Tensor? mask=None, bool learned_variance=False) -> ()",
    reference.step_log_prob,
    nothing,
)
register(schema("denoise_step"), reference.denoise_step, nothing, takes_operands=True)

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
    """The ops of a step for a run that neither traces nor captures: on a CPU those of `host`, the twins' bits.

    torch's call of a registered op costs 20 to 30 us there after a U-Net has emptied the caches, a tenth of the step.
    """
    if device.type == "cpu":
        host = HostStep()
        return StepOps(host.begin_step, reference.step_statistics, host.denoise_step, reference.step_log_prob)
    return STEP_OPS
