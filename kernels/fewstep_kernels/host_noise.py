"""The twin's normals on a CPU, drawn by numpy for a few samples: the same bits, in 0.3 to 0.5 of the time.

Philox is 50 small operations and Box-Muller 25. Right after a U-Net, which has emptied the caches, torch takes 3 to 20
us for each. Products and sums round alike in both; logarithm and root, which MKL rounds in a way of its own, are
torch's.
"""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewstep_kernels.philox import MASK as LOW_HALF
from fewstep_kernels.philox import MULTIPLIERS, ROUNDS, SINE, WEYL

Words = NDArray[np.uint64]
Floats = NDArray[np.float32]

FEW = 2**16  # numbers: up to here numpy is ahead of torch on one thread and on two, at twice as many it is not
ROW, ROWS = 64, 16  # what neither MKL nor torch takes apart for its threads
HALF, MASK = np.uint64(32), np.uint64(LOW_HALF)
SWAPPED_MULTIPLIERS = np.array(MULTIPLIERS[::-1], dtype=np.uint64)[:, None, None]
ROUND_WEYLS = np.arange(ROUNDS, dtype=np.uint64)[:, None, None, None] * np.array(WEYL, dtype=np.uint64)[:, None, None]


def host_normal(seeds: Sequence[int], steps: Sequence[int], stream: int, shape: Sequence[int]) -> Tensor:
    """`reference.normal` for seeds and steps that the host knows: [B, *shape] float32."""
    size, batch = prod(shape), len(seeds)
    blocks = (size + 3) // 4
    key = np.array([[seed & LOW_HALF for seed in seeds], [(seed >> 32) & LOW_HALF for seed in seeds]], dtype=np.uint64)
    even = np.empty((2, batch, blocks), dtype=np.uint64)
    even[0], even[1] = np.arange(blocks), stream
    odd = np.array([[step & LOW_HALF for step in steps], [0] * batch], dtype=np.uint64)
    z = _normals(*_philox4x32(even, odd[:, :, None], key[:, :, None])).reshape(batch, blocks * 4)[:, :size]
    return torch.from_numpy(np.ascontiguousarray(z)).view(batch, *shape)


def _philox4x32(even: Words, odd: Words, key: Words) -> tuple[Words, Words]:
    """`philox.philox4x32`, the even and the odd words: each [2, B, blocks]; the even ones where they are given."""
    for round_key in (key + ROUND_WEYLS) & MASK:
        product = np.multiply(even[::-1], SWAPPED_MULTIPLIERS)
        np.right_shift(product, HALF, out=even)
        even ^= odd
        even ^= round_key
        even &= MASK
        odd = product  # its high half is masked away where it next enters `even`
    return even, odd & MASK


def _normals(even: Words, odd: Words) -> Floats:
    """`philox.normals_from_words`: [B, blocks, 4]."""
    u = even.astype(np.float32)
    u *= np.float32(2.0**-32)
    u += np.float32(2.0**-33)
    v = odd.astype(np.uint32).view(np.int32).astype(np.float32)
    v *= np.float32(2.0**-32)
    radius = _radius(u)
    turns = np.empty((2, *v.shape), dtype=np.float32)  # whose sines are the cosine and the sine of v, but for its sign
    np.abs(v, out=turns[0])
    np.subtract(turns[0], np.float32(0.25), out=turns[1])
    np.abs(turns[1], out=turns[1])
    np.subtract(np.float32(0.25), turns, out=turns)
    waves = _sine_of_turns(turns)
    np.copysign(waves[1], v, out=waves[1])
    pairs = np.empty((*v.shape[1:], 2, 2), dtype=np.float32)  # [B, blocks, which pair, cosine or sine]
    np.multiply(waves, radius, out=pairs.transpose(3, 2, 0, 1))
    return pairs


def _radius(u: Floats) -> Floats:
    """sqrt(-2 ln u) by torch, on this thread alone.

    MKL shares a row of more than 64 numbers among its threads, torch a tensor of more than 2048, and each of them then
    waits busily for the next such call: for 6 ms, in which OpenVINO's threads, which are others, lack the core.
    """
    rows = -(-u.size // ROW)
    padded = np.ones(rows * ROW, dtype=np.float32)
    padded[: u.size] = u.reshape(-1)
    apart = np.empty((rows, ROW + 1), dtype=np.float32)  # with gaps, since rows without are one row
    apart[:, :ROW] = padded.reshape(rows, ROW)
    for few in torch.from_numpy(apart)[:, :ROW].split(ROWS):
        few.log_().mul_(-2.0).sqrt_()
    return apart[:, :ROW].reshape(-1)[: u.size].reshape(u.shape)


def _sine_of_turns(y: Floats) -> Floats:
    square = y * y
    series = square * np.float32(SINE[-1])
    for coefficient in SINE[-2:0:-1]:
        series += np.float32(coefficient)
        series *= square
    series += np.float32(SINE[0])
    series *= y
    return series
