"""All that happens between two U-Net calls: `begin_step` gathers, `denoise_step` is one pass over the state."""

import math

import triton
import triton.language as tl
from torch import Tensor

from fewstep_kernels.fused.guidance import prediction
from fewstep_kernels.fused.launch import (
    Launch,
    block_of,
    check_floats,
    check_integers,
    check_state,
    grid_of,
    needed,
    offsets,
    term,
    walk,
)
from fewstep_kernels.fused.noising import noised, step_noise
from fewstep_kernels.fused.philox import STREAM_INITIAL, STREAM_KNOWN, normals
from fewstep_kernels.fused.posterior import K, S, clipped, estimate, learned_std, lerp, posterior_mean
from fewstep_kernels.operands import TENSORS, StepOperands
from fewstep_kernels.row import COLUMN, COLUMNS, MAX_HISTORY

T, R, C_IN_NEXT, C_1 = (tl.constexpr(COLUMN[name]) for name in ("t", "r", "c_in_next", "c_1"))
H_X, H_0, H_M = (tl.constexpr(COLUMN[name]) for name in ("h_x", "h_0", "h_m"))
KNOWN_SIGNAL, KNOWN_NOISE, KNOWN_FRESH = (
    tl.constexpr(COLUMN[name]) for name in ("known_signal", "known_noise", "known_fresh")
)


