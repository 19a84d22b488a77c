"""The twins: every op in plain torch, same name and signature as its kernel. The definition, and the CPU path.

Those of a step are here, and those of a network's layers come from `reference_layers`.

Shapes: B samples of C, H, W; R lanes (R >= B: a guided sample owns two); K = len(COLUMNS); D history depth.
Everything is computed in the dtype of `row`, or in float32 (float64 for float64 inputs); only results are rounded. A
log-probability is a sum whose terms cancel, and is taken in float64.
In every formula a zero coefficient masks its operand: the term is 0, whatever the operand holds (see `terms.py`).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fewstep_kernels.operands import StepOperands
from fewstep_kernels.philox import STREAM_INITIAL, STREAM_KNOWN, STREAM_STEP, normals_from_words, philox4x32
from fewstep_kernels.reference_layers import (
    add_layer_norm,
    attention,
    attention_laid_out,
    bias_residual,
    compute_dtype,
    geglu,
    group_norm_silu,
    layer_norm,
    timestep_embedding,
)
from fewstep_kernels.row import COLUMN, MAX_HISTORY
from fewstep_kernels.terms import Columns, masked

__all__ = [
    "add_layer_norm",
    "add_noise",
    "attention",
    "attention_laid_out",
    "begin_step",
    "bias_residual",
    "cfg_combine",
    "denoise_step",
    "geglu",
    "group_norm_silu",
    "layer_norm",
    "normal",
    "posterior_update",
    "step_log_prob",
    "step_statistics",
    "timestep_embedding",
]


def normal(
    seed: Tensor,  # [B] int64
    step: Tensor,  # [B] int64
    stream: int,
    shape: Sequence[int],  # of one sample: (C, H, W)
) -> Tensor:  # [B, *shape] float32
    """Standard normals that are a function of (seed, step, stream, element): see `fewstep_kernels.philox`."""
    size = 1
    for extent in shape:
        size *= extent
    batch, blocks = seed.shape[0], (size + 3) // 4
    key = torch.stack((seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF))[:, :, None]
    counter = torch.empty(4, batch, blocks, dtype=torch.int64, device=seed.device)
    counter[0] = torch.arange(blocks, device=seed.device)
    counter[1] = (step & 0xFFFFFFFF)[:, None]
    counter[2], counter[3] = stream, 0
    z = normals_from_words(philox4x32(counter, key)).reshape(batch, blocks * 4)
    return z[:, :size].contiguous().view(batch, *shape)


def add_noise(
    x_0: Tensor,  # [B, C, H, W]
    signal_scale: Tensor,  # [B]
    noise_scale: Tensor,  # [B]
    noise: Tensor,  # [B, C, H, W]
) -> Tensor:  # [B, C, H, W] in x_0's dtype
    """x_t = signal_scale x_0 + noise_scale z: q(x_t | x_0) in closed form (Ho et al. 2020, eq. 4)."""
    wide = compute_dtype(x_0)
    signal, scale = _spread(signal_scale, wide), _spread(noise_scale, wide)
    x_t = signal * masked(signal, x_0.to(wide)) + scale * masked(scale, noise.to(wide))
    return x_t.to(x_0.dtype)


def cfg_combine(
    cond: Tensor,  # [B, C, H, W]
    uncond: Tensor,  # [B, C, H, W]
    w: Tensor,  # [B] guidance scale
    phi: Tensor,  # [B] guidance rescale
) -> Tensor:  # [B, C, H, W] in cond's dtype
    """m = uncond + w (cond - uncond), Ho and Salimans 2022; then m (phi std(cond) / std(m) + 1 - phi), Lin et al. 2023.

    w = 1 selects cond and w = 0 selects uncond: they do not combine and are not rescaled, so the other half may hold
    anything. The factor is 1 where the quotient is no finite number: where m is constant, so that there is nothing to
    rescale, or where float32 cannot hold the squares. diffusers' rescale_noise_cfg gives NaN there.
    """
    wide = compute_dtype(cond)
    cond_wide, w, phi = cond.to(wide), w.to(wide), phi.to(wide)
    m = _guided(cond_wide, uncond.to(wide), _spread(w, wide))
    factor = _rescale_factor(_std(cond_wide), _std(m), w, phi)
    return (m * _spread(factor, wide)).to(cond.dtype)


def posterior_update(
    x: Tensor,  # [B, C, H, W]
    x_0: Tensor,  # [B, C, H, W]
    m: Tensor,  # [B, C, H, W]
    row: Tensor,  # [B, K]
    z: Tensor | None = None,  # [B, C, H, W] standard normals
    v: Tensor | None = None,  # [B, C, H, W] learned variance in [-1, 1]
) -> Tensor:  # [B, C, H, W] in x's dtype
    """x' = a x + b x_0 + e m + s sigma z, with sigma = 1, or learned between two bounds.

    log sigma^2 = (1 + v)/2 log_var_max + (1 - v)/2 log_var_min (Nichol and Dhariwal 2021, eq. 15).
    """
    return _posterior(x, x_0, m, Columns.of(row), z, v)


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
    last = table.shape[1] - 1
    torch.clamp(index, max=last, out=step)
    torch.gather(table, 1, step.view(-1, 1, 1).expand(-1, 1, table.shape[2]), out=row.unsqueeze(1))
    for name, told in (("t", t), ("r", r)):
        if told is None:
            continue
        now = row[:, COLUMN[name]].to(told.dtype)
        if told.shape[0] > row.shape[0]:
            told.index_copy_(0, uncond_lane, now)
        told.index_copy_(0, cond_lane, now)
    torch.add(step, 1, out=index).clamp_(max=last)


def step_statistics(
    statistics: Tensor,  # [B, 2], written: the rescale factor of m; the quantile of |x_0|, 0 for a ratio of 0
    x: Tensor,  # [B, C, H, W]
    model_output: Tensor,  # [R, C or 2C, H, W]
    row: Tensor,  # [B, K]
    cond_lane: Tensor,  # [B] int64
    uncond_lane: Tensor,  # [B] int64
    gradient: Tensor | None = None,  # [B, C, H, W]
) -> None:
    """The two numbers a sample's update needs from the whole of it: for guidance rescale and dynamic thresholding."""
    channels, wide, columns = x.shape[1], row.dtype, Columns.of(row)
    cond = _rows(model_output, cond_lane, channels).to(wide)
    guided = _prediction(model_output, columns, cond_lane, uncond_lane, None, None, channels)
    w = row[:, COLUMN["w"]] if len(model_output) > len(row) else torch.ones_like(row[:, 0])  # one lane is one half
    statistics[:, 0] = _rescale_factor(_std(cond), _std(guided), w, row[:, COLUMN["phi"]])
    m = _prediction(model_output, columns, cond_lane, uncond_lane, statistics, gradient, channels)
    x_0 = (columns.times("k_x", x.to(wide)) + columns.times("k_m", m)).abs().flatten(1)
    ratio = row[:, COLUMN["clip_ratio"]]
    statistics[:, 1] = torch.where(ratio == 0, 0.0, _quantile(x_0, ratio))


