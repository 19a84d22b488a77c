"""The attention kernels on a CPU: builds the emulator, and hands it tensors."""

import functools
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fewstep_kernels.attention_call import check_attention, prepare, refusal
from support.tree import ROOT, load

SHARED_LIMITS = {80: 101_376, 90: 232_448}  # bytes of a block: on sm_86, sm_89 and sm_120; on sm_90
FEW, MANY = 1, 10_000  # multiprocessors: so few that blocks are large, so many that they are small


@functools.cache
def builder() -> ModuleType:
    """csrc/ninja_build.py."""
    module = load("ninja_build", ROOT / "csrc" / "ninja_build.py")
    try:
        module.compiler()
    except module.BuildError as missing:
        pytest.skip(str(missing))
    return module


@functools.cache
def cuda_builder() -> ModuleType:
    """csrc/cuda_build.py, where there is nvcc."""
    module = load("cuda_build", ROOT / "csrc" / "cuda_build.py")
    if module.nvcc() is None:
        pytest.skip("nvcc is not installed here")
    return module


@functools.cache
def emulator() -> ModuleType:
    """fewstep_kernels._sim, built if a source has changed."""
    return load("fewstep_kernels._sim", builder().build_emulator(ROOT / "build" / "sim"))


def extent(x: Tensor, writable: bool) -> tuple[int, int, bool]:
    """The bytes from the first element of a view to its last."""
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), (last + 1) * x.element_size(), writable


def simulate(
    q: Tensor,  # [B, Lq, H, D]
    k: Tensor,  # [B, Lk, H, D]
    v: Tensor,  # [B, Lk, H, D]
    scale: float | None = None,
    *,
    module: Any = None,
    multiprocessors: int = FEW,
    arch: int = 80,
    design: str = "",
    seed: int = 0,
    shared_limit: int | None = None,
) -> tuple[Tensor, dict[str, int]]:
    """The result [B, Lq, H, D], NaN where nothing was written, and what the kernel did."""
    module = emulator() if module is None else module
    check_attention(q, k, v)
    assert refusal(q, k, v, scale) is None
    out = torch.full(q.shape, torch.nan, dtype=q.dtype)
    ranges = [*(extent(each, False) for each in (q, k, v)), extent(out, True)]
    limit = SHARED_LIMITS[arch] if shared_limit is None else shared_limit
    did = module.attention_fwd(*prepare(q, k, v, out, scale, design), multiprocessors, arch, ranges, seed, limit)
    return out, did


def layouts(D: int, Lk: int = 130) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """q, k and v of equal values in different places; NaN lies wherever none of them is."""
    q, k, v = tensors(70, Lk, D, torch.bfloat16)
    B, Lq, H, _ = q.shape

    def buffer(*shape: int) -> Tensor:
        return torch.full(shape, torch.nan, dtype=q.dtype)

    packed = buffer(B, k.shape[1], 3, H, D)
    packed[:, :Lq, 0], packed[:, :, 1], packed[:, :, 2] = q, k, v
    padded = buffer(3, B, k.shape[1] + 3, H, D + 8)
    padded[0, :, 2 : Lq + 2, :, :D], padded[1, :, 2:-1, :, :D], padded[2, :, 2:-1, :, :D] = q, k, v
    q_rows, k_rows, v_rows = (each.reshape(B, -1, H * D) for each in (q, k, v))
    return {
        "contiguous": (q, k, v),
        "heads before tokens": tuple(each.transpose(1, 2).contiguous().transpose(1, 2) for each in (q, k, v)),
        "packed qkv": (packed[:, :Lq, 0], packed[:, :, 1], packed[:, :, 2]),
        "padded on every side": (padded[0, :, 2 : Lq + 2, :, :D], padded[1, :, 2:-1, :, :D], padded[2, :, 2:-1, :, :D]),
        "heads within channels": tuple(each.unflatten(-1, (H, D)) for each in (q_rows, k_rows, v_rows)),
    }


def rising(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Logits that grow from the last key to the first, the order in which sm_90a's kernel takes tiles of them.

    Those of every other query grow by a lot, to 2^180, the rest by little.
    """
    grown = torch.linspace(8, 0.01, k.shape[1])[:, None, None].to(k.dtype)
    much = torch.where(torch.arange(q.shape[1]) % 2 == 0, 4.0, 0.25)[:, None, None].to(q.dtype)
    return q.abs() * much, k.abs() * grown


def of_torch(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """Attention by torch's own, in the dtype of q."""
    heads_first = (each.transpose(1, 2) for each in (q, k, v))
    return functional.scaled_dot_product_attention(*heads_first, scale=scale).transpose(1, 2)


def errors(out: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> tuple[float, float]:
    """The relative L2 distances from float64 of `out` and of torch's own in the same dtype."""
    exact = of_torch(q.double(), k.double(), v.double(), scale)

    def distance(x: Tensor) -> float:
        return float((x.double() - exact).norm() / exact.norm())

    return distance(out), distance(of_torch(q, k, v, scale))


def judge(out: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> None:
    """At most twice as far from float64 as torch's own in the same dtype."""
    ours, theirs = errors(out, q, k, v, scale)
    print(f"{list(q.shape)} x {k.shape[1]} keys, {q.dtype}: relative L2 {ours:.2e}, torch's own {theirs:.2e}")
    assert ours <= 2 * theirs


def tensors(
    Lq: int, Lk: int, D: int, dtype: torch.dtype, B: int = 2, H: int = 2, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Normal q, k and v in the kernel's layout."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(B, L, H, D, generator=generator).to(dtype) for L in (Lq, Lk, Lk))
    return q, k, v
