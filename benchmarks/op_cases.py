"""Which ops are measured, on which tensors: the one registry of `ops.py`, `norm_sweep.py` and `pytest benchmarks/`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import op_layers
import op_samplers
import torch
from attention_cases import CASES as ATTENTION
from op_steps import Kind, step
from op_work import Work

Shape = tuple[int, ...]
Make = Callable[[Shape, torch.dtype, torch.Generator], Work]

# What a sampler works on: batch, channels, height, width.
STATES: dict[str, Shape] = {
    "digits 28x28": (16, 1, 28, 28),
    "CIFAR 32x32": (16, 3, 32, 32),
    "SD 64x64": (2, 4, 64, 64),
    "SD 64x64 batch 8": (8, 4, 64, 64),
    "SDXL 128x128": (2, 4, 128, 128),
    "pixels 256x256": (8, 3, 256, 256),
    "pixels 256x256 batch 64": (64, 3, 256, 256),  # which no cache holds
}
# What a group norm works on; a batch of two is one guided image. "Joined" is a map with its skip beside it.
MAPS: dict[str, Shape] = {
    "digits 28x28": (16, 16, 28, 28),
    "digits 7x7": (16, 96, 7, 7),
    "CIFAR 32x32": (16, 128, 32, 32),
    "CIFAR 16x16": (16, 256, 16, 16),
    "SD 64x64": (2, 320, 64, 64),
    "SD 64x64 joined": (2, 640, 64, 64),
    "SD 32x32": (2, 640, 32, 32),
    "SD 32x32 joined": (2, 1920, 32, 32),
    "SD 16x16": (2, 1280, 16, 16),
    "SD 16x16 joined": (2, 2560, 16, 16),
    "SD 8x8": (2, 1280, 8, 8),
    "SDXL 128x128": (2, 320, 128, 128),
    "SDXL 128x128 joined": (2, 960, 128, 128),
    "SDXL 64x64": (2, 640, 64, 64),
    "SDXL 32x32": (2, 1280, 32, 32),
    "VAE 256x256": (1, 512, 256, 256),
    "VAE 512x512": (1, 256, 512, 512),
    "VAE 1024x1024": (1, 128, 1024, 1024),
}
FEW_MAPS = {name: MAPS[name] for name in ("digits 28x28", "CIFAR 32x32", "SD 64x64", "SD 16x16", "SDXL 128x128")}
ADM_MAPS: dict[str, Shape] = {"ADM 64x64": (4, 192, 64, 64), "ADM 32x32": (4, 384, 32, 32), "ADM 8x8": (4, 768, 8, 8)}
# Tokens and channels of a transformer.
TOKENS: dict[str, Shape] = {
    "SD 64x64": (8192, 320),
    "SD 32x32": (2048, 640),
    "SD 16x16": (512, 1280),
    "SDXL 64x64": (8192, 640),
    "SDXL 32x32": (2048, 1280),
}
GATED = {name: (tokens, 8 * channels) for name, (tokens, channels) in TOKENS.items()}
TIMES: dict[str, Shape] = {"CIFAR": (16, 128), "SD": (2, 320)}
HEADS: dict[str, Shape] = {each.name: (each.B, each.H, each.Lq, each.Lk, each.D) for each in ATTENTION}

HALF, SINGLE = torch.bfloat16, torch.float32
ON_CPU_BYTES, ON_CPU_OPERATIONS = 48 * 2**20, 2e9  # the most of a call that a CPU is asked for unless by name


@dataclass(frozen=True)
class Op:
    """An op and where it is used.

    Attributes:
        make: its tensors, and who works on them.
        shapes: by the place in a network or a sampler.
        tiny: the shape of a dry run.
        dtypes: that it is measured in, the usual one of a GPU first.
    """

    make: Make
    shapes: Mapping[str, Shape]
    tiny: Shape
    dtypes: tuple[torch.dtype, ...] = (HALF, SINGLE)


_STATE, _MAP = (2, 3, 4, 5), (2, 64, 7, 9)
OPS: dict[str, Op] = {
    "add_noise": Op(op_samplers.add_noise, STATES, _STATE),
    "cfg_combine": Op(op_samplers.cfg_combine, STATES, _STATE),
    "cfg_combine rescaled": Op(op_samplers.cfg_rescale, STATES, _STATE),
    "posterior_update": Op(op_samplers.posterior_update, STATES, _STATE),
    "denoise_step": Op(step(Kind(whole=False)), STATES, _STATE),
    "step": Op(step(Kind()), STATES, _STATE),
    "step one lane": Op(step(Kind(guided=False)), STATES, _STATE),
    "step no noise": Op(step(Kind("ddim")), STATES, _STATE),
    "step statistics": Op(step(Kind(statistics=True)), STATES, _STATE),
    "group_norm_silu": Op(op_layers.group_norm_silu, MAPS, (1, 64, 21, 21)),  # in two launches
    "group_norm_silu scale and shift": Op(op_layers.group_norm_scale_shift, ADM_MAPS, _MAP),
    "layer_norm": Op(op_layers.layer_norm, TOKENS, (63, 21)),
    "add_layer_norm": Op(op_layers.add_layer_norm, TOKENS, (63, 21)),
    "geglu": Op(op_layers.geglu, GATED, (63, 42)),
    "bias_residual": Op(op_layers.bias_residual, FEW_MAPS, _MAP),
    "timestep_embedding": Op(op_layers.timestep_embedding, TIMES, (3, 32), (SINGLE,)),
    "attention": Op(op_layers.attention, HEADS, (1, 2, 33, 20, 40)),
}


def short(dtype: torch.dtype) -> str:
    """Its name without torch's."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class OpCase:
    """An op at a place of a network, in a dtype."""

    op: str
    place: str
    shape: Shape
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.op}, {self.place}, {short(self.dtype)}"

    def work(self, device: torch.device) -> Work:
        """Its tensors there, the same at every call."""
        return OPS[self.op].make(self.shape, self.dtype, torch.Generator(device).manual_seed(0))

    @property
    def values(self) -> int:
        """About how many numbers are read."""
        if self.op == "attention":
            B, H, Lq, Lk, D = self.shape
            return B * H * D * (Lq + 2 * Lk)
        found = 1
        for extent in self.shape:
            found *= extent
        return found

    @property
    def fits_a_cpu(self) -> bool:
        """Whether a CPU is done with it in a moment."""
        if self.op == "attention":
            B, H, Lq, Lk, D = self.shape
            return 4 * B * H * Lq * Lk * D <= ON_CPU_OPERATIONS
        return self.values * self.dtype.itemsize <= ON_CPU_BYTES


def tiny_cases() -> list[OpCase]:
    """Those of a dry run: each op once, in the dtype that Triton's interpreter is sure of."""
    return [OpCase(name, "tiny", op.tiny, SINGLE) for name, op in OPS.items()]


def cases(device: torch.device, only: str = "") -> list[OpCase]:
    """All of a device, every op once before any of them twice; `only` is part of a case's name.

    In the dtype that is usual on the device all shapes, in the other the first. A GPU begins with Stable Diffusion, a
    CPU with the smallest shape, and it comes to what takes it long only if that is asked for.
    """
    gpu = device.type == "cuda"
    ranked = []
    for name, op in OPS.items():
        first, *others = op.dtypes if gpu else op.dtypes[::-1]
        found = [OpCase(name, place, shape, first) for place, shape in op.shapes.items()]
        found.sort(key=lambda case: not case.place.startswith("SD ") if gpu else case.values)
        found += [OpCase(name, found[0].place, found[0].shape, dtype) for dtype in others]
        ranked += list(enumerate(each for each in found if gpu or only or each.fits_a_cpu))
    return [case for _, case in sorted(ranked, key=lambda pair: pair[0]) if only in str(case)]