def step_log_prob(
    log_prob: Tensor,  # [B, N + 1], written at each sample's own row
    model_output: Tensor,  # [R, C or 2C, H, W]
    row: Tensor,  # [B, K]
    step: Tensor,  # [B] int64
    seed: Tensor,  # [B] int64
    cond_lane: Tensor,  # [B] int64
    channels: int,  # C
    noise: Tensor | None = None,  # [N + 1, B, C, H, W] given instead of Philox: initial, then row by row
    mask: Tensor | None = None,  # [B, 1 or C, H, W] 1 where the sample is generated, 0 where it is known
    learned_variance: bool = False,
) -> None:
    """log p(x' | x) of each sample's step, in nats; NaN where it adds no noise.

    x' = mean + std z, so log p is the sum over elements of -z^2 / 2 - log std - log(2 pi) / 2. Of a sample that is
    re-noised where it is known, the elements count whose mask is 1, and those that are partly known do not.
    """
    columns, shape = Columns.of(row.double()), (channels, *model_output.shape[2:])
    z = _step_noise(shape, seed, step, noise).double()
    log_std = torch.log(columns["s"])
    if learned_variance:
        log_std = log_std + _learned_log_std(model_output.index_select(0, cond_lane)[:, channels:].double(), columns)
    each = -z.square() / 2 - log_std - math.log(2 * math.pi) / 2
    if mask is not None:
        each = torch.where((mask == 1) | (columns["known_signal"] == 0), each, 0.0)
    total = torch.where(row[:, COLUMN["s"]] == 0, torch.nan, each.sum((1, 2, 3)))
    log_prob.scatter_(1, step[:, None], total[:, None].to(log_prob.dtype))


