# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
"""What follows a convolution that was run without its bias: one pass over its output, channels-last or NCHW."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fewstep_kernels.fused.launch import Launch
from fewstep_kernels.fused.rows import check_shapes, cut_of, in_vectors, tile


@triton.jit
def _bias_residual_kernel(
    out_ptr, x_ptr, bias_ptr, residual_ptr, R, N, C,
    CHANNELS_LAST: tl.constexpr, VECTOR: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Rows are pixels where memory runs along channels, otherwise channels."""
    N = in_vectors(N, VECTOR)
    row, column, inside = tile(R, N, BLOCK_R, BLOCK_N)
    if CHANNELS_LAST:  # for every row anew, so that each thread has the channels of its own values
        bias = tl.load(bias_ptr + tl.broadcast_to(column, inside.shape), mask=inside, other=0.0)
    else:
        bias = tl.load(bias_ptr + row % C, mask=row < R, other=0.0)
    offsets = row * N + column
    x = tl.load(x_ptr + offsets, mask=inside, other=0.0).to(tl.float32) + bias.to(tl.float32)
    total = x + tl.load(residual_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + offsets, total.to(out_ptr.dtype.element_ty), mask=inside)


def bias_residual(
    x: Tensor,  # [B, C, H, W]
    bias: Tensor,  # [C]
    residual: Tensor,  # [B, C, H, W]
) -> Tensor:  # [B, C, H, W] in x's dtype and memory format
    """x + bias + residual.

    Channels-last and contiguous x are read as they are; other strides cost a copy before and one after, and a residual
    of another memory format one before.

    Raises:
        TypeError: a dtype other than float32, bfloat16 and float16; float64 is the twin's.
        ValueError: a tensor of another shape than the above.
    """
    if x.ndim != 4:
        raise ValueError(f"x: got {list(x.shape)}; allowed: [B, C, H, W]")
    check_shapes({"bias": tuple(x.shape[1:2]), "residual": tuple(x.shape)}, x=x, bias=bias, residual=residual)
    dense = x if x.is_contiguous() else x.contiguous(memory_format=torch.channels_last)
    out = torch.empty_like(dense)
    if out.numel():
        bias_residual_launch(out, dense, bias, residual).run()
    return out if out.stride() == x.stride() else torch.empty_like(x).copy_(out)


def bias_residual_launch(
    out: Tensor,  # [B, C, H, W], laid out as x
    x: Tensor,  # [B, C, H, W], channels-last or contiguous
    bias: Tensor,  # [C]
    residual: Tensor,  # [B, C, H, W]
) -> Launch:
    """The launch of one call, over at least one value."""
    B, C, H, W = x.shape
    channels_last = C > 1 and x.is_contiguous(memory_format=torch.channels_last)
    residual = residual.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    rows, columns = (B * H * W, C) if channels_last else (B * C, H * W)
    cut = cut_of(columns, x.element_size())
    arguments = {
        "out_ptr": out, "x_ptr": x, "bias_ptr": bias.contiguous(), "residual_ptr": residual, "R": rows, "N": columns,
        "C": C,
    }  # fmt: skip
    constants = cut.constants | {"CHANNELS_LAST": channels_last}
    return Launch(_bias_residual_kernel, (cut.programs(rows, columns),), arguments, constants, cut.num_warps)
