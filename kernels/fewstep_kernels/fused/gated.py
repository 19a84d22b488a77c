# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
"""The gated unit of a transformer: one pass over what its projection wrote, half as much written."""

import triton
import triton.language as tl
from torch import Tensor

from fewstep_kernels.fused.launch import Launch
from fewstep_kernels.fused.rows import check_shapes, cut_of, in_vectors, tile

# exp(u^2 / 2) erfc(u / sqrt(2)) / 2 = t P(t), t = 1 / (1 + 0.3 u): least error of e^(-u^2/8) of it (8e-8, as rounded).
_TAIL = tl.constexpr(
    (
        0.11960729956626892,
        0.1210942342877388,
        0.09778949618339539,
        0.1355411857366562,
        -0.06679493933916092,
        0.22050216794013977,
        -0.16535979509353638,
        0.03762035071849823,
    )
)
_TAIL_END = tl.constexpr(16.0)  # from where on the tail is below what float32 holds


@triton.jit
def gelu(b):
    """b (1 + erf(b / sqrt(2))) / 2 = max(b, 0) - u erfc(u / sqrt(2)) / 2, u = |b|.

    The tail that is taken away is at most 0.17, so its relative error of a few 2^-23 is less than that of an erf near
    1, and the far negative side keeps its digits. On sm_90 29 instructions a value, where libdevice's erf leads to 34.
    """
    u = tl.abs(b)
    t = 1.0 / (1.0 + 0.3 * u)
    series = tl.full(b.shape, _TAIL[7], tl.float32)
    for term in tl.static_range(1, 8):
        series = tl.fma(series, t, _TAIL[7 - term])
    tail = u * tl.exp2(-0.7213475204444817 * u * u) * (t * series)
    return tl.maximum(b, 0.0) - tl.where(u > _TAIL_END, 0.0, tail)


@triton.jit
def _geglu_kernel(out_ptr, x_ptr, R, N, VECTOR: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr):
    N = in_vectors(N, VECTOR)
    row, column, inside = tile(R, N, BLOCK_R, BLOCK_N)
    a = tl.load(x_ptr + row * (2 * N) + column, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(x_ptr + row * (2 * N) + N + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * N + column, (a * gelu(b)).to(out_ptr.dtype.element_ty), mask=inside)


def geglu(
    x: Tensor,  # [..., 2 C]
) -> Tensor:  # [..., C] contiguous, in x's dtype
    """a gelu(b) for x = [a, b], with the exact gelu (Shazeer, GLU Variants, 2002.05202, eq. 6).

    Raises:
        TypeError: a dtype other than float32, bfloat16 and float16; float64 is the twin's.
        ValueError: a last dimension that has no two halves.
    """
    check_shapes({}, x=x)
    if x.ndim == 0 or x.shape[-1] % 2:
        raise ValueError(f"x: got {list(x.shape)}; allowed: an even last dimension, of two halves")
    out = x.new_empty((*x.shape[:-1], x.shape[-1] // 2))
    if out.numel():
        geglu_launch(out, x.contiguous()).run()
    return out


def geglu_launch(
    out: Tensor,  # [..., C] contiguous
    x: Tensor,  # [..., 2 C] contiguous
) -> Launch:
    """The launch of one call, over at least one value."""
    columns = out.shape[-1]
    rows, cut = out.numel() // columns, cut_of(columns, x.element_size())
    arguments = {"out_ptr": out, "x_ptr": x, "R": rows, "N": columns}
    return Launch(_geglu_kernel, (cut.programs(rows, columns),), arguments, cut.constants, cut.num_warps)
