"""The Triton kernels of group_norm_silu against float64, in both layouts, with everything around the norm.

Without a GPU they run in Triton's interpreter; with one, `-m gpu` runs the same tests through its compiler.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fewstep_kernels import reference
from fewstep_kernels.fused import norms
from support.devices import KERNEL_DEVICES

pytestmark = pytest.mark.slow

CHANNELS_LAST, CONTIGUOUS = torch.channels_last, torch.contiguous_format
LAYOUTS = {"channels-last": CHANNELS_LAST, "contiguous": CONTIGUOUS}
REAL, WHOLE_BYTES = norms._TILE, norms._WHOLE_BYTES


class Map(NamedTuple):
    """A shape, its groups, and the values of a tile: fewer than there are on a GPU, and a small map has several."""

    batch: int
    channels: int
    height: int
    width: int
    groups: int
    tile: int = REAL


SHAPES = {
    "one element a group": Map(2, 4, 1, 1, 4),
    "one pixel": Map(1, 64, 1, 1, 8),
    "one channel": Map(2, 1, 20, 20, 1),
    "8x8 in one launch": Map(2, 40, 8, 8, 4),
    "channels == groups": Map(2, 8, 8, 8, 8),
    "one group": Map(1, 6, 5, 3, 1),
    "batch of five": Map(5, 12, 7, 9, 3),
    "63x21, tiles as on a GPU": Map(1, 24, 63, 21, 3),
    "9x15, ragged tiles": Map(1, 16, 9, 15, 2, 512),
    "groups of ten, a ragged program": Map(1, 130, 3, 4, 13, 512),
    "five groups of ten": Map(1, 50, 3, 11, 5, 256),
    "one group of many channels": Map(1, 200, 3, 2, 1, 512),
    "two tiles a slab": Map(1, 4, 5, 7, 2, 64),
    "a last slab of one pixel": Map(1, 4, 3, 11, 2, 64),
}
FORMS: dict[str, dict[str, bool]] = {
    "plain": {},
    "no silu": {"silu": False},
    "shift before": {"shift_before": True},
    "scale and shift": {"scale": True, "shift": True},
    "residual": {"residual": True},
    "all": {"shift_before": True, "scale": True, "shift": True, "residual": True},
}
SPLIT, WHOLE = SHAPES["9x15, ragged tiles"], SHAPES["8x8 in one launch"]
LAUNCHES = pytest.mark.parametrize("size", [SPLIT, WHOLE], ids=["two launches", "one launch"])


@pytest.fixture(params=KERNEL_DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output and workspace start as NaN, so that what no program writes shows."""

    def filled(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *args, **kwargs: make(*args, **kwargs).fill_(math.nan)

    monkeypatch.setattr(torch, "empty_like", filled(torch.empty_like))
    monkeypatch.setattr(Tensor, "new_empty", filled(Tensor.new_empty))


def arguments(
    size: Map,
    form: str = "all",
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = CHANNELS_LAST,
    device: str = "cpu",
    mean: float = 5.0,
    std: float = 3.0,
) -> dict[str, Any]:
    """All arguments of the op, drawn from the shape alone."""
    batch, channels, height, width, groups, _ = size
    generator = torch.Generator().manual_seed(channels * height + width)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    image = (batch, channels, height, width)
    drawn = {
        "x": (draw(*image) * std + mean).to(memory_format=layout),
        "weight": draw(channels) * 0.2 + 1,
        "bias": draw(channels),
        "shift_before": draw(batch, channels),
        "scale": draw(batch, channels) * 0.5,
        "shift": draw(batch, channels),
        "residual": draw(*image).to(memory_format=layout),
    }
    kept = {"x", "weight", "bias", *(name for name, wanted in FORMS[form].items() if wanted)}
    tensors = {name: each.to(device, dtype) for name, each in drawn.items() if name in kept}
    return tensors | {"groups": groups, "eps": 1e-5, "silu": FORMS[form].get("silu", True)}


def normed(given: dict[str, Any], tile: int) -> Tensor:
    """The op, with so many values in a tile."""
    with pytest.MonkeyPatch.context() as patched:
        set_tile(patched, tile)
        return norms.group_norm_silu(**given)


def set_tile(patched: pytest.MonkeyPatch, tile: int) -> None:
    """What a call takes for a tile, and for a map of one, in the proportion of a GPU."""
    patched.setattr(norms, "_TILE", tile)
    patched.setattr(norms, "_WHOLE_BYTES", WHOLE_BYTES * tile // REAL)


def twin(arguments: dict[str, Any], dtype: torch.dtype) -> Tensor:
    """The definition in a dtype, on contiguous memory, where torch's own variance is centred."""
    cast = {name: each.to(dtype).contiguous() for name, each in arguments.items() if isinstance(each, Tensor)}
    residual = cast.pop("residual", 0)
    rest = {name: value for name, value in arguments.items() if name != "residual"}
    return reference.group_norm_silu(**rest | cast) + residual


def assert_as_good(ours: Tensor, arguments: dict[str, Any], dtype: torch.dtype = torch.float32) -> None:
    """At most twice the twin's own error against float64 in that dtype, plus one eps."""
    exact = twin(arguments, torch.float64)
    mine, theirs = ((each.double() - exact).abs().max().item() for each in (ours, twin(arguments, dtype)))
    print(f"ours {mine:.2e}, torch {theirs:.2e}")
    assert mine <= 2 * theirs + torch.finfo(dtype).eps * max(1.0, exact.abs().max().item())


def test_shapes_are_what_they_are_called() -> None:
    def cut(name: str, channels_last: bool = True) -> norms.Settings:
        _, channels, height, width, groups, tile = SHAPES[name]
        return norms.settings(channels, height * width, groups, 4, channels_last, tile, WHOLE_BYTES * tile // REAL)

    assert cut("8x8 in one launch").whole
    assert not cut("63x21, tiles as on a GPU").whole
    assert not any(cut("9x15, ragged tiles", channels_last).whole for channels_last in (True, False))
    assert cut("two tiles a slab").tiles == cut("a last slab of one pixel").tiles == 2
    last = cut("two tiles a slab").slabs - 1
    assert cut("two tiles a slab").block_l > 5 * 7 - last * 2 * cut("two tiles a slab").block_l
    assert 3 * 11 % (2 * cut("a last slab of one pixel").block_l) == 1
    assert cut("groups of ten, a ragged program").groups * cut("groups of ten, a ragged program").programs > 13
    five = cut("five groups of ten", channels_last=False)
    assert five.groups * five.programs > 5
    assert not five.whole


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("size", SHAPES.values(), ids=SHAPES.keys())
def test_every_shape_is_as_good_as_torch(device: str, size: Map, layout: torch.memory_format) -> None:
    given = arguments(size, layout=layout, device=device)
    ours = normed(given, size.tile)
    assert ours.stride() == given["x"].stride()
    assert_as_good(ours, given)


@LAUNCHES
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_as_good_as_torch(device: str, form: str, size: Map) -> None:
    given = arguments(size, form, device=device)
    assert_as_good(normed(given, size.tile), given)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@LAUNCHES
def test_narrow_inputs_are_computed_in_float32(
    device: str, size: Map, dtype: torch.dtype, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = arguments(size, dtype=dtype, layout=layout, device=device)
    wide = torch.empty_like(given["x"], dtype=torch.float32)
    set_tile(monkeypatch, size.tile)
    for launch in norms.group_norm_silu_launches(wide, **given):
        launch.run()
    assert_as_good(wide, given)
    narrow = norms.group_norm_silu(**given)
    assert (narrow.dtype, narrow.stride()) == (dtype, given["x"].stride())
    rounding = torch.finfo(dtype).eps * wide.abs() + torch.finfo(dtype).tiny  # the interpreter truncates bfloat16
    assert ((narrow.float() - wide).abs() <= rounding).all()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("size", [Map(1, 8, 12, 12, 2, 256), Map(1, 16, 8, 8, 4)], ids=["two launches", "one launch"])
def test_a_mean_far_larger_than_the_spread_keeps_the_variance(
    device: str, size: Map, layout: torch.memory_format
) -> None:
    """Mean 1e3, std 1e-2: E[x^2] - E[x]^2 in float32 would be off by more than the variance itself."""
    given = arguments(size, "plain", layout=layout, device=device, mean=1e3, std=1e-2)
    ours = normed(given, size.tile)
    assert_as_good(ours, given)
    assert (ours.double() - twin(given, torch.float64)).abs().max() < 0.02


@pytest.mark.parametrize("size", [pytest.param(each, id=name) for name, each in SHAPES.items() if each != SPLIT])
def test_a_sample_is_the_same_bits_alone_and_in_a_batch(device: str, size: Map) -> None:
    given = arguments(size._replace(batch=2), device=device)
    together, again = normed(given, size.tile), normed(given, size.tile)
    assert torch.equal(together, again)
    per_sample = {"x", "shift_before", "scale", "shift", "residual"}
    alone = {name: each[1:2] if name in per_sample else each for name, each in given.items()}
    assert torch.equal(together[1:2], normed(alone, size.tile))


@LAUNCHES
def test_a_nan_stays_in_its_group(device: str, size: Map) -> None:
    given = arguments(size._replace(batch=2), device=device)
    clean = normed(given, size.tile)
    given["x"][1, 0, 2, 3] = math.nan
    ours = normed(given, size.tile)
    own = size[1] // size[4]
    assert ours[1, :own].isnan().all()
    assert torch.equal(ours[0], clean[0])
    assert torch.equal(ours[1, own:], clean[1, own:])


def test_any_strides_are_read(device: str) -> None:
    size = Map(2, 200, 3, 11, 1)
    assert not norms.settings(200, 33, 1, 4, channels_last=True).whole
    given = arguments(size, device=device)
    expected = norms.group_norm_silu(**given)
    columns = torch.stack([given[name] for name in ("shift_before", "scale", "shift")], 1).flatten(1)
    names = zip(("shift_before", "scale", "shift"), columns.chunk(3, dim=1), strict=True)
    assert torch.equal(expected, norms.group_norm_silu(**given | dict(names)))
    assert torch.equal(expected, norms.group_norm_silu(**given | {"residual": given["residual"].contiguous()}))
    wider = torch.zeros(2, 203, 3, 11, device=device).to(memory_format=CHANNELS_LAST)
    wider[:, 1:-2] = given["x"]
    turned = given["x"].permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    for x in (wider[:, 1:-2], turned):
        ours = norms.group_norm_silu(**given | {"x": x})
        assert torch.equal(expected, ours)
        assert ours.stride() == torch.empty_like(x).stride()


def test_scale_without_shift_is_not_used(device: str) -> None:
    given = arguments(SPLIT, "scale and shift", device=device)
    plain = normed({name: each for name, each in given.items() if name not in ("scale", "shift")}, SPLIT.tile)
    assert torch.equal(plain, normed(given | {"shift": None}, SPLIT.tile))


def test_the_second_launch_alone_is_dependent_and_awaits_the_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    def launched(size: Map) -> list[tuple[bool, tuple[str, ...], bool]]:
        set_tile(monkeypatch, size.tile)
        launches = norms.group_norm_silu_launches(torch.empty(size[:4]), **arguments(size), dependent=True)
        return [(each.constants["DEPENDENT"], each.awaits, "launch_pdl" in each.options) for each in launches]

    assert launched(SPLIT) == [(True, (), False), (True, ("moments_ptr",), True)]
    assert launched(WHOLE) == [(False, (), False)]


def test_a_dependent_launch_gives_the_same_bits(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the device has none, a CPU or sm_80, it is not asked for. A workspace read too early is NaN."""
    given = arguments(Map(4, 320, 64, 64, 32) if device == "cuda" else Map(1, 200, 3, 11, 1), device=device)
    expected = norms.group_norm_silu(**given)
    monkeypatch.setattr(norms, "_DEPENDENT", True)
    for _ in range(200 if device == "cuda" else 1):
        assert torch.equal(expected, norms.group_norm_silu(**given))


def test_an_empty_batch_launches_nothing(device: str) -> None:
    given = arguments(SPLIT, device=device)
    empty = {name: each[:0] for name, each in given.items() if isinstance(each, Tensor) and each.ndim > 1}
    assert norms.group_norm_silu(**given | empty).shape == (0, *SPLIT[1:4])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.ones(1, 16, 4, 4, dtype=torch.float64)}, TypeError, "x: got torch.float64"),
        ({"groups": 5}, ValueError, "groups: got 5; allowed: a divisor of 16 channels"),
        ({"groups": 0}, ValueError, "groups: got 0"),
        ({"weight": torch.ones(15)}, ValueError, "weight: got"),
        ({"scale": torch.ones(16)}, ValueError, "scale: got"),
        ({"residual": torch.ones(1, 16, 9, 14)}, ValueError, "residual: got"),
    ],
    ids=["float64", "groups that do not divide", "no groups", "short weight", "scale of no sample", "residual"],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message.replace("(", r"\(")):
        norms.group_norm_silu(**arguments(SPLIT) | change)


@given(
    own=st.integers(1, 200), groups=st.integers(1, 64), pixels=st.integers(1, 2**21), itemsize=st.sampled_from([2, 4]),
    channels_last=st.booleans(),
)  # fmt: skip
@settings(max_examples=300)
def test_every_cut_covers_the_sample_once(
    own: int, groups: int, pixels: int, itemsize: int, channels_last: bool
) -> None:
    cut = norms.settings(own * groups, pixels, groups, itemsize, channels_last)
    assert (cut.slabs - 1) * cut.tiles * cut.block_l < pixels <= cut.slabs * cut.tiles * cut.block_l
    assert (cut.programs - 1) * cut.groups < groups <= cut.programs * cut.groups
    assert cut.groups * own <= cut.block_c
    assert cut.groups * own % cut.channel_vector == 0
    assert own * groups % cut.channel_vector == 0
    assert pixels % cut.pixel_vector == 0
    assert 1 <= cut.num_warps <= 16
    if channels_last and own * groups % (16 // itemsize) == 0 and own <= 16:
        assert cut.channel_vector == 16 // itemsize
