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
    walk,
)
from fewstep_kernels.fused.noising import noised
from fewstep_kernels.fused.philox import STREAM_INITIAL, STREAM_KNOWN, STREAM_STEP, normals
from fewstep_kernels.fused.posterior import K, S, clipped, estimate, learned_std, lerp, posterior_mean
from fewstep_kernels.row import COLUMN, COLUMNS, MAX_HISTORY

T, C_IN_NEXT, C_1 = (tl.constexpr(COLUMN[name]) for name in ("t", "c_in_next", "c_1"))
HISTORY_M = tl.constexpr(COLUMN["history_m"])
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
    cond_row_ptr,
    uncond_row_ptr,
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
        tl.store(t_ptr + tl.load(uncond_row_ptr + slot, mask=live, other=0), t, mask=live)
        tl.store(t_ptr + tl.load(cond_row_ptr + slot, mask=live, other=0), t, mask=live)


@triton.jit
def _step_noise(noise_ptr, seed, step, first, here, inside, batch, last, BLOCK: tl.constexpr):
    """The z of a row: from a given noise, where the initial one comes first, or by Philox."""
    if noise_ptr is not None:
        z = tl.load(noise_ptr + tl.minimum(step + 1, last) * batch + here, mask=inside, other=0.0)
    else:
        z = normals(seed, step, STREAM_STEP, first, BLOCK)
    return z


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
    cond_row_ptr,
    uncond_row_ptr,
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
    GUIDED: tl.constexpr,  # samples may own two U-Net rows
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
    cond_row, uncond_row = tl.load(cond_row_ptr + sample), tl.load(uncond_row_ptr + sample)

    factor = 1.0
    if statistics_ptr is not None:
        statistics_ptr += sample * 2
        factor = tl.load(statistics_ptr)
    m = prediction(
        model_output_ptr, gradient_ptr, row_ptr, sample, cond_row, uncond_row, factor,
        element, inside, size, model_output_stride, gradient_stride, GUIDED,
    )  # fmt: skip
    x = tl.load(x_ptr + here, mask=inside, other=0.0)
    x_0 = clipped(estimate(x, m, row_ptr), row_ptr, statistics_ptr)
    x = posterior_mean(x, x_0, m, row_ptr)
    if STOCHASTIC:
        std = tl.load(row_ptr + S)
        if std != 0.0:
            z = _step_noise(noise_ptr, seed, step, first, here, inside, batch, last_noise, BLOCK)
            if LEARNED:
                v_ptr = model_output_ptr + variance_at + offsets(cond_row, element, size, model_output_stride)
                v = tl.load(v_ptr, mask=inside, other=0.0).to(tl.float32)
                x += std * learned_std(v, row_ptr) * z
            else:
                x += std * z
    for j in tl.static_range(1, PAST + 1):
        c = tl.load(row_ptr + C_1 + (j - 1))
        past = history_ptr + (step + DEPTH - j) % DEPTH * batch + here
        x += c * tl.load(past, mask=needed(inside, c), other=0.0)
    if DEPTH > 0:
        kept = tl.where(tl.load(row_ptr + HISTORY_M) == 0.0, x_0, m)
        tl.store(history_ptr + step % DEPTH * batch + here, kept, mask=inside)
    if known_ptr is not None:
        signal, scale = tl.load(row_ptr + KNOWN_SIGNAL), tl.load(row_ptr + KNOWN_NOISE)
        if signal != 0.0:
            fresh = tl.load(row_ptr + KNOWN_FRESH) if STOCHASTIC else 0.0
            z = _known_noise(noise_ptr, seed, step, fresh, first, here, inside, BLOCK)
            target = noised(tl.load(known_ptr + here, mask=inside, other=0.0), z, signal, scale)
            mask = tl.load(mask_ptr + offsets(sample, element, size, mask_stride), mask=inside, other=0.0)
            x = lerp(target, x, mask.to(tl.float32))
    tl.store(x_ptr + here, x, mask=inside)
    if preview_ptr is not None:
        tl.store(preview_ptr + here, x_0, mask=inside)
    x *= tl.load(row_ptr + C_IN_NEXT)
    tl.store(x_in_ptr + offsets(cond_row, element, size, x_in_stride), x, mask=inside)
    if GUIDED:
        other = inside & (uncond_row != cond_row)
        tl.store(x_in_ptr + offsets(uncond_row, element, size, x_in_stride), x, mask=other)


def begin_step_launch(
    table: Tensor, index: Tensor, row: Tensor, step: Tensor, t: Tensor, cond_row: Tensor, uncond_row: Tensor
) -> Launch:
    """The launch that gathers; one program, because it reads the index it advances."""
    check_state(table=table, row=row, t=t)
    check_integers(index=index, step=step, cond_row=cond_row, uncond_row=uncond_row)
    slots = len(index)
    arguments = {
        "table_ptr": table,
        "index_ptr": index,
        "row_ptr": row,
        "step_ptr": step,
        "t_ptr": t,
        "cond_row_ptr": cond_row,
        "uncond_row_ptr": uncond_row,
        "B": slots,
        "last": table.shape[1] - 1,
    }
    constants = {
        "BLOCK_B": min(triton.next_power_of_2(slots), 64),
        "BLOCK_K": triton.next_power_of_2(len(COLUMNS)),
    }
    return Launch(_begin_step_kernel, (1,), arguments, constants)