def denoise_step(operands: StepOperands, columns: Columns | None = None) -> None:
    """All that happens between two U-Net calls, for a batch whose samples may be at different rows of different plans.

    guide, estimate, clip, update, remember, re-noise, and the next model input for every lane a sample owns: the
    formulas are those of `fewstep_kernels.row`. A zero coefficient masks its operand, so what a slot's last sample left
    behind cannot reach the next one. `columns`: of the rows, from a caller that has read them; the bits are the same.
    """
    o, channels = operands, operands.x.shape[1]
    columns = Columns.of(o.row) if columns is None else columns
    m = _prediction(o.model_output, columns, o.cond_lane, o.uncond_lane, o.statistics, o.gradient, channels)
    x_0 = _clip(columns.add_(columns.times("k_x", o.x), "k_m", m), columns, o.statistics)
    v = o.model_output.index_select(0, o.cond_lane)[:, channels:] if o.learned_variance else None
    z = _step_noise(o.x.shape[1:], o.seed, o.step, o.noise) if o.stochastic else None
    updated = _posterior(o.x, x_0, m, columns, z, v)
    if o.history is not None:
        updated = updated + _past(o.history, columns, o.step)
        kept = columns.add_(columns.add_(columns.times("h_x", o.x), "h_0", x_0), "h_m", m)
        _remember(o.history, kept, o.step)
    if o.known is not None and o.mask is not None:
        updated = _renoise(updated, o.known, o.mask, columns, o.step, o.seed, o.noise, o.stochastic)
    o.x.copy_(updated)
    if o.preview is not None:
        o.preview.copy_(x_0)
    scaled = columns.times("c_in_next", updated).to(o.x_in.dtype)
    written = o.x_in if o.x_in.shape[1] == channels else o.x_in[:, :channels]
    written.index_copy_(0, o.cond_lane, scaled)
    if o.x_in.shape[0] > o.x.shape[0]:
        written.index_copy_(0, o.uncond_lane, scaled)


def _spread(per_sample: Tensor, dtype: torch.dtype) -> Tensor:
    return per_sample.to(dtype)[:, None, None, None]


def _rows(model_output: Tensor, which: Tensor, channels: int) -> Tensor:
    """Some lanes, [B, channels, H, W]. Unlike indexing, index_select wakes no thread for so small a tensor."""
    picked = model_output.index_select(0, which)
    return picked if picked.shape[1] == channels else picked[:, :channels]


def _posterior(x: Tensor, x_0: Tensor, m: Tensor, columns: Columns, z: Tensor | None, v: Tensor | None) -> Tensor:
    wide = columns["a"].dtype
    updated = columns.times("a", x.to(wide))
    columns.add_(columns.add_(updated, "b", x_0.to(wide)), "e", m.to(wide))
    if z is not None and v is None:
        columns.add_(updated, "s", z.to(wide))
    if z is not None and v is not None:
        std = columns.times("s", torch.exp(_learned_log_std(v.to(wide), columns)))
        updated.addcmul_(std, columns.masked("s", z.to(wide)))
    return updated.to(x.dtype)


def _learned_log_std(v: Tensor, columns: Columns) -> Tensor:
    low, high = columns["log_var_min"], columns["log_var_max"]
    share = torch.where(low == high, 0.0, (v + 1) / 2)  # not learned here: v weighs nothing
    return 0.5 * torch.lerp(low, high, share)


def _std(x: Tensor) -> Tensor:
    """[B] the standard deviation over a sample, unbiased; 0 to the bit where it is constant, or has one element."""
    low, high = x.flatten(1).aminmax(dim=1, keepdim=True)
    mean = torch.where(low == high, low, x.flatten(1).mean(1, keepdim=True))  # which rounding would move off it
    centred = x.flatten(1) - mean
    return (centred.square().sum(1) / max(centred.shape[1] - 1, 1)).sqrt()


