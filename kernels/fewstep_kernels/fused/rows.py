# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
"""How the layers' kernels walk a matrix: rows of contiguous values, cut into tiles of rows by columns."""

import functools
import math
from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from fewstep_kernels.fused.launch import FLOATS, THREADS

_WIDTHS = (1024, 512, 256, 128, 64)  # columns of a tile: 128 bytes or more of a row lie together


@dataclass(frozen=True)
class Cut:
    """Tiles of block_r rows by block_n columns."""

    block_r: int
    block_n: int
    vector: int  # values in one access
    num_warps: int

    def programs(self, rows: int, columns: int) -> int:
        """How many tiles cover the matrix."""
        return -(-rows // self.block_r) * -(-columns // self.block_n)

    @property
    def constants(self) -> dict[str, int]:
        """What the kernel is compiled for."""
        return {"VECTOR": self.vector, "BLOCK_R": self.block_r, "BLOCK_N": self.block_n}


@functools.cache
def cut_of(columns: int, itemsize: int) -> Cut:
    """For an op of single values, a pure function of the row: 16 bytes a thread, and the least padding of the columns.

    `itemsize` is of the tensors' values, in bytes.
    """
    most = triton.next_power_of_2(columns)
    widths = [width for width in _WIDTHS if width <= most] or [most]
    block_n = min(widths, key=lambda width: triton.cdiv(columns, width) * width)
    return Cut(max(THREADS * 16 // itemsize // block_n, 1), block_n, math.gcd(16 // itemsize, columns), THREADS // 32)


@triton.jit
def tile(R, N, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr):
    """The program's rows [BLOCK_R, 1], as int64, its columns [1, BLOCK_N], and which of both exist."""
    across = tl.cdiv(N, BLOCK_N)
    row = (tl.program_id(0) // across).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    column = tl.program_id(0) % across * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    return row, column, (row < R) & (column < N)


@triton.jit
def in_vectors(N, VECTOR: tl.constexpr):
    """N, which is a multiple of VECTOR: to divide and multiply again changes nothing, and tells the compiler so."""
    return N // VECTOR * VECTOR


def check_shapes(shapes: dict[str, tuple[int, ...]], **tensors: Tensor) -> None:
    """Raise TypeError for a dtype the kernels do not take, ValueError for another shape than is asked of a name."""
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            raise TypeError(f"{name}: got {tensor.dtype}; allowed: float32, bfloat16, float16")
        if name in shapes and tuple(tensor.shape) != shapes[name]:
            raise ValueError(f"{name}: got {list(tensor.shape)}; allowed: {list(shapes[name])}")
