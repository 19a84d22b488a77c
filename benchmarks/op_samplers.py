"""The ops of a sampler beside the same in plain torch: noising, guidance, the posterior.

A function here takes [B, C, H, W], the dtype and a generator, whose device the tensors are on.
"""

import torch
from op_layers import Shape, normal
from op_work import Work, rounded, work
from torch import Tensor

import fewstep_kernels
from fewstep import schedules
from fewstep.diffusion.samplers import make_plan
from fewstep_kernels import COLUMN, COLUMNS

W, PHI = 7.5, 0.7  # guidance scale and rescale as they are often chosen


def add_noise(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Work:
    """What training does to its images, each at a time of its own."""

    def eager(x_0: Tensor, signal_scale: Tensor, noise_scale: Tensor, noise: Tensor) -> Tensor:
        signal, scale = (each.to(x_0.dtype)[:, None, None, None] for each in (signal_scale, noise_scale))
        return signal * x_0 + scale * noise

    level = torch.rand(shape[0], generator=generator, device=generator.device)
    scales = {"signal_scale": level.sqrt(), "noise_scale": (1 - level).sqrt()}
    given = {name: rounded(value, dtype) for name, value in scales.items()}
    given |= {name: normal(shape, dtype, generator) for name in ("x_0", "noise")}
    return work(fewstep_kernels.add_noise, eager, given)


def cfg_combine(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Work:
    """Guidance of two halves of a network's answer."""
    w, phi = (torch.full(shape[:1], value, device=generator.device) for value in (W, 0.0))

    def ours(cond: Tensor, uncond: Tensor) -> Tensor:
        return fewstep_kernels.cfg_combine(cond, uncond, w, phi)

    def eager(cond: Tensor, uncond: Tensor) -> Tensor:
        return uncond + W * (cond - uncond)

    return work(ours, eager, {name: normal(shape, dtype, generator) for name in ("cond", "uncond")})


def cfg_rescale(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Work:
    """Guidance whose result is brought back to the spread of the conditional half."""
    w, phi = (torch.full(shape[:1], value, device=generator.device) for value in (W, PHI))

    def ours(cond: Tensor, uncond: Tensor) -> Tensor:
        return fewstep_kernels.cfg_combine(cond, uncond, w, phi)

    def eager(cond: Tensor, uncond: Tensor) -> Tensor:
        m = uncond + W * (cond - uncond)
        rescaled = m * (cond.std(dim=(1, 2, 3), keepdim=True) / m.std(dim=(1, 2, 3), keepdim=True))
        return PHI * rescaled + (1 - PHI) * m

    return work(ours, eager, {name: normal(shape, dtype, generator) for name in ("cond", "uncond")})


def posterior_update(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Work:
    """A row of DDPM: x' = a x + b x_0 + s z, its coefficients gathered for each sample."""
    columns = torch.from_numpy(make_plan("ddpm", schedules.scaled_linear(), 50).rows[25].copy())
    row = rounded(columns.to(generator.device), dtype).expand(shape[0], len(COLUMNS)).contiguous()

    def ours(x: Tensor, x_0: Tensor, z: Tensor) -> Tensor:
        return fewstep_kernels.posterior_update(x, x_0, x_0, row, z)

    def eager(x: Tensor, x_0: Tensor, z: Tensor) -> Tensor:
        a, b, s = (row[:, COLUMN[name]].to(x.dtype)[:, None, None, None] for name in ("a", "b", "s"))
        return a * x + b * x_0 + s * z

    return work(ours, eager, {name: normal(shape, dtype, generator) for name in ("x", "x_0", "z")})
