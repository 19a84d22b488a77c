"""group_norm_silu as a CPU runs it, against float64 and its twin, over maps and pictures of all kinds."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep_kernels import group_norm_silu, reference
from fewstep_kernels.host_norm import SHARED_PIXELS, TURNED, host_group_norm_silu

SHAPES = {  # B, C, H, W, groups
    "one element": (1, 1, 1, 1, 1),
    "one element a group": (2, 4, 1, 1, 4),
    "one channel": (2, 1, 20, 20, 1),
    "63x21": (1, 64, 63, 21, 32),
    "channels == groups": (2, 32, 8, 8, 32),
    "4x4": (1, 256, 4, 4, 32),
    "eight maps of 8x8": (8, 96, 8, 8, 8),
    "16x16": (1, 256, 16, 16, 32),
    "32x32": (1, 64, 32, 32, 32),
    "one group": (1, 64, 32, 32, 1),
    "two of 31x32": (2, 64, 31, 32, 32),
    "64x64": (1, 32, 64, 64, 8),
}
PICTURES: dict[str, Callable[[Tensor], Tensor]] = {
    "noise": lambda noise: noise,
    "a mean beside the spread": lambda noise: noise * 3 + 5,
    "a mean of 1000 spreads": lambda noise: noise * 0.01 + 10,
    "a hot pixel": lambda noise: hot(noise),
    "flat channels": lambda noise: (noise.mean((2, 3), keepdim=True) * 9).expand_as(noise).clone(),
    "flat": lambda noise: torch.full_like(noise, 7.3),
    "hardly anything": lambda noise: noise * 1e-4,
}
FORMS: dict[str, set[str]] = {
    "plain": set(),
    "no silu": set(),
    "scale and shift": {"scale", "shift"},
    "shift before": {"shift_before"},
    "all": {"scale", "shift", "shift_before", "residual"},
}
DRAWS = 2  # where little is left of a picture the error is a single rounding's luck: the worst of some is compared


def hot(noise: Tensor) -> Tensor:
    noise = noise.clone()
    noise[-1, 0, 0, 0] = 1e4
    return noise


def arguments(
    shape: tuple[int, ...], picture: str, form: str, dtype: torch.dtype, layout: torch.memory_format, seed: int = 0
) -> dict[str, Any]:
    batch, channels, height, width, groups = shape
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    drawn = {
        "x": PICTURES[picture](draw(batch, channels, height, width)),
        "weight": draw(channels) * 0.2 + 1,
        "bias": draw(channels),
        "shift_before": draw(batch, channels),
        "scale": draw(batch, channels) * 0.5,
        "shift": draw(batch, channels),
        "residual": draw(batch, channels, height, width),
    }
    kept = {"x", "weight", "bias"} | FORMS[form]
    tensors = {name: each.to(dtype) for name, each in drawn.items() if name in kept}
    tensors["x"] = tensors["x"].contiguous(memory_format=layout)
    return tensors | {"groups": groups, "eps": 1e-5, "silu": form != "no silu"}


def cast(given: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {name: each.to(dtype) if isinstance(each, Tensor) else each for name, each in given.items()}


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_it_errs_as_little_as_the_twin(shape: tuple[int, ...], picture: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        for layout in (torch.channels_last, torch.contiguous_format):
            for form in FORMS:
                mine, theirs, size = 0.0, 0.0, 1.0
                for seed in range(DRAWS):
                    given = arguments(shape, picture, form, dtype, layout, seed)
                    exact = reference.group_norm_silu(**cast(given, torch.float64))
                    ours, twin = host_group_norm_silu(**given), reference.group_norm_silu(**given)
                    assert (ours.dtype, ours.stride()) == (dtype, torch.empty_like(given["x"]).stride())
                    mine = max(mine, float((ours - exact).abs().max()))
                    theirs = max(theirs, float((twin - exact).abs().max()))
                    size = max(size, float(exact.abs().max()))
                if mine > theirs:
                    print(f"{dtype}, {layout}, {form}: ours {mine:.2e}, the twin {theirs:.2e}")
                assert mine <= 2 * theirs + torch.finfo(dtype).eps * size


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("size", [8, 16, 32], ids=["turned", "16x16", "pixels that threads share"])
def test_bits_depend_on_no_slot_and_no_neighbour(size: int, dtype: torch.dtype) -> None:
    shape = (3, 64, size, size, 32)
    assert (3 * 64 * size**2 <= TURNED, size**2 >= SHARED_PIXELS) == (size == 8, size == 32)
    given = arguments(shape, "noise", "all", dtype, torch.channels_last)
    expected = host_group_norm_silu(**given)
    turned = {name: each.roll(1, 0) if name in {"x", *FORMS["all"]} else each for name, each in given.items()}
    assert torch.equal(host_group_norm_silu(**turned).roll(-1, 0), expected)
    given["x"][1] = math.nan
    given["x"][2] *= 100
    assert torch.equal(host_group_norm_silu(**given)[0], expected[0])


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["channels-last", "contiguous"])
@pytest.mark.parametrize("size", [8, 32])
def test_a_nan_stays_in_its_group(size: int, layout: torch.memory_format) -> None:
    given = arguments((2, 24, size, size, 8), "noise", "plain", torch.float32, layout)
    clean = host_group_norm_silu(**given)
    given["x"][1, 0, 2, 3] = math.nan
    ours = host_group_norm_silu(**given)
    assert ours[1, :3].isnan().all()
    assert torch.equal(ours[0], clean[0])
    assert torch.equal(ours[1, 3:], clean[1, 3:])


@pytest.mark.parametrize("size", [4, 32])
def test_nothing_is_written_into_what_was_given(size: int) -> None:
    given = arguments((1, 64, size, size, 8), "noise", "all", torch.float32, torch.channels_last)
    kept = {name: each.clone() for name, each in given.items() if isinstance(each, Tensor)}
    ours = host_group_norm_silu(**given)
    assert all(torch.equal(given[name], each) for name, each in kept.items())
    assert ours.data_ptr() not in {each.data_ptr() for each in given.values() if isinstance(each, Tensor)}


def test_other_memory_and_float64_are_the_twins() -> None:
    given = arguments((2, 24, 8, 8, 8), "noise", "all", torch.float32, torch.channels_last)
    strided = given | {"x": torch.stack([given["x"]] * 2, -1)[..., 0]}
    for case in (strided, cast(given, torch.float64)):
        assert torch.equal(host_group_norm_silu(**case), reference.group_norm_silu(**case))


def test_a_cpu_runs_it() -> None:
    given = arguments((1, 256, 4, 4, 32), "noise", "plain", torch.float32, torch.channels_last)
    x, weight, bias, groups, eps = (given.pop(name) for name in ("x", "weight", "bias", "groups", "eps"))
    assert torch.equal(
        group_norm_silu(x, weight, bias, groups, eps), host_group_norm_silu(x, weight, bias, groups, eps)
    )
