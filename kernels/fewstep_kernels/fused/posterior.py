"""The estimate of x_0, its clip, and the update that uses it. `posterior_update`, and what a step shares with it."""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fewstep_kernels.fused.launch import (
    Launch,
    block_of,
    check_floats,
    check_state,
    grid_of,
    offsets,
    term,
    walk,
)
from fewstep_kernels.row import COLUMN, COLUMNS

A, B, E, S = (tl.constexpr(COLUMN[name]) for name in ("a", "b", "e", "s"))
K_X, K_M = (tl.constexpr(COLUMN[name]) for name in ("k_x", "k_m"))
CLIP, CLIP_RATIO = (tl.constexpr(COLUMN[name]) for name in ("clip", "clip_ratio"))
LOG_VAR_MIN, LOG_VAR_MAX = (tl.constexpr(COLUMN[name]) for name in ("log_var_min", "log_var_max"))
K = tl.constexpr(len(COLUMNS))


@triton.jit
def lerp(start, end, weight):
    """start + weight (end - start), exact at both ends."""
    difference = end - start
    return tl.where(weight < 0.5, start + weight * difference, end - (1.0 - weight) * difference)


@triton.jit
def estimate(x, m, row_ptr):
    """x_0 = k_x x + k_m m."""
    return term(tl.load(row_ptr + K_X), x) + term(tl.load(row_ptr + K_M), m)


@triton.jit
def clipped(x_0, row_ptr, statistics_ptr):
    """x_0 within its static limit; or within a threshold, the quantile of |x_0| held to [1, limit], and over it.

    By comparisons that NaN fails: it stays NaN.
    """
    limit = tl.load(row_ptr + CLIP)
    if statistics_ptr is None:
        x_0 = _within(x_0, -limit, limit)
    elif tl.load(row_ptr + CLIP_RATIO) > 0.0:
        threshold = _within(tl.load(statistics_ptr + 1), 1.0, tl.maximum(limit, 1.0))
        x_0 = tl.div_rn(_within(x_0, -threshold, threshold), threshold)
    else:
        x_0 = _within(x_0, -limit, limit)
    return x_0


@triton.jit
def _within(value, low, high):
    return tl.where(value < low, low, tl.where(value > high, high, value))


@triton.jit
def posterior_mean(x, x_0, m, row_ptr):
    """x' = a x + b x_0 + e m, to which noise and history add."""
    return term(tl.load(row_ptr + A), x) + term(tl.load(row_ptr + B), x_0) + term(tl.load(row_ptr + E), m)


@triton.jit
def learned_log_std(v, row_ptr):
    """log sigma, log sigma^2 = (1 + v)/2 log_var_max + (1 - v)/2 log_var_min (Nichol and Dhariwal 2021, eq. 15)."""
    low, high = tl.load(row_ptr + LOG_VAR_MIN), tl.load(row_ptr + LOG_VAR_MAX)
    share = tl.where(low == high, 0.0, (v + 1.0) / 2.0)  # not learned here: v weighs nothing
    return 0.5 * lerp(low, high, share)


@triton.jit
def learned_std(v, row_ptr):
    """sigma of `learned_log_std`."""
    return tl.exp(learned_log_std(v, row_ptr))


@triton.jit
def _posterior_update_kernel(
    updated_ptr,
    x_ptr,
    x_0_ptr,
    m_ptr,
    z_ptr,
    v_ptr,
    row_ptr,
    n,
    size,
    updated_stride,
    x_stride,
    x_0_stride,
    m_stride,
    z_stride,
    v_stride,
    BLOCK: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    element = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = element < n
    row_ptr += sample * K
    x = tl.load(x_ptr + offsets(sample, element, size, x_stride), mask=inside, other=0.0).to(tl.float32)
    x_0 = tl.load(x_0_ptr + offsets(sample, element, size, x_0_stride), mask=inside, other=0.0).to(tl.float32)
    m = tl.load(m_ptr + offsets(sample, element, size, m_stride), mask=inside, other=0.0).to(tl.float32)
    x = posterior_mean(x, x_0, m, row_ptr)
    if z_ptr is not None:
        std = tl.load(row_ptr + S)
        if std != 0.0:
            z = tl.load(z_ptr + offsets(sample, element, size, z_stride), mask=inside, other=0.0).to(tl.float32)
            if v_ptr is not None:
                v = tl.load(v_ptr + offsets(sample, element, size, v_stride), mask=inside, other=0.0).to(tl.float32)
                x += std * learned_std(v, row_ptr) * z
            else:
                x += std * z
    tl.store(updated_ptr + offsets(sample, element, size, updated_stride), x, mask=inside)


def posterior_update_launch(
    updated: Tensor, x: Tensor, x_0: Tensor, m: Tensor, row: Tensor, z: Tensor | None, v: Tensor | None
) -> Launch:
    """The launch that writes updated [B, C, H, W]."""
    check_floats(x=x, x_0=x_0, m=m, z=z, v=v)
    check_state(row=row)
    n, block = math.prod(x.shape[1:]), block_of(x, x_0, m, z, v)
    given = {"updated": updated, "x": x, "x_0": x_0, "m": m, "z": z, "v": v}
    present = {name: tensor for name, tensor in given.items() if tensor is not None}
    size, strides = walk(*present.values(), any_order=True)
    walked = dict(zip(present, strides, strict=True))
    arguments: dict[str, Any] = {"row_ptr": row, "n": n, "size": size}
    for name, tensor in given.items():
        arguments |= {f"{name}_ptr": tensor, f"{name}_stride": walked.get(name)}
    return Launch(_posterior_update_kernel, grid_of(block, x=x), arguments, {"BLOCK": block})


def posterior_update(
    x: Tensor,  # [B, C, H, W]
    x_0: Tensor,  # [B, C, H, W]
    m: Tensor,  # [B, C, H, W]
    row: Tensor,  # [B, K]
    z: Tensor | None = None,  # [B, C, H, W] standard normals
    v: Tensor | None = None,  # [B, C, H, W] learned variance in [-1, 1]
) -> Tensor:  # [B, C, H, W] in x's dtype
    """x' = a x + b x_0 + e m + s sigma z, with sigma = 1, or learned between two bounds."""
    updated = torch.empty_like(x)
    posterior_update_launch(updated, x, x_0, m, row, z, v).run()
    return updated
