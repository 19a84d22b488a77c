"""The ops of a network's layers beside the same in plain torch: norms, gates, residuals, time embeddings, attention.

A function here takes the tensors' shape as the registry has it, the dtype and a generator, whose device they are on.
"""

import math
from typing import Any

import torch
from attention_cases import Case, exact
from op_work import Tensors, Work, runs_fused, work
from torch import Tensor
from torch.nn import functional

import fewstep_kernels

Shape = tuple[int, ...]
EPS = 1e-5


def normal(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Of standard normals."""
    return torch.randn(shape, generator=generator, device=generator.device).to(dtype)


def affine(C: int, dtype: torch.dtype, generator: torch.Generator) -> dict[str, Tensor]:
    """A norm's weight and bias, within [0, 1)."""
    device = generator.device
    return {name: torch.rand(C, generator=generator, device=device).to(dtype) for name in ("weight", "bias")}


def image(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """[B, C, H, W], channels last, as it lies between convolutions."""
    return normal(shape, dtype, generator).to(memory_format=torch.channels_last)


def groups_of(C: int) -> int:
    """32, as in the U-Nets listed; 8 in those whose channels are too few."""
    return 8 if C % 32 or C < 64 else 32


def group_norm_silu(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Work:
    """The norm ahead of a convolution."""
    groups = groups_of(shape[1])

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return fewstep_kernels.group_norm_silu(x, weight, bias, groups, EPS)

    def eager(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.silu(functional.group_norm(x, groups, weight, bias, EPS))

    def dependent(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        from fewstep_kernels.fused.norms import group_norm_silu_launches

        out, can = torch.empty_like(x), x.device.type == "cuda"
        for launch in group_norm_silu_launches(out, x, weight, bias, groups, EPS, dependent=can):
            launch.run()
        return out

    x = image(shape, dtype, generator)
    more = {"ours, dependent": dependent} if may_be_dependent(x, groups) else {}
    return work(ours, eager, {"x": x, **affine(shape[1], dtype, generator)}, more=more)


def may_be_dependent(x: Tensor, groups: int) -> bool:
    """Whether the norm of this map has a second launch that could begin while the first ends.

    A dry run takes that way too, though one launch waits for the other there.
    """
    if not runs_fused(x.device):
        return False
    from fewstep_kernels.fused import norms
    from fewstep_kernels.fused.launch import has_dependent_launches

    cut = (norms._TILE, norms._WHOLE_BYTES)  # what a sweep sets
    whole = norms.settings(x.shape[1], x.shape[2] * x.shape[3], groups, x.element_size(), True, *cut).whole
    return not whole and (x.device.type == "cpu" or has_dependent_launches(x.device))


def group_norm_scale_shift(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Work:
    """The norm that the time's embedding scales and shifts, as in ADM."""
    groups = groups_of(shape[1])

    def ours(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return fewstep_kernels.group_norm_silu(x, weight, bias, groups, EPS, scale=scale, shift=shift)

    def eager(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        h = functional.group_norm(x, groups, weight, bias, EPS)
        return functional.silu(h * (1 + scale[:, :, None, None]) + shift[:, :, None, None])

    own = {name: 0.3 * normal(shape[:2], torch.float32, generator) for name in ("scale", "shift")}
    given = {"x": image(shape, dtype, generator), **affine(shape[1], dtype, generator)}
    return work(ours, eager, given | {name: value.to(dtype) for name, value in own.items()})


def layer_norm(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Work:
    """The norm of a transformer's tokens."""

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return fewstep_kernels.layer_norm(x, weight, bias, EPS)

    def eager(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], weight, bias, EPS)

    return work(ours, eager, {"x": normal(shape, dtype, generator), **affine(shape[-1], dtype, generator)})


def add_layer_norm(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Work:
    """A block's residual, and the norm of the next block."""

    def ours(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Tensors:
        return fewstep_kernels.add_layer_norm(x, residual, weight, bias, EPS)

    def eager(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Tensors:
        total = x + residual
        return total, functional.layer_norm(total, total.shape[-1:], weight, bias, EPS)

    given = {name: normal(shape, dtype, generator) for name in ("x", "residual")}
    return work(ours, eager, given | affine(shape[-1], dtype, generator))


def geglu(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Work:
    """The gate of a transformer's feed-forward; the shape is what goes in, twice as wide as what comes out."""

    def eager(x: Tensor) -> Tensor:
        a, gate = x.chunk(2, dim=-1)
        return a * functional.gelu(gate)

    return work(fewstep_kernels.geglu, eager, {"x": normal(shape, dtype, generator)})


def bias_residual(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Work:
    """What follows a convolution that was run without its bias."""

    def eager(x: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        return x + bias[:, None, None] + residual

    given = {name: image(shape, dtype, generator) for name in ("x", "residual")}
    return work(fewstep_kernels.bias_residual, eager, given | {"bias": normal(shape[1:2], dtype, generator)})


def timestep_embedding(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Work:
    """The time as cosines and sines; the shape is [B, width]. t is float32, and so is the result."""
    B, width = shape

    def ours(t: Tensor) -> Tensor:
        return fewstep_kernels.timestep_embedding(t, width, True, 0.0)

    def eager(t: Tensor) -> Tensor:
        half = width // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half, dtype=t.dtype, device=t.device) / half)
        angle = t[:, None] * frequencies
        return torch.cat((angle.cos(), angle.sin()), dim=-1)

    t = torch.randint(1000, (B,), generator=generator, device=generator.device)
    return work(ours, eager, {"t": t.float()})


def attention(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Work:
    """Every head of a layer, in a U-Net's layout; the shape is [B, H, queries, keys, D]."""
    B, H, Lq, Lk, D = shape

    def eager(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).contiguous()

    lengths = {"q": Lq, "k": Lk, "v": Lk}
    given: dict[str, Any] = {name: normal((B, L, H, D), dtype, generator) for name, L in lengths.items()}
    operations = Case("", B, H, Lq, Lk, D).operations
    return work(fewstep_kernels.attention, eager, given, operations, exact=lambda: (exact(**given),))
