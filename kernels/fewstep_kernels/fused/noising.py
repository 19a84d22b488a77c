"""Noise, and a clean sample brought to a noise level: `normal` and `add_noise`."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fewstep_kernels.fused.launch import Launch, block_of, check_floats, grid_of, offsets, term, walk
from fewstep_kernels.fused.philox import STREAM_STEP, normals


@triton.jit
def noised(x_0, z, signal_scale, noise_scale):
    """x_t = signal_scale x_0 + noise_scale z."""
    return term(signal_scale, x_0) + term(noise_scale, z)


@triton.jit
def step_noise(noise_ptr, seed, step, first, here, inside, batch, last, BLOCK: tl.constexpr):
    """The z of a row: from a given noise, where the initial one comes first, or by Philox."""
    if noise_ptr is not None:
        z = tl.load(noise_ptr + tl.minimum(step + 1, last) * batch + here, mask=inside, other=0.0)
    else:
        z = normals(seed, step, STREAM_STEP, first, BLOCK)
    return z


@triton.jit
def _normal_kernel(z_ptr, seed_ptr, step_ptr, seed_stride, step_stride, n, STREAM: tl.constexpr, BLOCK: tl.constexpr):
    sample = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * BLOCK
    element = first + tl.arange(0, BLOCK)
    seed, step = tl.load(seed_ptr + sample * seed_stride), tl.load(step_ptr + sample * step_stride)
    tl.store(z_ptr + sample * n + element, normals(seed, step, STREAM, first, BLOCK), mask=element < n)


@triton.jit
def _add_noise_kernel(
    x_t_ptr,
    x_0_ptr,
    noise_ptr,
    signal_scale_ptr,
    noise_scale_ptr,
    n,
    size,
    x_t_stride,
    x_0_stride,
    noise_stride,
    signal_scale_stride,
    noise_scale_stride,
    BLOCK: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    element = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = element < n
    signal_scale = tl.load(signal_scale_ptr + sample * signal_scale_stride).to(tl.float32)
    noise_scale = tl.load(noise_scale_ptr + sample * noise_scale_stride).to(tl.float32)
    x_0 = tl.load(x_0_ptr + offsets(sample, element, size, x_0_stride), mask=inside).to(tl.float32)
    z = tl.load(noise_ptr + offsets(sample, element, size, noise_stride), mask=inside).to(tl.float32)
    x_t = noised(x_0, z, signal_scale, noise_scale)
    tl.store(x_t_ptr + offsets(sample, element, size, x_t_stride), x_t, mask=inside)


def normal_launch(z: Tensor, seed: Tensor, step: Tensor, stream: int) -> Launch:
    """The launch that fills z [B, ...]."""
    n, block = z[0].numel(), block_of(z)
    arguments = {
        "z_ptr": z,
        "seed_ptr": seed,
        "step_ptr": step,
        "seed_stride": seed.stride(0),
        "step_stride": step.stride(0),
        "n": n,
    }
    return Launch(_normal_kernel, grid_of(block, shape=z), arguments, {"STREAM": stream, "BLOCK": block})


def add_noise_launch(x_t: Tensor, x_0: Tensor, signal_scale: Tensor, noise_scale: Tensor, noise: Tensor) -> Launch:
    """The launch that writes x_t."""
    check_floats(x_0=x_0, noise=noise)
    n, block = x_t[0].numel(), block_of(x_0, noise)
    size, (x_t_stride, x_0_stride, noise_stride) = walk(x_t, x_0, noise, any_order=True)
    arguments = {
        "x_t_ptr": x_t,
        "x_0_ptr": x_0,
        "noise_ptr": noise,
        "signal_scale_ptr": signal_scale,
        "noise_scale_ptr": noise_scale,
        "n": n,
        "size": size,
        "x_t_stride": x_t_stride,
        "x_0_stride": x_0_stride,
        "noise_stride": noise_stride,
        "signal_scale_stride": signal_scale.stride(0),
        "noise_scale_stride": noise_scale.stride(0),
    }
    return Launch(_add_noise_kernel, grid_of(block, x_0=x_0), arguments, {"BLOCK": block})


def normal(
    seed: Tensor,  # [B] int64
    step: Tensor,  # [B] int64
    stream: int,
    shape: Sequence[int],  # of one sample: (C, H, W)
) -> Tensor:  # [B, *shape] float32
    """Standard normals that are a function of (seed, step, stream, element)."""
    z = torch.empty(seed.shape[0], *shape, dtype=torch.float32, device=seed.device)
    normal_launch(z, seed, step, stream).run()
    return z


def add_noise(
    x_0: Tensor,  # [B, C, H, W]
    signal_scale: Tensor,  # [B]
    noise_scale: Tensor,  # [B]
    noise: Tensor,  # [B, C, H, W]
) -> Tensor:  # [B, C, H, W] in x_0's dtype
    """x_t = signal_scale x_0 + noise_scale z: q(x_t | x_0) in closed form (Ho et al. 2020, eq. 4)."""
    x_t = torch.empty_like(x_0)
    add_noise_launch(x_t, x_0, signal_scale, noise_scale, noise).run()
    return x_t
