"""Guidance: the two halves of a model output, combined and rescaled. `cfg_combine`, and what a step shares with it."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from fewstep_kernels.fused.launch import Launch, block_of, check_floats, grid_of, needed, offsets, reduction_block, walk
from fewstep_kernels.row import COLUMN

W, PHI, G = (tl.constexpr(COLUMN[name]) for name in ("w", "phi", "g"))


@triton.jit
def guided(cond_ptr, uncond_ptr, w, inside):
    """m = uncond + w (cond - uncond); at w = 1 and w = 0 a half alone, and the other is not read."""
    cond = tl.load(cond_ptr, mask=needed(inside, w), other=0.0).to(tl.float32)
    uncond = tl.load(uncond_ptr, mask=needed(inside, w - 1.0), other=0.0).to(tl.float32)
    return _combined(cond, uncond, w)


@triton.jit
def _combined(cond, uncond, w):
    return tl.where(w == 1.0, cond, tl.where(w == 0.0, uncond, uncond + w * (cond - uncond)))


@triton.jit
def prediction(
    model_output_ptr, gradient_ptr, row_ptr, sample, cond_lane, uncond_lane, factor, element, inside, size, stride,
    gradient_stride, GUIDED: tl.constexpr,
):  # fmt: skip
    """m of a step: guided where samples own two lanes, rescaled by `factor`, plus g times the gradient."""
    cond_ptr = model_output_ptr + offsets(cond_lane, element, size, stride)
    if GUIDED:
        uncond_ptr = model_output_ptr + offsets(uncond_lane, element, size, stride)
        m = guided(cond_ptr, uncond_ptr, tl.load(row_ptr + W), inside)
    else:
        m = tl.load(cond_ptr, mask=inside, other=0.0).to(tl.float32)
    m *= factor
    if gradient_ptr is not None:
        g = tl.load(row_ptr + G)
        gradient_ptr += offsets(sample, element, size, gradient_stride)
        m += g * tl.load(gradient_ptr, mask=needed(inside, g), other=0.0).to(tl.float32)
    return m


@triton.jit
def rescale_factor(
    cond_ptr, uncond_ptr, cond_lane, uncond_lane, cond_stride, uncond_stride, size, n, w, phi, BLOCK: tl.constexpr
):  # fmt: skip
    """phi std(cond) / std(m) + 1 - phi over one sample, by one program: means first, then centred squares.

    1 for a half alone, and where the quotient is no finite number.
    """
    factor = tl.full((), 1.0, tl.float32)
    if (phi != 0.0) & (w != 0.0) & (w != 1.0):
        cond_sum, m_sum = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
        cond_low, cond_high = tl.full((BLOCK,), float("inf"), tl.float32), tl.full((BLOCK,), -float("inf"), tl.float32)
        m_low, m_high = cond_low, cond_high
        for start in range(0, n, BLOCK):
            inside = start + tl.arange(0, BLOCK) < n
            cond, m = _halves(
                cond_ptr, uncond_ptr, cond_lane, uncond_lane, cond_stride, uncond_stride, size, start, inside, w
            )
            cond_sum += cond
            m_sum += m
            cond_low, cond_high = _widened(cond_low, cond_high, cond, inside)
            m_low, m_high = _widened(m_low, m_high, m, inside)
        cond_mean, m_mean = _mean(cond_sum, cond_low, cond_high, n), _mean(m_sum, m_low, m_high, n)
        cond_sum, m_sum = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
        for start in range(0, n, BLOCK):
            inside = start + tl.arange(0, BLOCK) < n
            cond, m = _halves(
                cond_ptr, uncond_ptr, cond_lane, uncond_lane, cond_stride, uncond_stride, size, start, inside, w
            )
            cond_sum += tl.where(inside, (cond - cond_mean) * (cond - cond_mean), 0.0)
            m_sum += tl.where(inside, (m - m_mean) * (m - m_mean), 0.0)
        rescaled = phi * tl.sqrt_rn(tl.div_rn(tl.sum(cond_sum), tl.sum(m_sum))) + (1.0 - phi)
        factor = tl.where(tl.abs(rescaled) < float("inf"), rescaled, 1.0)  # which NaN fails
    return factor


@triton.jit
def _widened(low, high, value, inside):
    """The least and the largest value so far."""
    return tl.where(inside & (value < low), value, low), tl.where(inside & (value > high), value, high)


@triton.jit
def _mean(total, low, high, n):
    """The mean of n values; that of equal ones is their value, which rounding would move it off."""
    least, most = tl.min(low), tl.max(high)
    return tl.where(least == most, least, tl.sum(total) / n)


@triton.jit
def _halves(cond_ptr, uncond_ptr, cond_lane, uncond_lane, cond_stride, uncond_stride, size, start, inside, w):
    element = start + tl.arange(0, inside.shape[0])
    cond = tl.load(cond_ptr + offsets(cond_lane, element, size, cond_stride), mask=inside, other=0.0).to(tl.float32)
    unread = uncond_ptr + offsets(uncond_lane, element, size, uncond_stride)
    uncond = tl.load(unread, mask=needed(inside, w - 1.0), other=0.0).to(tl.float32)
    return cond, _combined(cond, uncond, w)


@triton.jit
def _rescale_kernel(
    factor_ptr,
    cond_ptr,
    uncond_ptr,
    w_ptr,
    phi_ptr,
    n,
    size,
    cond_stride,
    uncond_stride,
    w_stride,
    phi_stride,
    BLOCK: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    w = tl.load(w_ptr + sample * w_stride).to(tl.float32)
    phi = tl.load(phi_ptr + sample * phi_stride).to(tl.float32)
    factor = rescale_factor(cond_ptr, uncond_ptr, sample, sample, cond_stride, uncond_stride, size, n, w, phi, BLOCK)
    tl.store(factor_ptr + sample, factor)


@triton.jit
def _cfg_combine_kernel(
    m_ptr,
    cond_ptr,
    uncond_ptr,
    w_ptr,
    factor_ptr,
    n,
    size,
    m_stride,
    cond_stride,
    uncond_stride,
    w_stride,
    BLOCK: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    element = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = element < n
    w = tl.load(w_ptr + sample * w_stride).to(tl.float32)
    cond_ptr += offsets(sample, element, size, cond_stride)
    uncond_ptr += offsets(sample, element, size, uncond_stride)
    m = guided(cond_ptr, uncond_ptr, w, inside) * tl.load(factor_ptr + sample)
    tl.store(m_ptr + offsets(sample, element, size, m_stride), m, mask=inside)


def cfg_combine_launches(
    m: Tensor, factor: Tensor, cond: Tensor, uncond: Tensor, w: Tensor, phi: Tensor
) -> tuple[Launch, Launch]:
    """The launch that writes factor [B], and the one that writes m with it."""
    check_floats(cond=cond, uncond=uncond)
    n = math.prod(m.shape[1:])
    size, (m_stride, cond_stride, uncond_stride) = walk(m, cond, uncond, any_order=True)
    shared = {
        "cond_ptr": cond,
        "uncond_ptr": uncond,
        "w_ptr": w,
        "factor_ptr": factor,
        "n": n,
        "size": size,
        "cond_stride": cond_stride,
        "uncond_stride": uncond_stride,
        "w_stride": w.stride(0),
    }
    block, num_warps, registers = reduction_block(n)
    rescale = shared | {"phi_ptr": phi, "phi_stride": phi.stride(0)}
    first = Launch(_rescale_kernel, (len(m),), rescale, {"BLOCK": block}, num_warps, registers=registers)
    block = block_of(cond, uncond)
    combine = shared | {"m_ptr": m, "m_stride": m_stride}
    return first, Launch(_cfg_combine_kernel, grid_of(block, cond=cond), combine, {"BLOCK": block})


def cfg_combine(
    cond: Tensor,  # [B, C, H, W]
    uncond: Tensor,  # [B, C, H, W]
    w: Tensor,  # [B] guidance scale
    phi: Tensor,  # [B] guidance rescale
) -> Tensor:  # [B, C, H, W] in cond's dtype
    """m = uncond + w (cond - uncond), Ho and Salimans 2022; then m (phi std(cond) / std(m) + 1 - phi), Lin et al. 2023.

    w = 1 selects cond and w = 0 selects uncond; a sample with phi = 0 costs the first launch nothing.
    """
    m, factor = torch.empty_like(cond), torch.empty(len(cond), dtype=torch.float32, device=cond.device)
    for launch in cfg_combine_launches(m, factor, cond, uncond, w, phi):
        launch.run()
    return m
