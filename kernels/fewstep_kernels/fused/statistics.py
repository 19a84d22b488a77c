"""The two numbers a step needs from a whole sample, the same bits every time: `step_statistics`.

One program reads one sample as often as it has to, and a sample that neither rescales nor thresholds not once.
"""

import math

import triton
import triton.language as tl
from torch import Tensor

from fewstep_kernels.fused.guidance import PHI, W, prediction, rescale_factor
from fewstep_kernels.fused.launch import Launch, check_floats, check_integers, check_state, reduction_block, walk
from fewstep_kernels.fused.posterior import CLIP_RATIO, K, estimate, lerp


@triton.jit
def _magnitude_bits(operands, start, GUIDED: tl.constexpr, BLOCK: tl.constexpr):  # [BLOCK] uint32
    """The bits of |x_0|, ordered as the numbers are, NaN behind infinity; all ones past the sample's end."""
    x_ptr, model_output_ptr, gradient_ptr, row_ptr, sample, cond_lane, uncond_lane, factor, n, size, strides = operands
    element = start + tl.arange(0, BLOCK)
    inside = element < n
    x = tl.load(x_ptr + sample * n + element, mask=inside, other=0.0)
    m = prediction(
        model_output_ptr, gradient_ptr, row_ptr, sample, cond_lane, uncond_lane, factor,
        element, inside, size, strides[0], strides[1], GUIDED,
    )  # fmt: skip
    bits = tl.abs(estimate(x, m, row_ptr)).to(tl.uint32, bitcast=True)
    return tl.where(inside, bits, 0xFFFFFFFF)


@triton.jit
def _bits_of_rank(rank, operands, n, GUIDED: tl.constexpr, BLOCK: tl.constexpr):
    """The bits of the value that `rank` others precede, by quaternary search: two of the 32 bits a pass.

    Counting against three bounds costs six instructions an element beside the thirty that make it: more bits a pass
    would count longer than they save, fewer would make every element more often.
    """
    found = tl.full((), 0, tl.uint32)
    for digit in range(16):
        quarter = tl.full((), 1 << 30, tl.uint32) >> (2 * digit)
        first, second, third = found + quarter, found + 2 * quarter, found + 3 * quarter
        below_first, below_second = tl.zeros((BLOCK,), tl.int32), tl.zeros((BLOCK,), tl.int32)
        below_third = tl.zeros((BLOCK,), tl.int32)
        for start in range(0, n, BLOCK):
            bits = _magnitude_bits(operands, start, GUIDED, BLOCK)
            below_first += (bits < first).to(tl.int32)
            below_second += (bits < second).to(tl.int32)
            below_third += (bits < third).to(tl.int32)
        found += quarter * (tl.sum(below_first) <= rank).to(tl.uint32)
        found += quarter * (tl.sum(below_second) <= rank).to(tl.uint32)
        found += quarter * (tl.sum(below_third) <= rank).to(tl.uint32)
    return found


@triton.jit
def _bits_after(found, rank, operands, n, GUIDED: tl.constexpr, BLOCK: tl.constexpr):
    """The bits one rank further: the same where the value occurs again, else the smallest that are larger."""
    not_above = tl.zeros((BLOCK,), tl.int32)
    larger = tl.full((BLOCK,), 0xFFFFFFFF, tl.uint32)
    for start in range(0, n, BLOCK):
        bits = _magnitude_bits(operands, start, GUIDED, BLOCK)
        not_above += (bits <= found).to(tl.int32)
        larger = tl.minimum(larger, tl.where(bits > found, bits, 0xFFFFFFFF))
    return tl.where(tl.sum(not_above) > rank + 1, found, tl.min(larger))


@triton.jit
def _step_statistics_kernel(
    statistics_ptr,
    x_ptr,
    model_output_ptr,
    gradient_ptr,
    row_ptr,
    cond_lane_ptr,
    uncond_lane_ptr,
    n,
    size,
    model_output_stride,
    gradient_stride,
    GUIDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    row_ptr += sample * K
    statistics_ptr += sample * 2
    cond_lane, uncond_lane = tl.load(cond_lane_ptr + sample), tl.load(uncond_lane_ptr + sample)
    w = tl.load(row_ptr + W) if GUIDED else tl.full((), 1.0, tl.float32)  # one lane is one half
    factor = rescale_factor(
        model_output_ptr, model_output_ptr, cond_lane, uncond_lane, model_output_stride, model_output_stride,
        size, n, w, tl.load(row_ptr + PHI), BLOCK,
    )  # fmt: skip
    tl.store(statistics_ptr, factor)

    ratio = tl.load(row_ptr + CLIP_RATIO)
    quantile = tl.full((), 0.0, tl.float32)
    if ratio != 0.0:
        strides = (model_output_stride, gradient_stride)
        operands = (
            x_ptr, model_output_ptr, gradient_ptr, row_ptr, sample, cond_lane, uncond_lane, factor, n, size, strides,
        )  # fmt: skip
        place = ratio * (n - 1)
        below = tl.floor(place)
        rank = below.to(tl.int32)
        found = _bits_of_rank(rank, operands, n, GUIDED, BLOCK)
        low = found.to(tl.float32, bitcast=True)
        after = low
        if place > below:
            after = _bits_after(found, rank, operands, n, GUIDED, BLOCK).to(tl.float32, bitcast=True)
        quantile = lerp(low, after, place - below)
    tl.store(statistics_ptr + 1, quantile)


def step_statistics_launch(
    statistics: Tensor,
    x: Tensor,
    model_output: Tensor,
    row: Tensor,
    cond_lane: Tensor,
    uncond_lane: Tensor,
    gradient: Tensor | None,
    block: int | None = None,
) -> Launch:
    """The launch that writes statistics [B, 2]; `block` as of `reduction_block`."""
    check_state(statistics=statistics, x=x, row=row)
    check_integers(cond_lane=cond_lane, uncond_lane=uncond_lane)
    check_floats(model_output=model_output, gradient=gradient)
    n = math.prod(x.shape[1:])
    m = model_output[:, : x.shape[1]]
    size, (m_stride, gradient_stride) = walk(m, x if gradient is None else gradient)
    block, num_warps, registers = reduction_block(n, block)
    arguments = {
        "statistics_ptr": statistics,
        "x_ptr": x,
        "model_output_ptr": model_output,
        "gradient_ptr": gradient,
        "row_ptr": row,
        "cond_lane_ptr": cond_lane,
        "uncond_lane_ptr": uncond_lane,
        "n": n,
        "size": size,
        "model_output_stride": m_stride,
        "gradient_stride": gradient_stride,
    }
    constants = {"GUIDED": len(model_output) > len(x), "BLOCK": block}
    return Launch(_step_statistics_kernel, (len(x),), arguments, constants, num_warps, registers=registers)


def step_statistics(
    statistics: Tensor,  # [B, 2], written: the rescale factor of m, the quantile of |x_0|
    x: Tensor,  # [B, C, H, W]
    model_output: Tensor,  # [R, C or 2C, H, W]
    row: Tensor,  # [B, K]
    cond_lane: Tensor,  # [B] int64
    uncond_lane: Tensor,  # [B] int64
    gradient: Tensor | None = None,  # [B, C, H, W]
) -> None:
    """The two numbers a sample's update needs from the whole of it; a quantile nobody asked for is 0."""
    step_statistics_launch(statistics, x, model_output, row, cond_lane, uncond_lane, gradient).run()
