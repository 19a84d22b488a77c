"""The twin's normals on a CPU, drawn by numpy for a few samples: the same bits, in 0.4 to 0.6 of the time.

Philox is 60 small operations and Box-Muller 30. Right after a U-Net, which has emptied the caches, torch takes 3 to 20
us for each. Products and sums round alike in both; logarithm and root, which MKL rounds in a way of its own, are
torch's.
"""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewstep_kernels.philox import MASK, MULTIPLIERS, ROUNDS, SINE, WEYL

Words = NDArray[np.int64]
Floats = NDArray[np.float32]

FEW = 2**16  # numbers: up to here numpy is ahead of torch on one thread and on two, at twice as many it is not
COLUMN_MULTIPLIERS = np.array(MULTIPLIERS, dtype=np.int64)[:, None, None]
ROUND_WEYLS = np.arange(ROUNDS, dtype=np.int64)[:, None, None, None] * np.array(WEYL, dtype=np.int64)[:, None, None]


def host_normal(seeds: Sequence[int], steps: Sequence[int], stream: int, shape: Sequence[int]) -> Tensor:
    """`reference.normal` for seeds and steps that the host knows: [B, *shape] float32."""
    size, batch = prod(shape), len(seeds)
    blocks = (size + 3) // 4
    key = np.array([[seed & MASK for seed in seeds], [(seed >> 32) & MASK for seed in seeds]], dtype=np.int64)
    counter = np.empty((4, batch, blocks), dtype=np.int64)
    counter[0] = np.arange(blocks)
    counter[1] = np.array(steps, dtype=np.int64)[:, None] & MASK
    counter[2], counter[3] = stream, 0
    even, odd = _philox4x32(counter, key[:, :, None])
    z = _normals(even, odd).reshape(batch, blocks * 4)[:, :size]
    return torch.from_numpy(np.ascontiguousarray(z)).view(batch, *shape)


def _philox4x32(counter: Words, key: Words) -> tuple[Words, Words]:
    """`philox.philox4x32`, the even and the odd words: each [2, B, blocks]."""
    keys = key + ROUND_WEYLS
    even, odd = counter[0::2], counter[1::2]
    for round_key in keys:
        product = np.multiply(even, COLUMN_MULTIPLIERS)[::-1]  # wraps in int64, which keeps all 64 bits
        even = product >> 32
        even ^= odd
        even ^= round_key
        even &= MASK
        odd = product
    return even, odd & MASK


def _normals(even: Words, odd: Words) -> Floats:
    """`philox.normals_from_words`: [B, blocks, 4]."""
    u = even.astype(np.float32)
    u *= np.float32(2.0**-32)
    u += np.float32(2.0**-33)
    v = ((odd ^ 0x80000000) - 0x80000000).astype(np.float32)
    v *= np.float32(2.0**-32)
    radius = torch.from_numpy(u).log_().mul_(-2.0).sqrt_().numpy()
    magnitude = np.abs(v)
    pairs = np.empty((*v.shape[1:], 2, 2), dtype=np.float32)  # [B, blocks, which pair, cosine or sine]
    np.multiply(_sine_of_turns(np.float32(0.25) - magnitude), radius, out=np.moveaxis(pairs[..., 0], -1, 0))
    magnitude -= np.float32(0.25)
    np.abs(magnitude, out=magnitude)
    sine = np.copysign(_sine_of_turns(np.float32(0.25) - magnitude), v)
    np.multiply(sine, radius, out=np.moveaxis(pairs[..., 1], -1, 0))
    return pairs


def _sine_of_turns(y: Floats) -> Floats:
    square = y * y
    series = np.full_like(square, SINE[-1])
    for coefficient in reversed(SINE[:-1]):
        series *= square
        series += np.float32(coefficient)
    series *= y
    return series
