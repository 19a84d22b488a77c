"""The kernels of a network's layers in the forms they are launched in: see `variants`."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fewstep_kernels.fused.biased import bias_residual_launch
from fewstep_kernels.fused.gated import geglu_launch
from fewstep_kernels.fused.launch import Launch
from fewstep_kernels.fused.layer_norms import layer_norm_launch
from fewstep_kernels.fused.timesteps import timestep_embedding_launch
from fewstep_kernels.fused.variants import Variant, variant

WIDE = frozenset({"out_ptr", "total_ptr", "x_ptr", "residual_ptr"})  # weights and biases are small, and read from cache

# Tokens and channels of transformers that exist: two samples of SD 1.5 at 512x512, of SDXL at 1024x1024; and ugly ones.
ROWS = {
    "SD 8192x320": (8192, 320),
    "SD 2048x640": (2048, 640),
    "SD 512x1280": (512, 1280),
    "widest 3x8192": (3, 8192),
    "ragged 63x21": (63, 21),
    "one element": (1, 1),
}
GATED = {
    "SD 8192x1280": (8192, 1280),
    "SD 2048x2560": (2048, 2560),
    "SD 512x5120": (512, 5120),
    "ragged 63x21": (63, 21),
    "one element": (1, 1),
}
MAPS = {
    "SD 64x64x320": (2, 320, 64, 64),
    "SD 8x8x1280": (2, 1280, 8, 8),
    "VAE 1024x1024x128": (1, 128, 1024, 1024),
    "out 64x64x4": (2, 4, 64, 64),
    "ragged 63x21": (3, 21, 63, 21),
    "one element": (1, 1, 1, 1),
}


def layer_variants() -> list[Variant]:
    """Each kernel at the shapes above, in the dtypes it takes; what is a multiple of 16 bytes must be read in those."""
    return [*_layer_norms(), *_gated(), *_biased(), *_timesteps()]


def _described(name: str, launch: Launch) -> Variant:
    x = launch.arguments["x_ptr"]
    whole = launch.constants["VECTOR"] * x.element_size() == 16
    return replace(variant(name, launch), wide=WIDE if whole else frozenset())


def _empty(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _named(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, torch.dtype, tuple[int, ...]]]:
    """Every shape in bfloat16, the first in float16, and those in float32 whose kernels are the largest."""
    first = next(iter(shapes))
    for name, shape in shapes.items():
        yield f"{name} bfloat16", torch.bfloat16, shape
        if name == first:
            yield f"{name} float16", torch.float16, shape
        if name == first or name.startswith(("widest", "ragged")):
            yield f"{name} float32", torch.float32, shape


def _layer_norms() -> Iterator[Variant]:
    for name, dtype, (rows, columns) in _named(ROWS):
        x, weight = _empty(rows, columns, dtype=dtype), _empty(columns, dtype=dtype)
        yield _described(f"layer_norm {name}", layer_norm_launch(x, None, x, None, weight, weight, 1e-5))
        yield _described(f"add_layer_norm {name}", layer_norm_launch(x, x, x, x, weight, weight, 1e-5))


def _gated() -> Iterator[Variant]:
    for name, dtype, (rows, columns) in _named(GATED):
        launch = geglu_launch(_empty(rows, columns, dtype=dtype), _empty(rows, 2 * columns, dtype=dtype))
        yield _described(f"geglu {name}", launch)


def _biased() -> Iterator[Variant]:
    for name, dtype, shape in _named(MAPS):
        x, bias = _empty(*shape, dtype=dtype), _empty(shape[1], dtype=dtype)
        yield _described(f"bias_residual {name} contiguous", bias_residual_launch(x, x, bias, x))
        last = x.to(memory_format=torch.channels_last)
        yield _described(f"bias_residual {name} channels-last", bias_residual_launch(last, last, bias, last))


def _timesteps() -> Iterator[Variant]:
    for dtype in (torch.float32, torch.int64):
        t, name = _empty(4, dtype=dtype), str(dtype).removeprefix("torch.")
        launch = timestep_embedding_launch(_empty(4, 320, dtype=torch.float32), t, True, 0.0)
        yield variant(f"timestep_embedding {name}", launch)
    t = _empty(1, dtype=torch.float32)
    launch = timestep_embedding_launch(_empty(1, 7, dtype=torch.float32), t, False, 1.0)
    yield variant("timestep_embedding odd width, sine first", launch)
