"""Launches of the Triton kernels at sizes beyond what one axis of a CUDA grid holds, on tensors without memory."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep_kernels import STREAM_STEP, reference
from fewstep_kernels.fused import group_norm_silu, norms, variants
from fewstep_kernels.fused.biased import bias_residual_launch
from fewstep_kernels.fused.gated import geglu_launch
from fewstep_kernels.fused.launch import Launch, grid_of
from fewstep_kernels.fused.layer_norms import layer_norm_launch
from fewstep_kernels.fused.noising import normal, normal_launch
from fewstep_kernels.fused.norms import group_norm_silu_launches
from fewstep_kernels.fused.posterior import posterior_update_launch
from fewstep_kernels.fused.timesteps import timestep_embedding_launch

CUDA_GRID = (2**31 - 1, 65_535, 65_535)  # "Maximum x-, y- or z-dimension of a grid", CUDA C++ Programming Guide
NORM_SHAPES = {"one launch": (64, 1, 1, 8), "two launches": (24, 63, 21, 3), "one channel": (1, 40, 40, 1)}


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def norm_launches(batch: int, channels: int, height: int, width: int, groups: int) -> list[Launch]:
    x, weight = meta(batch, channels, height, width), meta(channels)
    return group_norm_silu_launches(x, x, weight, weight, groups, 1e-5)


def launches(batch: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, Launch]:
    """Every kernel in every form that is compiled ahead of time, for so many samples, each with two lanes."""
    found: dict[str, Launch] = {}
    monkeypatch.setattr(variants, "SAMPLES", batch)
    monkeypatch.setattr(variants, "LANES", 2 * batch)
    monkeypatch.setattr(variants, "_integers", lambda: meta(batch, dtype=torch.int64))
    monkeypatch.setattr(variants, "variant", lambda name, launch, vectorised=False: found.update({name: launch}))
    variants.variants()
    for name, shape in NORM_SHAPES.items():
        found |= {f"group_norm_silu {name} {i}": each for i, each in enumerate(norm_launches(batch, *shape))}
    return found


@pytest.mark.parametrize("batch", [65_536, 70_000])
def test_every_grid_holds_a_batch_beyond_65535(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = launches(batch, monkeypatch)
    kernels = {launch.kernel.__name__ for launch in found.values()}
    assert len(kernels) == 11, kernels
    for name, launch in found.items():
        assert all(n <= most for n, most in zip(launch.grid, CUDA_GRID, strict=False)), (name, launch.grid)
        assert launch.grid[0] == (1 if name.startswith("begin_step") else batch), name


def test_a_sample_beyond_the_grid_is_named() -> None:
    block = 512
    most = 65_535 * block
    assert grid_of(block, x=meta(3, 1, 1, most)) == (3, 65_535)
    with pytest.raises(ValueError, match=rf"shape: got a sample of \[1, 1, {most + 1}\]; allowed: at most {most} el"):
        normal_launch(meta(2, 1, 1, most + 1), *(meta(2, dtype=torch.int64) for _ in range(2)), STREAM_STEP)
    x = meta(1, 1, 1, most + 1)
    with pytest.raises(ValueError, match=rf"x: got a sample of \[1, 1, {most + 1}\]"):
        posterior_update_launch(x, x, x, x, meta(1, 22), None, None)


def test_more_groups_than_the_grid_holds_are_named() -> None:
    (launch,) = norm_launches(1, 65_535, 1, 2, 65_535)
    assert launch.grid == (1, 1, 65_535)
    with pytest.raises(ValueError, match="groups: got 65536; allowed: at most 65535 at 65536 channels"):
        norm_launches(1, 65_536, 1, 2, 65_536)


def test_a_layer_has_as_many_rows_as_memory_holds() -> None:
    """A hundred million rows, which are beyond one axis of a grid and, of 64 values, beyond 32 bits."""
    rows, weight = meta(10**8, 64), meta(64)
    launches = [
        geglu_launch(meta(10**8, 32), rows),
        layer_norm_launch(rows, None, rows, None, weight, weight, 1e-5),
        bias_residual_launch(image := meta(10**6, 64, 10, 10), image, weight, image),
        timestep_embedding_launch(meta(10**8, 2), meta(10**8), True, 0.0),
    ]
    for launch in launches:
        assert 10**6 < launch.grid[0] <= CUDA_GRID[0]
        assert launch.grid[1:] in ((), (1,))


@pytest.mark.parametrize("grid", [(2**31,), (1, 65_536), (1, 1, 65_536)], ids=["x", "y", "z"])
def test_no_launch_has_a_larger_grid(grid: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"grid of _normalise_kernel: got \(.*; allowed: at most \(2147483647, 65535"):
        Launch(norms._normalise_kernel, grid, {})


@pytest.mark.gpu
def test_seventy_thousand_samples_on_a_gpu() -> None:
    seeds = torch.arange(70_000, device="cuda")
    steps = torch.zeros_like(seeds)
    z = normal(seeds, steps, STREAM_STEP, (4, 1, 1))
    exact = reference.normal(seeds, steps, STREAM_STEP, (4, 1, 1))
    torch.testing.assert_close(z, exact, rtol=1e-6, atol=1e-6)
    weight = torch.ones(4, device="cuda")
    given: dict[str, Any] = {"weight": weight, "bias": weight, "groups": 2, "eps": 1e-5}
    assert torch.equal(group_norm_silu(z, **given)[-1:], group_norm_silu(z[-1:].contiguous(), **given))