def denoise_step_launch(
    x: Tensor,
    x_in: Tensor,
    history: Tensor | None,
    preview: Tensor | None,
    model_output: Tensor,
    row: Tensor,
    step: Tensor,
    seed: Tensor,
    cond_row: Tensor,
    uncond_row: Tensor,
    statistics: Tensor | None = None,
    noise: Tensor | None = None,
    gradient: Tensor | None = None,
    known: Tensor | None = None,
    mask: Tensor | None = None,
    learned_variance: bool = False,
    stochastic: bool = True,
) -> Launch:
    """The launch of `denoise_step`."""
    check_state(x=x, history=history, preview=preview, row=row, statistics=statistics, noise=noise, known=known)
    check_integers(step=step, seed=seed, cond_row=cond_row, uncond_row=uncond_row)
    check_floats(x_in=x_in, model_output=model_output, gradient=gradient, mask=mask)
    channels, n = x.shape[1], math.prod(x.shape[1:])
    block = block_of(x, x_in, model_output)
    m = model_output[:, :channels]
    region = x if mask is None else mask.expand_as(x)
    inpaint = known is not None and mask is not None
    size, strides = walk(m, x_in[:, :channels], x if gradient is None else gradient, region)
    arguments = {
        "x_ptr": x,
        "x_in_ptr": x_in,
        "history_ptr": history,
        "preview_ptr": preview,
        "model_output_ptr": model_output,
        "row_ptr": row,
        "step_ptr": step,
        "seed_ptr": seed,
        "cond_row_ptr": cond_row,
        "uncond_row_ptr": uncond_row,
        "statistics_ptr": statistics,
        "noise_ptr": noise,
        "gradient_ptr": gradient,
        "known_ptr": known if inpaint else None,
        "mask_ptr": mask if inpaint else None,
        "n": n,
        "batch": x.numel(),
        "last_noise": 0 if noise is None else len(noise) - 1,
        "variance_at": channels * model_output.stride(1),
        "size": size,
        "model_output_stride": strides[0],
        "x_in_stride": strides[1],
        "gradient_stride": strides[2],
        "mask_stride": strides[3],
    }
    depth = 0 if history is None else len(history)
    constants = {
        "DEPTH": depth,
        "PAST": min(depth, MAX_HISTORY),
        "GUIDED": len(model_output) > len(x),
        "LEARNED": learned_variance,
        "STOCHASTIC": stochastic,
        "BLOCK": block,
    }
    return Launch(_denoise_step_kernel, grid_of(block, x=x), arguments, constants)


def begin_step(
    table: Tensor,  # [B, N + 1, K] the plan of each slot; row N is idle
    index: Tensor,  # [B] int64, advanced in place up to N
    row: Tensor,  # [B, K] written
    step: Tensor,  # [B] int64, written: the index of the row gathered
    t: Tensor,  # [R] float32, written: the time of every U-Net row
    cond_row: Tensor,  # [B] int64
    uncond_row: Tensor,  # [B] int64; equal to cond_row where a sample owns one U-Net row
) -> None:
    """Gather each slot's row and time, and advance its index. A slot past its end gathers the idle row, x' = x."""
    begin_step_launch(table, index, row, step, t, cond_row, uncond_row).run()


def denoise_step(
    x: Tensor,  # [B, C, H, W] the state, updated in place
    x_in: Tensor,  # [R, C or more, H, W] the next model input; its first C channels are written
    history: Tensor | None,  # [D, B, C, H, W] a ring over steps, updated in place
    preview: Tensor | None,  # [B, C, H, W] written with x_0
    model_output: Tensor,  # [R, C or 2C, H, W]
    row: Tensor,  # [B, K] from `begin_step`
    step: Tensor,  # [B] int64 from `begin_step`
    seed: Tensor,  # [B] int64
    cond_row: Tensor,  # [B] int64
    uncond_row: Tensor,  # [B] int64
    statistics: Tensor | None = None,  # [B, 2] from `step_statistics`, where a row rescales or thresholds
    noise: Tensor | None = None,  # [N + 1, B, C, H, W] given instead of Philox: initial, then row by row
    gradient: Tensor | None = None,  # [B, C, H, W] added to m with weight g
    known: Tensor | None = None,  # [B, C, H, W] the known image
    mask: Tensor | None = None,  # [B, 1 or C, H, W] 1 where the sample is generated, 0 where it is known
    learned_variance: bool = False,
    stochastic: bool = True,  # False promises that every s is 0 and no known region is drawn afresh
) -> None:
    """Guide, estimate, clip, update, history, re-noise and the next model input of every U-Net row: one pass.

    The formulas are those of `fewstep_kernels.row`. A zero coefficient masks what it multiplies, so what a slot's last
    sample left behind cannot reach the next one. Slots that idle may write one U-Net row between them.
    """
    denoise_step_launch(
        x, x_in, history, preview, model_output, row, step, seed, cond_row, uncond_row,
        statistics, noise, gradient, known, mask, learned_variance, stochastic,
    ).run()  # fmt: skip
