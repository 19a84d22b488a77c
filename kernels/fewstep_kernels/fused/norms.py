# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
"""Group norm and what surrounds it, channels-last or NCHW: one launch for a small map, two for a larger one.

A program owns whole groups, at most 128 channels of them where groups are that narrow, and its tile is pixels by
channels. Where all pixels fit one tile, x is read once. Otherwise the pixels are cut into slabs: the first launch
writes mean and variance of every group of every slab into a workspace, one writer per slot; the second merges the
slots of its groups, every program the same way, and normalises its slab. No atomics, and no number depends on the
batch: a sample's result is the same bits alone and in any batch.

From sm_90 on the second launch may be dependent: its programs begin once all of the first have, read what no launch of
this call writes, and wait for the first before they read the workspace and before they store. The first is not
dependent, so it begins once all before it on the stream has finished: whatever the second reads early is complete, and
no later call writes a workspace that this one still reads, even where the memory is the same.

Variances are centred throughout: Welford's update over the tiles of a slab, Chan's merge from there on.
"""

import functools
import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from fewstep_kernels.fused.launch import FLOATS, MAX_PROGRAMS, Launch, has_dependent_launches


@triton.jit
def _weighted_sum(share, values):
    """sum_i share_i values_i over axis 0; where a share is zero, its value may be anything."""
    return tl.sum(tl.where(share == 0.0, 0.0, share * values), 0)


@triton.jit
def _merge(share, mean, variance):
    """Moments of a whole from those of its parts along axis 0, each with its share n_i / n of the values.

    mean = sum_i share_i mean_i,  variance = sum_i share_i (variance_i + (mean_i - mean)^2)
    Source: Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances" (1979).
    """
    centre = _weighted_sum(share, mean)
    centre += _weighted_sum(share, mean - centre[None, :])  # what rounding took, where the mean dwarfs the spread
    deviation = mean - centre[None, :]
    return centre, _weighted_sum(share, variance + deviation * deviation)


@triton.jit
def _merge_channels(mean, variance, group, inside, D, BLOCK_G: tl.constexpr):
    """Moments of the groups from those of their D channels each."""
    member = (group[:, None] == tl.arange(0, BLOCK_G)[None, :]) & inside[:, None]
    return _merge(member.to(tl.float32) / D, mean[:, None], variance[:, None])


@triton.jit
def _load_channels(ptr, offset, inside):
    """A number for every channel; a tensor that was not given reads as zeros."""
    if ptr is None:
        numbers = tl.zeros(inside.shape, tl.float32)
    else:
        numbers = tl.load(ptr + offset + tl.arange(0, inside.shape[0]), mask=inside, other=0.0).to(tl.float32)
    return numbers


