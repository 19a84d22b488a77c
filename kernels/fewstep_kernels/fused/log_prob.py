"""How probable what a step added was, the same bits every time: `step_log_prob`, one program a sample."""

import math

import triton
import triton.language as tl
from torch import Tensor

from fewstep_kernels.fused.launch import (
    Launch,
    check_floats,
    check_integers,
    check_state,
    offsets,
    reduction_block,
    walk,
)
from fewstep_kernels.fused.noising import step_noise
from fewstep_kernels.fused.posterior import K, S, learned_log_std
from fewstep_kernels.row import COLUMN

KNOWN_SIGNAL = tl.constexpr(COLUMN["known_signal"])
HALF_LOG_2_PI = tl.constexpr(0.5 * math.log(2 * math.pi))


@triton.jit
def _step_log_prob_kernel(
    log_prob_ptr,
    model_output_ptr,
    row_ptr,
    step_ptr,
    seed_ptr,
    cond_lane_ptr,
    noise_ptr,
    mask_ptr,
    rows,  # of a slot's log-probabilities
    n,  # elements of a sample
    batch,  # elements of all samples
    last_noise,
    variance_at,  # where, after a lane's first element, its learned variance begins
    size,
    model_output_stride,
    mask_stride,
    LEARNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    row_ptr += sample * K
    step, seed = tl.load(step_ptr + sample), tl.load(seed_ptr + sample)
    cond_lane = tl.load(cond_lane_ptr + sample)
    s, signal = tl.load(row_ptr + S), tl.load(row_ptr + KNOWN_SIGNAL)
    log_prob = tl.full((), float("nan"), tl.float64)
    if s != 0.0:
        excess, log_std = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
        counted = tl.zeros((BLOCK,), tl.int32)
        for start in range(0, n, BLOCK):
            element = start + tl.arange(0, BLOCK)
            inside = element < n
            counts = inside
            if mask_ptr is not None:
                mask = tl.load(mask_ptr + offsets(sample, element, size, mask_stride), mask=inside, other=0.0)
                counts = counts & (tl.where(signal == 0.0, 1.0, mask) == 1.0)
            z = step_noise(noise_ptr, seed, step, start, sample * n + element, inside, batch, last_noise, BLOCK)
            excess += tl.where(counts, 0.5 - 0.5 * z * z, 0.0)
            if LEARNED:
                v_ptr = model_output_ptr + variance_at + offsets(cond_lane, element, size, model_output_stride)
                v = tl.load(v_ptr, mask=inside, other=0.0).to(tl.float32)
                log_std += tl.where(counts, learned_log_std(v, row_ptr), 0.0)
            counted += counts.to(tl.int32)
        # What all elements share is taken once, and the rest has a mean of 0, so that a sum near 0 has its digits too.
        shared = 0.5 + HALF_LOG_2_PI + tl.log(s.to(tl.float64))
        log_prob = tl.sum(excess.to(tl.float64)) - tl.sum(log_std.to(tl.float64))
        log_prob -= tl.sum(counted).to(tl.float64) * shared
    tl.store(log_prob_ptr + sample * rows + step, log_prob.to(tl.float32))


def step_log_prob_launch(
    log_prob: Tensor,
    model_output: Tensor,
    row: Tensor,
    step: Tensor,
    seed: Tensor,
    cond_lane: Tensor,
    channels: int,
    noise: Tensor | None = None,
    mask: Tensor | None = None,
    learned_variance: bool = False,
    block: int | None = None,
) -> Launch:
    """The launch that writes one number for each sample; `block` as of `reduction_block`."""
    check_state(log_prob=log_prob, row=row, noise=noise)
    check_integers(step=step, seed=seed, cond_lane=cond_lane)
    check_floats(model_output=model_output, mask=mask)
    samples, m = len(log_prob), model_output[:, :channels]
    n = math.prod(m.shape[1:])
    size, (m_stride, mask_stride) = walk(m, m if mask is None else mask.expand(samples, *m.shape[1:]))
    block, num_warps, registers = reduction_block(n, block)
    arguments = {
        "log_prob_ptr": log_prob,
        "model_output_ptr": model_output,
        "row_ptr": row,
        "step_ptr": step,
        "seed_ptr": seed,
        "cond_lane_ptr": cond_lane,
        "noise_ptr": noise,
        "mask_ptr": mask,
        "rows": log_prob.shape[1],
        "n": n,
        "batch": samples * n,
        "last_noise": 0 if noise is None else len(noise) - 1,
        "variance_at": channels * model_output.stride(1),
        "size": size,
        "model_output_stride": m_stride,
        "mask_stride": mask_stride,
    }
    constants = {"LEARNED": learned_variance, "BLOCK": block}
    return Launch(_step_log_prob_kernel, (samples,), arguments, constants, num_warps, registers=registers)


def step_log_prob(
    log_prob: Tensor,  # [B, N + 1], written at each sample's own row
    model_output: Tensor,  # [R, C or 2C, H, W]
    row: Tensor,  # [B, K]
    step: Tensor,  # [B] int64
    seed: Tensor,  # [B] int64
    cond_lane: Tensor,  # [B] int64
    channels: int,  # C
    noise: Tensor | None = None,  # [N + 1, B, C, H, W]
    mask: Tensor | None = None,  # [B, 1 or C, H, W]
    learned_variance: bool = False,
) -> None:
    """log p(x' | x) of each sample's step, from the noise it draws and the scale of that: see the twin."""
    step_log_prob_launch(
        log_prob, model_output, row, step, seed, cond_lane, channels, noise, mask, learned_variance
    ).run()
