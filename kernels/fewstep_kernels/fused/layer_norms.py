# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
"""Layer norm, and the sum that comes before it: a program owns whole rows, which it reads once.

A row's result is the same bits whichever rows are beside it.
"""

import functools
import math

import triton
import triton.language as tl
from torch import Tensor

from fewstep_kernels import reference_layers
from fewstep_kernels.fused.launch import Launch
from fewstep_kernels.fused.rows import Cut, check_shapes, in_vectors, tile

_TILE = 2048  # values: 16 a thread of four warps
_MOST = 8192  # values of a row: 16 a thread of sixteen warps; no U-Net has 4096


@triton.jit
def _layer_norm_kernel(
    out_ptr, total_ptr, x_ptr, residual_ptr, weight_ptr, bias_ptr, R, N, eps,
    VECTOR: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """(x - mean) / sqrt(variance + eps) weight + bias of whole rows, x + residual in the place of x where there is one.

    variance = mean(d^2) - mean(d)^2 with d = x - mean as rounded, and the mean of d leaves d too: the corrected
    two-pass algorithm (Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance", 1983, eq. 1.7).
    """
    N = in_vectors(N, VECTOR)
    row, column, inside = tile(R, N, BLOCK_R, BLOCK_N)
    offsets = row * N + column
    weight = tl.load(weight_ptr + column, mask=column < N, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + column, mask=column < N, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    if residual_ptr is not None:
        x += tl.load(residual_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
        tl.store(total_ptr + offsets, x.to(total_ptr.dtype.element_ty), mask=inside)
    d = tl.where(inside, x - tl.sum(x, 1, keep_dims=True) / N, 0.0)
    left = tl.sum(d, 1, keep_dims=True) / N
    variance = tl.sum(d * d, 1, keep_dims=True) / N - left * left
    normed = tl.fma((d - left) * tl.rsqrt(variance + eps), weight, bias)
    tl.store(out_ptr + offsets, normed.to(out_ptr.dtype.element_ty), mask=inside)


@functools.cache
def whole_rows(columns: int, itemsize: int) -> Cut:
    """Tiles of whole rows, a pure function of the row: a program has several where they are short."""
    block_n = triton.next_power_of_2(columns)
    block_r = max(_TILE // block_n, 1)
    return Cut(block_r, block_n, math.gcd(16 // itemsize, columns), min(block_r * block_n // 512, 16))


def layer_norm(
    x: Tensor,  # [..., C]
    weight: Tensor,  # [C]
    bias: Tensor,  # [C]
    eps: float,
) -> Tensor:  # [..., C] contiguous, in x's dtype
    """(x - mean) / sqrt(variance + eps) weight + bias over the last dimension (Ba et al., 1607.06450).

    A row of more than 8192 values, which one program does not hold, is the twin's.

    Raises:
        TypeError: a dtype other than float32, bfloat16 and float16; float64 is the twin's.
        ValueError: a tensor of another shape than the above.
    """
    shape = _last(x)
    check_shapes({"weight": shape, "bias": shape}, x=x, weight=weight, bias=bias)
    if shape[0] > _MOST:
        return reference_layers.layer_norm(x, weight, bias, eps)
    out = x.new_empty(x.shape)
    if out.numel():
        layer_norm_launch(out, None, x.contiguous(), None, weight, bias, eps).run()
    return out


def add_layer_norm(
    x: Tensor,  # [..., C]
    residual: Tensor,  # [..., C]
    weight: Tensor,  # [C]
    bias: Tensor,  # [C]
    eps: float,
) -> tuple[Tensor, Tensor]:  # twice [..., C] contiguous, in x's dtype
    """s = x + residual, and `layer_norm` of s before it is rounded.

    Raises:
        TypeError, ValueError: as `layer_norm`.
    """
    shape = _last(x)
    shapes = {"residual": tuple(x.shape), "weight": shape, "bias": shape}
    check_shapes(shapes, x=x, residual=residual, weight=weight, bias=bias)
    if shape[0] > _MOST:
        return reference_layers.add_layer_norm(x, residual, weight, bias, eps)
    total, out = x.new_empty(x.shape), x.new_empty(x.shape)
    if out.numel():
        layer_norm_launch(out, total, x.contiguous(), residual.contiguous(), weight, bias, eps).run()
    return total, out


def layer_norm_launch(
    out: Tensor,  # [..., C] contiguous
    total: Tensor | None,  # [..., C] contiguous, where there is a residual
    x: Tensor,  # [..., C] contiguous
    residual: Tensor | None,  # [..., C] contiguous
    weight: Tensor,  # [C]
    bias: Tensor,  # [C]
    eps: float,
) -> Launch:
    """The launch of one call, over at least one value."""
    columns = x.shape[-1]
    rows, cut = x.numel() // columns, whole_rows(columns, x.element_size())
    arguments = {
        "out_ptr": out, "total_ptr": total, "x_ptr": x, "residual_ptr": residual, "weight_ptr": weight.contiguous(),
        "bias_ptr": bias.contiguous(), "R": rows, "N": columns, "eps": eps,
    }  # fmt: skip
    return Launch(_layer_norm_kernel, (cut.programs(rows, columns),), arguments, cut.constants, cut.num_warps)


def _last(x: Tensor) -> tuple[int, ...]:
    if x.ndim == 0:
        raise ValueError("x: got []; allowed: [..., C]")
    return (x.shape[-1],)