@triton.jit
def _own_channels(C, G, groups, BLOCK_C: tl.constexpr, BLOCK_G: tl.constexpr, VECTOR: tl.constexpr):
    """The program's first channel, which of BLOCK_C from there are its own, and the group of each within the program.

    To divide by VECTOR and multiply again changes nothing, and tells the compiler what the width is a multiple of.
    """
    width = groups * (C // G) // VECTOR * VECTOR
    first = tl.program_id(2) * width
    c = tl.arange(0, BLOCK_C)
    return first, (c < width) & (c < C - first), tl.minimum(c // (C // G), BLOCK_G - 1)


@triton.jit
def _tile(start, first, inside, C, L, BLOCK_L: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Where BLOCK_L pixels from `start` lie in this program's sample and channels, and which of them exist."""
    pixel = start + tl.arange(0, BLOCK_L).to(tl.int64)
    channel = first + tl.arange(0, inside.shape[0]).to(tl.int64)
    sample = tl.program_id(0).to(tl.int64) * C * L
    if CHANNELS_LAST:
        offsets = sample + pixel[:, None] * C + channel[None, :]
    else:
        offsets = sample + channel[None, :] * L + pixel[:, None]
    return offsets, (pixel < L)[:, None] & inside[None, :]


@triton.jit
def _silu(h):
    """h sigmoid(h) = max(h, 0) - |h| e / (1 + e), e = exp(-|h|).

    The term with e is at most 0.28, so the approximate root's 2^-22 costs 1e-7 of it where h / (1 + exp(-h)) loses two
    ulp of h. With that division the loop over tiles has 31 instructions a value on sm_90, like this 18.
    """
    size = tl.abs(h)
    e = tl.exp2(-1.4426950408889634 * size)
    root = tl.rsqrt(1.0 + e)
    return tl.fma(-size * e, root * root, tl.maximum(h, 0.0))


@triton.jit
def _finish(x, offset, gain, constant, out_ptr, residual_ptr, offsets, mask, SILU: tl.constexpr):
    h = tl.fma(x.to(tl.float32) + offset[None, :], gain[None, :], constant[None, :])
    if SILU:
        h = _silu(h)
    if residual_ptr is not None:
        h += tl.load(residual_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + offsets, h.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _moments_kernel(
    moments_ptr, x_ptr, shift_before_ptr, C, L, G, groups, slabs, tiles, shift_before_stride,
    CHANNELS_LAST: tl.constexpr, CHANNEL_VECTOR: tl.constexpr, PIXEL_VECTOR: tl.constexpr,
    BLOCK_L: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_G: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Mean and variance of the groups of one slab, `tiles` tiles of one sample, into moments [B, slabs, 2, G]."""
    if DEPENDENT:
        gdc_launch_dependents()
    sample, slab = tl.program_id(0).to(tl.int64), tl.program_id(1)
    C, L = C // CHANNEL_VECTOR * CHANNEL_VECTOR, L // PIXEL_VECTOR * PIXEL_VECTOR
    first, inside, group = _own_channels(C, G, groups, BLOCK_C, BLOCK_G, CHANNEL_VECTOR)
    start = slab * tiles * BLOCK_L
    pixels = tl.minimum(tiles * BLOCK_L, L - start)
    mean = tl.zeros([BLOCK_L, BLOCK_C], tl.float32)
    squares = tl.zeros([BLOCK_L, BLOCK_C], tl.float32)
    for seen in range(tl.cdiv(pixels, BLOCK_L)):
        offsets, mask = _tile(start + seen * BLOCK_L, first, inside, C, L, BLOCK_L, CHANNELS_LAST)
        x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        step = tl.where(mask, x - mean, 0.0)
        mean = tl.fma(step, 1.0 / (seen + 1), mean)
        squares = tl.fma(step, x - mean, squares)
    count = tl.maximum(tl.cdiv(pixels - tl.arange(0, BLOCK_L), BLOCK_L), 0).to(tl.float32)[:, None]
    mean, variance = _merge(count / pixels, mean, squares / tl.maximum(count, 1.0))
    mean += _load_channels(shift_before_ptr, sample * shift_before_stride + first, inside)
    mean, variance = _merge_channels(mean, variance, group, inside, C // G, BLOCK_G)
    g = tl.arange(0, BLOCK_G)
    own = tl.program_id(2) * groups + g
    slot = moments_ptr + (sample * slabs + slab) * 2 * G + own
    tl.store(slot, mean, mask=(g < groups) & (own < G))
    tl.store(slot + G, variance, mask=(g < groups) & (own < G))


@triton.jit
def _normalise_kernel(
    out_ptr, moments_ptr, x_ptr, residual_ptr, weight_ptr, bias_ptr, shift_before_ptr, scale_ptr, shift_ptr, eps,
    C, L, G, groups, slabs, tiles, shift_before_stride, scale_stride, shift_stride,
    SILU: tl.constexpr, CHANNELS_LAST: tl.constexpr, CHANNEL_VECTOR: tl.constexpr, PIXEL_VECTOR: tl.constexpr,
    BLOCK_L: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_G: tl.constexpr, DEPENDENT: tl.constexpr,
    BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Normalise one slab with the moments of all slabs; without a moments_ptr the slab is one tile and all there is."""
    sample, slab = tl.program_id(0).to(tl.int64), tl.program_id(1)
    C, L = C // CHANNEL_VECTOR * CHANNEL_VECTOR, L // PIXEL_VECTOR * PIXEL_VECTOR
    first, inside, group = _own_channels(C, G, groups, BLOCK_C, BLOCK_G, CHANNEL_VECTOR)
    weight, bias = _load_channels(weight_ptr, first, inside), _load_channels(bias_ptr, first, inside)
    before = _load_channels(shift_before_ptr, sample * shift_before_stride + first, inside)
    scale = _load_channels(scale_ptr, sample * scale_stride + first, inside)
    shift = _load_channels(shift_ptr, sample * shift_stride + first, inside)
    start = slab * tiles * BLOCK_L
    offsets, mask = _tile(start, first, inside, C, L, BLOCK_L, CHANNELS_LAST)
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0)  # on its way while the moments are merged
    if moments_ptr is None:
        share = tl.where(tl.arange(0, BLOCK_L) < L, 1.0 / L, 0.0)
        mean, variance = _merge(share[:, None], x.to(tl.float32), 0.0)
        mean, variance = _merge_channels(mean + before, variance, group, inside, C // G, BLOCK_G)
    else:
        s, g = tl.arange(0, BLOCK_S)[:, None], tl.arange(0, BLOCK_G)[None, :]
        own = tl.program_id(2) * groups + g
        slots = moments_ptr + (sample * slabs + s) * 2 * G + own
        known = (s < slabs) & (g < groups) & (own < G)
        share = tl.minimum(tl.maximum(L - s * tiles * BLOCK_L, 0), tiles * BLOCK_L).to(tl.float32) / L
        if DEPENDENT:
            gdc_wait()
        mean, variance = _merge(share, tl.load(slots, known, 0.0), tl.load(slots + G, known, 0.0))

    # (x + offset) gain + constant: the mean leaves x before any product, exactly where it is far larger than the spread
    offset = before - tl.gather(mean, group, 0)
    gain = tl.gather(tl.rsqrt(variance + eps), group, 0) * weight * (1.0 + scale)
    constant = tl.fma(bias, 1.0 + scale, shift)
    if moments_ptr is None:
        _finish(x, offset, gain, constant, out_ptr, residual_ptr, offsets, mask, SILU)
    else:
        end = tl.minimum(start + tiles * BLOCK_L, L)
        for here in range(start, end, BLOCK_L):
            next_offsets, next_mask = _tile(here + BLOCK_L, first, inside, C, L, BLOCK_L, CHANNELS_LAST)
            next_mask &= here + BLOCK_L < end
            ahead = tl.load(x_ptr + next_offsets, mask=next_mask, other=0.0)
            _finish(x, offset, gain, constant, out_ptr, residual_ptr, offsets, mask, SILU)
            x, offsets, mask = ahead, next_offsets, next_mask


@dataclass(frozen=True)
class Settings:
    """How a call is cut up: batch x slabs x programs, and a slab into tiles of block_l pixels by block_c channels."""

    groups: int  # of one program
    programs: int  # side by side over the groups
    slabs: int
    tiles: int  # of one slab
    block_l: int
    block_c: int
    channel_vector: int  # values in one access, where memory runs along channels
    pixel_vector: int  # likewise where it runs along pixels
    num_warps: int

    @property
    def whole(self) -> bool:
        """Whether one tile holds every pixel, and one launch does it all."""
        return self.slabs * self.tiles == 1


_TILE = 4096  # values, 16 a thread: with their mean and squares 64 to 80 registers, so that an SM runs 3 or 4 programs
_WHOLE_BYTES = 32768  # of the one tile of a map; the tile after this one no longer fits the registers of 16 warps
_GROUPS = 16  # of a program: all its channels are matched with all its groups
_SLABS, _SLOTS = 128, 1024  # slabs, and moments that a program merges: 2048 of them spill on sm_80
_DEPENDENT = False  # the second launch, where the GPU can: off until one has measured it


@functools.cache
def settings(
    C: int,
    L: int,
    groups: int,
    itemsize: int,
    channels_last: bool,
    tile: int = _TILE,
    whole_bytes: int = _WHOLE_BYTES,
) -> Settings:
    """The cut for samples of C channels and L pixels: a pure function of the shape, whatever the batch.

    Tests give a smaller `tile`, a power of two, and as much less of one tile's bytes: a small map then has several.
    """
    width = C // groups
    channel_vector = math.gcd(16 // itemsize, C) if channels_last else 1
    pixel_vector = 1 if channels_last else math.gcd(16 // itemsize, L)
    narrow, wide = (32, 128) if channels_last else (1, 32)  # channels of a program: 64 bytes or more of one pixel
    while not (choices := _whole_vectors(groups, width, channel_vector, wide)):
        channel_vector //= 2

    def cut(own: int, block_l: int, slabs: int, tiles: int) -> Settings:
        block_c, programs = triton.next_power_of_2(own * width), -(-groups // own)
        num_warps = min(max(block_l * block_c // 512, 1), 16)
        return Settings(own, programs, slabs, tiles, block_l, block_c, channel_vector, pixel_vector, num_warps)

    own = next((k for k in choices if k * width >= narrow), choices[-1])
    block_l = triton.next_power_of_2(L)
    if block_l * triton.next_power_of_2(own * width) * itemsize <= whole_bytes:
        return cut(own, block_l, 1, 1)

    # The least padding, then the most programs; each reads the moments of all slabs, so there are no more of those than
    # its registers hold, and than cost it half of what it reads of a bfloat16 x.
    long = [k for k in choices if k * width >= narrow] or choices
    own = min(long, key=lambda k: (-(-groups // k) * triton.next_power_of_2(k * width), k))
    block_l = max(tile // triton.next_power_of_2(own * width), 1)
    tiles = -(-L // block_l)
    slabs = min(tiles, _SLABS, _SLOTS // triton.next_power_of_2(own), max(math.isqrt(L * width // 8), 1))
    tiles = -(-tiles // slabs)
    return cut(own, block_l, -(-L // (tiles * block_l)), tiles)


def _whole_vectors(groups: int, width: int, vector: int, wide: int) -> list[int]:
    """How many groups a program may own: their channels are a multiple of `vector`, and one group or at most `wide`."""
    most = max(1, min(groups, _GROUPS, wide // width))
    return [k for k in range(1, most + 1) if k * width % vector == 0]


def group_norm_silu(
    x: Tensor,  # [B, C, H, W]
    weight: Tensor,  # [C]
    bias: Tensor,  # [C]
    groups: int,
    eps: float,
    shift_before: Tensor | None = None,  # [B, C]
    scale: Tensor | None = None,  # [B, C]
    shift: Tensor | None = None,  # [B, C]
    silu: bool = True,
    residual: Tensor | None = None,  # [B, C, H, W]
) -> Tensor:  # [B, C, H, W] in x's dtype and memory format
    """silu(group_norm(x + shift_before) (1 + scale) + shift) + residual (Wu and He 2018; Dhariwal and Nichol 2021).

    Channels-last and contiguous x are read as they are; other strides cost a copy before and one after. A map of more
    than one tile costs a workspace of 8 bytes for every group of every slab.

    Raises:
        TypeError: a dtype other than float32, bfloat16 and float16; float64 is the twin's.
        ValueError: groups that do not divide C, or a tensor of another shape than the above.
    """
    _check(x, groups, weight=weight, bias=bias, shift_before=shift_before, scale=scale, shift=shift, residual=residual)
    dense = x if x.is_contiguous() else x.contiguous(memory_format=torch.channels_last)
    out = torch.empty_like(dense)
    dependent = _DEPENDENT and has_dependent_launches(x.device)
    for launch in group_norm_silu_launches(
        out, dense, weight, bias, groups, eps, shift_before, scale, shift, silu, residual, dependent
    ):
        launch.run()
    return out if out.stride() == x.stride() else torch.empty_like(x).copy_(out)


def group_norm_silu_launches(
    out: Tensor,  # [B, C, H, W]
    x: Tensor,  # [B, C, H, W], channels-last or contiguous, as `out`
    weight: Tensor,  # [C]
    bias: Tensor,  # [C]
    groups: int,
    eps: float,
    shift_before: Tensor | None = None,  # [B, C]
    scale: Tensor | None = None,  # [B, C]
    shift: Tensor | None = None,  # [B, C]
    silu: bool = True,
    residual: Tensor | None = None,  # [B, C, H, W]
    dependent: bool = False,  # the second launch, on sm_90 or newer
) -> list[Launch]:
    """The launches of one call: one for a map of one tile, else two around a workspace [B, slabs, 2, groups]."""
    B, C, H, W = x.shape
    if x.numel() == 0:
        return []
    channels_last = C > 1 and x.is_contiguous(memory_format=torch.channels_last)
    cut = settings(C, H * W, groups, x.element_size(), channels_last, _TILE, _WHOLE_BYTES)
    if cut.programs > MAX_PROGRAMS[2]:
        raise ValueError(f"groups: got {groups}; allowed: at most {MAX_PROGRAMS[2] * cut.groups} at {C} channels")
    if residual is not None:
        residual = residual.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    if scale is None or shift is None:
        scale = shift = None  # one alone is not used, as in the twin
    shift_before, before_stride = _rows(shift_before)
    scale, scale_stride = _rows(scale)
    shift, shift_stride = _rows(shift)
    moments = None if cut.whole else x.new_empty((B, cut.slabs, 2, groups), dtype=torch.float32)
    sizes = {"C": C, "L": H * W, "G": groups, "groups": cut.groups, "slabs": cut.slabs, "tiles": cut.tiles}
    reading = {"x_ptr": x, "shift_before_ptr": shift_before, "shift_before_stride": before_stride}
    writing = {
        "out_ptr": out, "residual_ptr": residual, "weight_ptr": weight.contiguous(), "bias_ptr": bias.contiguous(),
        "scale_ptr": scale, "shift_ptr": shift, "scale_stride": scale_stride, "shift_stride": shift_stride, "eps": eps,
    }  # fmt: skip
    constants = {
        "CHANNELS_LAST": channels_last, "CHANNEL_VECTOR": cut.channel_vector, "PIXEL_VECTOR": cut.pixel_vector,
        "BLOCK_L": cut.block_l, "BLOCK_C": cut.block_c, "BLOCK_G": triton.next_power_of_2(cut.groups),
        "DEPENDENT": dependent and not cut.whole,
    }  # fmt: skip
    last = {"SILU": silu, "BLOCK_S": triton.next_power_of_2(cut.slabs)}
    grid, shared = (B, cut.slabs, cut.programs), {"moments_ptr": moments, **sizes, **reading}
    awaits = ("moments_ptr",) if constants["DEPENDENT"] else ()
    normalise = Launch(_normalise_kernel, grid, shared | writing, constants | last, cut.num_warps, awaits)
    if moments is None:
        return [normalise]
    return [Launch(_moments_kernel, grid, shared, constants, cut.num_warps), normalise]


def _rows(tensor: Tensor | None) -> tuple[Tensor | None, int]:
    """A [B, C] tensor that may be columns of a wider one, and the distance of its rows."""
    if tensor is None:
        return None, 0
    tensor = tensor if tensor.stride(1) == 1 else tensor.contiguous()
    return tensor, tensor.stride(0)


def _check(x: Tensor, groups: int, **others: Tensor | None) -> None:
    B, C, _, _ = x.shape
    if groups < 1 or C % groups:
        raise ValueError(f"groups: got {groups}; allowed: a divisor of {C} channels")
    shapes = {"weight": (C,), "bias": (C,), "residual": tuple(x.shape)}
    for name, tensor in {"x": x, **others}.items():
        if tensor is None:
            continue
        if tensor.dtype not in FLOATS:
            raise TypeError(f"{name}: got {tensor.dtype}; allowed: float32, bfloat16, float16")
        if name != "x" and tensor.shape != shapes.get(name, (B, C)):
            raise ValueError(f"{name}: got {list(tensor.shape)}; allowed: {list(shapes.get(name, (B, C)))}")