def _quantile(magnitude: Tensor, ratio: Tensor) -> Tensor:
    """The `ratio` quantile of each row, linearly interpolated; magnitude [B, n], ratio [B] -> [B]."""
    ordered = magnitude.sort(1).values
    place = ratio * (magnitude.shape[1] - 1)
    below = place.floor()
    low = ordered.gather(1, below.long()[:, None])
    high = ordered.gather(1, place.ceil().long()[:, None])
    return torch.lerp(low, high, (place - below)[:, None])[:, 0]


def _guided(cond: Tensor, uncond: Tensor, w: Tensor) -> Tensor:
    combined = uncond + w * (cond - uncond)
    return torch.where(w == 1, cond, torch.where(w == 0, uncond, combined))


def _rescale_factor(std_cond: Tensor, std_guided: Tensor, w: Tensor, phi: Tensor) -> Tensor:
    """phi std(cond) / std(m) + 1 - phi; 1 for a half alone, and where the quotient is no finite number."""
    factor = phi * std_cond / std_guided + (1 - phi)
    return torch.where((phi == 0) | (w == 0) | (w == 1) | ~torch.isfinite(factor), 1.0, factor)


def _prediction(
    model_output: Tensor,
    columns: Columns,
    cond_lane: Tensor,
    uncond_lane: Tensor,
    statistics: Tensor | None,
    gradient: Tensor | None,
    channels: int,
) -> Tensor:
    wide, batch = columns["w"].dtype, cond_lane.shape[0]
    m = _rows(model_output, cond_lane, channels).to(wide)
    if model_output.shape[0] > batch:
        m = _guided(m, _rows(model_output, uncond_lane, channels).to(wide), columns["w"])
    if statistics is not None:
        m = m * _spread(statistics[:, 0], wide)
    if gradient is not None:
        m = m + columns.times("g", gradient.to(wide))
    return m


def _clip(x_0: Tensor, columns: Columns, statistics: Tensor | None) -> Tensor:
    limit = columns["clip"]
    if statistics is None:
        return torch.minimum(torch.maximum(x_0, -limit), limit)  # 3 us; clamp with two tensors is not vectorised: 13 us
    dynamic = columns["clip_ratio"] > 0
    threshold = torch.clamp(_spread(statistics[:, 1], limit.dtype), torch.ones_like(limit), limit.clamp(min=1))
    limit = torch.where(dynamic, threshold, limit)
    clipped = torch.clamp(x_0, -limit, limit)
    return torch.where(dynamic, clipped / threshold, clipped)


def _step_noise(shape: Sequence[int], seed: Tensor, step: Tensor, noise: Tensor | None) -> Tensor:
    if noise is None:
        return normal(seed, step, STREAM_STEP, shape)
    batch = step.shape[0]
    drawn = (step + 1).clamp_(max=noise.shape[0] - 1)
    return noise.flatten(0, 1).index_select(0, torch.add(torch.arange(batch, device=step.device), drawn, alpha=batch))


def _past(history: Tensor, columns: Columns, step: Tensor) -> Tensor:
    depth, batch = history.shape[:2]
    samples = torch.arange(batch, device=history.device)
    total = torch.zeros_like(history[0])
    for j in range(1, min(depth, MAX_HISTORY) + 1):
        total += columns.times(f"c_{j}", history[(step - j) % depth, samples])
    return total


def _remember(history: Tensor, kept: Tensor, step: Tensor) -> None:
    depth, batch = history.shape[:2]
    history[step % depth, torch.arange(batch, device=history.device)] = kept


def _renoise(
    x: Tensor,
    known: Tensor,
    mask: Tensor,
    columns: Columns,
    step: Tensor,
    seed: Tensor,
    noise: Tensor | None,
    stochastic: bool,
) -> Tensor:
    """mask x + (1 - mask) (known_signal known + known_noise z'); a row whose known_signal is 0 keeps x everywhere."""
    fresh, signal = columns["known_fresh"], columns["known_signal"]
    z = normal(seed, torch.zeros_like(step), STREAM_INITIAL, x.shape[1:]) if noise is None else noise[0]
    if stochastic:
        z = torch.where(fresh == 0, z, normal(seed, step, STREAM_KNOWN, x.shape[1:]).to(z.dtype))
    target = columns.times("known_signal", known.to(x.dtype)) + columns.times("known_noise", z.to(x.dtype))
    mask = mask.to(x.dtype)
    mixed = torch.where(mask == 0, target, torch.lerp(target, x, mask))
    return torch.where((signal == 0) | (mask == 1), x, mixed)