@triton.jit
def _begin_step_kernel(
    table_ptr,
    index_ptr,
    row_ptr,
    step_ptr,
    t_ptr,
    cond_lane_ptr,
    uncond_lane_ptr,
    r_ptr,
    B,
    last,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    column = tl.arange(0, BLOCK_K)[None, :]
    for start in range(0, B, BLOCK_B):
        slot = start + tl.arange(0, BLOCK_B).to(tl.int64)
        live = slot < B
        step = tl.minimum(tl.load(index_ptr + slot, mask=live, other=0), last)
        gathered = table_ptr + (slot * (last + 1) + step) * K
        inside = live[:, None] & (column < K)
        row = tl.load(gathered[:, None] + column, mask=inside)
        t = tl.load(gathered + T, mask=live)
        tl.debug_barrier()  # several threads read one slot's index: all have, before one of them advances it
        tl.store(row_ptr + slot[:, None] * K + column, row, mask=inside)
        tl.store(step_ptr + slot, step, mask=live)
        tl.store(index_ptr + slot, tl.minimum(step + 1, last), mask=live)
        cond_lane = tl.load(cond_lane_ptr + slot, mask=live, other=0)
        uncond_lane = tl.load(uncond_lane_ptr + slot, mask=live, other=0)
        tl.store(t_ptr + uncond_lane, t, mask=live)
        tl.store(t_ptr + cond_lane, t, mask=live)
        if r_ptr is not None:
            r = tl.load(gathered + R, mask=live)
            tl.store(r_ptr + uncond_lane, r, mask=live)
            tl.store(r_ptr + cond_lane, r, mask=live)


@triton.jit
def _known_noise(noise_ptr, seed, step, fresh, first, here, inside, BLOCK: tl.constexpr):
    """The z' of a known region: fresh, or the initial noise once more."""
    if noise_ptr is not None:
        if fresh != 0.0:
            z = normals(seed, step, STREAM_KNOWN, first, BLOCK)
        else:
            z = tl.load(noise_ptr + here, mask=inside, other=0.0)
    else:
        stream = tl.where(fresh != 0.0, STREAM_KNOWN, STREAM_INITIAL)
        z = normals(seed, tl.where(fresh != 0.0, step, 0), stream, first, BLOCK)
    return z


@triton.jit
def _denoise_step_kernel(
    x_ptr,
    x_in_ptr,
    history_ptr,
    preview_ptr,
    model_output_ptr,
    row_ptr,
    step_ptr,
    seed_ptr,
    cond_lane_ptr,
    uncond_lane_ptr,
    statistics_ptr,
    noise_ptr,
    gradient_ptr,
    known_ptr,
    mask_ptr,
    n,  # elements of a sample
    batch,  # elements of all samples
    last_noise,
    variance_at,  # where, after a row's first element, its learned variance begins
    size,
    model_output_stride,
    x_in_stride,
    gradient_stride,
    mask_stride,
    DEPTH: tl.constexpr,  # of the ring that the history is
    PAST: tl.constexpr,  # how much of it a row may read
    GUIDED: tl.constexpr,  # samples may own two lanes
    LEARNED: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * BLOCK
    element = first + tl.arange(0, BLOCK)
    inside = element < n
    here = sample * n + element  # the place in every tensor of the state
    row_ptr += sample * K
    step, seed = tl.load(step_ptr + sample), tl.load(seed_ptr + sample)
    cond_lane, uncond_lane = tl.load(cond_lane_ptr + sample), tl.load(uncond_lane_ptr + sample)

    factor = 1.0
    if statistics_ptr is not None:
        statistics_ptr += sample * 2
        factor = tl.load(statistics_ptr)
    m = prediction(
        model_output_ptr, gradient_ptr, row_ptr, sample, cond_lane, uncond_lane, factor,
        element, inside, size, model_output_stride, gradient_stride, GUIDED,
    )  # fmt: skip
    x = tl.load(x_ptr + here, mask=inside, other=0.0)
    x_0 = clipped(estimate(x, m, row_ptr), row_ptr, statistics_ptr)
    if DEPTH > 0:
        kept = term(tl.load(row_ptr + H_X), x) + term(tl.load(row_ptr + H_0), x_0) + term(tl.load(row_ptr + H_M), m)
    x = posterior_mean(x, x_0, m, row_ptr)
    if STOCHASTIC:
        std = tl.load(row_ptr + S)
        if std != 0.0:
            z = step_noise(noise_ptr, seed, step, first, here, inside, batch, last_noise, BLOCK)
            if LEARNED:
                v_ptr = model_output_ptr + variance_at + offsets(cond_lane, element, size, model_output_stride)
                v = tl.load(v_ptr, mask=inside, other=0.0).to(tl.float32)
                x += std * learned_std(v, row_ptr) * z
            else:
                x += std * z
    for j in tl.static_range(1, PAST + 1):
        c = tl.load(row_ptr + C_1 + (j - 1))
        past = history_ptr + (step + DEPTH - j) % DEPTH * batch + here
        x += c * tl.load(past, mask=needed(inside, c), other=0.0)
    if DEPTH > 0:
        tl.store(history_ptr + step % DEPTH * batch + here, kept, mask=inside)
    if known_ptr is not None:
        signal, scale = tl.load(row_ptr + KNOWN_SIGNAL), tl.load(row_ptr + KNOWN_NOISE)
        if signal != 0.0:
            fresh = tl.load(row_ptr + KNOWN_FRESH) if STOCHASTIC else 0.0
            z = _known_noise(noise_ptr, seed, step, fresh, first, here, inside, BLOCK)
            target = noised(tl.load(known_ptr + here, mask=inside, other=0.0), z, signal, scale)
            mask = tl.load(mask_ptr + offsets(sample, element, size, mask_stride), mask=inside, other=0.0)
            mask = mask.to(tl.float32)
            x = tl.where(mask == 1.0, x, tl.where(mask == 0.0, target, lerp(target, x, mask)))
    tl.store(x_ptr + here, x, mask=inside)
    if preview_ptr is not None:
        tl.store(preview_ptr + here, x_0, mask=inside)
    x = term(tl.load(row_ptr + C_IN_NEXT), x)
    tl.store(x_in_ptr + offsets(cond_lane, element, size, x_in_stride), x, mask=inside)
    if GUIDED:
        other = inside & (uncond_lane != cond_lane)
        tl.store(x_in_ptr + offsets(uncond_lane, element, size, x_in_stride), x, mask=other)


def begin_step_launch(
    table: Tensor,
    index: Tensor,
    row: Tensor,
    step: Tensor,
    t: Tensor,
    cond_lane: Tensor,
    uncond_lane: Tensor,
    r: Tensor | None = None,
) -> Launch:
    """The launch that gathers; one program, because it reads the index it advances."""
    check_state(table=table, row=row, t=t, r=r)
    check_integers(index=index, step=step, cond_lane=cond_lane, uncond_lane=uncond_lane)
    slots = len(index)
    arguments = {
        "table_ptr": table,
        "index_ptr": index,
        "row_ptr": row,
        "step_ptr": step,
        "t_ptr": t,
        "cond_lane_ptr": cond_lane,
        "uncond_lane_ptr": uncond_lane,
        "r_ptr": r,
        "B": slots,
        "last": table.shape[1] - 1,
    }
    constants = {
        "BLOCK_B": min(triton.next_power_of_2(slots), 64),
        "BLOCK_K": triton.next_power_of_2(len(COLUMNS)),
    }
    return Launch(_begin_step_kernel, (1,), arguments, constants)


def denoise_step_launch(operands: StepOperands, block: int | None = None) -> Launch:
    """The launch of `denoise_step`; `block` as of `block_of`."""
    inpaint = operands.known is not None and operands.mask is not None
    o = operands if inpaint else operands._replace(known=None, mask=None)
    x, m = o.x, o.model_output
    check_state(x=x, history=o.history, preview=o.preview, row=o.row, statistics=o.statistics, noise=o.noise)
    check_state(known=operands.known)
    check_integers(step=o.step, seed=o.seed, cond_lane=o.cond_lane, uncond_lane=o.uncond_lane)
    check_floats(x_in=o.x_in, model_output=m, gradient=o.gradient, mask=operands.mask)
    channels, n = x.shape[1], math.prod(x.shape[1:])
    block = block_of(x, o.x_in, m, block=block)
    gradient = x if o.gradient is None else o.gradient
    mask = x if o.mask is None else o.mask.expand_as(x)
    size, strides = walk(m[:, :channels], o.x_in[:, :channels], gradient, mask)
    depth = 0 if o.history is None else len(o.history)
    arguments = {
        **{f"{name}_ptr": getattr(o, name) for name in TENSORS},
        "n": n,
        "batch": x.numel(),
        "last_noise": 0 if o.noise is None else len(o.noise) - 1,
        "variance_at": channels * m.stride(1),
        "size": size,
        "model_output_stride": strides[0],
        "x_in_stride": strides[1],
        "gradient_stride": strides[2],
        "mask_stride": strides[3],
    }
    constants = {
        "DEPTH": depth,
        "PAST": min(depth, MAX_HISTORY),
        "GUIDED": len(m) > len(x),
        "LEARNED": o.learned_variance,
        "STOCHASTIC": o.stochastic,
        "BLOCK": block,
    }
    return Launch(_denoise_step_kernel, grid_of(block, x=x), arguments, constants)


def begin_step(
    table: Tensor,  # [B, N + 1, K] the plan of each slot; row N is idle
    index: Tensor,  # [B] int64, advanced in place up to N
    row: Tensor,  # [B, K] written
    step: Tensor,  # [B] int64, written: the index of the row gathered
    t: Tensor,  # [R] float32, written: the time of every lane
    cond_lane: Tensor,  # [B] int64
    uncond_lane: Tensor,  # [B] int64; equal to cond_lane where a sample owns one lane
    r: Tensor | None = None,  # [R] float32, written: the second time of every lane
) -> None:
    """Gather each slot's row and times, and advance its index. A slot past its end gathers the idle row, x' = x."""
    begin_step_launch(table, index, row, step, t, cond_lane, uncond_lane, r).run()


def denoise_step(operands: StepOperands) -> None:
    """Guide, estimate, clip, update, history, re-noise and the next model input of every lane: one pass.

    The formulas are those of `fewstep_kernels.row`. A zero coefficient masks what it multiplies, so what a slot's last
    sample left behind cannot reach the next one. Slots that idle may write one lane between them.
    """
    denoise_step_launch(operands).run()
