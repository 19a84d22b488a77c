# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
"""The sinusoidal embedding of a time, in one launch, its angles in float64.

An angle t f reaches 1000, where a float32's ulp is 6e-5, and that is then the error of its sine. There are a few
hundred values, so that float64's rate, a 64th of float32's on some GPUs, is not felt.
"""

import math

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from fewstep_kernels.fused.launch import FLOATS, Launch
from fewstep_kernels.fused.philox import sine_of_turns
from fewstep_kernels.reference_layers import MAX_PERIOD, check_waves

_BLOCK = 256

# 2^r = 1 + r P(r) for r in [-1/2, 1/2], within 3e-12.
_EXP2 = tl.constexpr(
    (
        0.6931471805568328,
        0.24022650695888528,
        0.05550410906323894,
        0.009618129135219533,
        0.0013333478475647809,
        0.00015403475202901973,
        1.5303700209301496e-05,
        1.3250801202957518e-06,
    )
)
_PER_TURN = tl.constexpr(1 / (2 * math.pi))


@triton.jit
def _exp2(exponent):
    """2^exponent in float64, and next to nothing where that is below 2^-120."""
    whole = tl.floor(exponent + 0.5)
    r = exponent - whole
    series = tl.full(r.shape, _EXP2[7], tl.float64)
    for term in tl.static_range(1, 8):
        series = series * r + _EXP2[7 - term]
    bits = (tl.maximum(whole, -120.0).to(tl.int32) + 127) << 23
    return (series * r + 1.0) * bits.to(tl.float32, bitcast=True)


@triton.jit
def _timestep_embedding_kernel(
    out_ptr, t_ptr, coarse, fine, half, width, SINE: tl.constexpr, COSINE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """f_i = 2^(i coarse + i fine), and t f in turns, of which the whole part leaves exactly."""
    sample = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    t = tl.load(t_ptr + sample).to(tl.float64)
    exponent = i.to(tl.float64) * coarse + i.to(tl.float64) * fine
    turns = t * _exp2(exponent) * _PER_TURN
    y = turns - tl.floor(turns + 0.5)
    size = tl.abs(y)
    cosine = sine_of_turns(0.25 - size)
    sine = sine_of_turns(tl.where(size > 0.25, 0.5 - size, size))
    row = out_ptr + sample * width + i
    tl.store(row + COSINE * half, cosine.to(tl.float32), mask=i < half)
    tl.store(row + SINE * half, tl.where(y < 0.0, -sine, sine).to(tl.float32), mask=i < half)
    tl.store(row + 2 * half, tl.zeros([BLOCK], tl.float32), mask=i < width - 2 * half)


def timestep_embedding(
    t: Tensor,  # [B] any real dtype
    width: int,
    cos_first: bool,
    freq_shift: float,  # less than width // 2
) -> Tensor:  # [B, width] float32
    """[cos(t f), sin(t f)] or [sin(t f), cos(t f)] with f_i = 10000^(-i / (width // 2 - freq_shift)).

    Raises:
        ValueError: t of another shape, or a width that is too little for the shift.
    """
    if t.ndim != 1:
        raise ValueError(f"t: got {list(t.shape)}; allowed: [B]")
    check_waves(width, freq_shift)
    out = torch.empty((len(t), width), dtype=torch.float32, device=t.device)
    if out.numel():
        timestep_embedding_launch(out, t, cos_first, freq_shift).run()
    return out


def timestep_embedding_launch(
    out: Tensor,  # [B, width] float32
    t: Tensor,  # [B]
    cos_first: bool,
    freq_shift: float,
) -> Launch:
    """The launch of one call, over at least one value."""
    batch, width = out.shape
    half = width // 2
    rate = -math.log2(MAX_PERIOD) / (half - freq_shift)
    coarse = float(np.float32(rate))  # a number reaches a kernel as a float32, and two of them have its 48 bits
    t = t if t.dtype in (*FLOATS, torch.int64) else t.float()
    arguments = {
        "out_ptr": out, "t_ptr": t.contiguous(), "coarse": coarse, "fine": rate - coarse, "half": half, "width": width
    }  # fmt: skip
    constants = {"COSINE": int(not cos_first), "SINE": int(cos_first), "BLOCK": _BLOCK}
    return Launch(_timestep_embedding_kernel, (batch, triton.cdiv(width - half, _BLOCK)), arguments, constants, 4)
