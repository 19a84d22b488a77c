"""The Triton kernels of a transformer's layers, of a time's embedding and of a bias, against float64.

Without a GPU they run in Triton's interpreter; with one, `-m gpu` runs the same tests through its compiler.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fewstep_kernels import conv2d_residual, reference
from fewstep_kernels.fused import (
    add_layer_norm,
    bias_residual,
    geglu,
    layer_norm,
    layer_norms,
    rows,
    timestep_embedding,
)
from support.devices import KERNEL_DEVICES

pytestmark = pytest.mark.slow

EPS = 1e-5
ROWS = {
    "one element": (1, 1),
    "63x21": (63, 21),
    "77 tokens of 8": (77, 8),
    "width 320, three samples": (3, 3, 320),
    "width 640": (2, 640),
    "width 1280": (2, 1280),
    "width 2048": (3, 2048),
}
MAPS = {
    "one element": (1, 1, 1, 1),
    "63x21": (1, 2, 63, 21),
    "320 channels": (2, 320, 3, 5),
    "one channel": (2, 1, 7, 9),
    "one pixel": (3, 40, 1, 1),
    "more than one tile of pixels": (1, 2, 33, 20),
}
LAYOUTS = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}
DTYPES = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=lambda each: str(each)[6:]
)


def named(shapes: dict[str, tuple[int, ...]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("shape", shapes.values(), ids=shapes.keys())


@pytest.fixture(params=KERNEL_DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs start as NaN, so that what no program writes shows."""

    def filled(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def poisoned(*args: Any, **kwargs: Any) -> Tensor:
            made = make(*args, **kwargs)
            return made.fill_(math.nan) if made.is_floating_point() else made

        return poisoned

    monkeypatch.setattr(torch, "empty_like", filled(torch.empty_like))
    monkeypatch.setattr(torch, "empty", filled(torch.empty))
    monkeypatch.setattr(Tensor, "new_empty", filled(Tensor.new_empty))


def draw(
    *shape: int, device: str = "cpu", dtype: torch.dtype = torch.float32, mean: float = 0.0, std: float = 1.0
) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return (torch.randn(shape, generator=generator) * std + mean).to(device, dtype)


def affine(width: int, device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return draw(width, device=device, dtype=dtype) * 0.2 + 1, draw(width + 1, device=device, dtype=dtype)[1:]


def assert_as_good(ours: Tensor, twin: Callable[..., Tensor], *given: Any) -> None:
    """At most twice the twin's own error against float64 in the same dtype, plus one eps."""
    exact, theirs = twin(*(each.double() if isinstance(each, Tensor) else each for each in given)), twin(*given)
    mine, other = ((each.double() - exact).abs().max().item() for each in (ours, theirs))
    print(f"ours {mine:.2e}, torch {other:.2e}")
    assert mine <= 2 * other + torch.finfo(ours.dtype).eps * max(1.0, exact.abs().max().item())
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)


@DTYPES
@named(ROWS)
def test_layer_norm_is_as_good_as_torch(device: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = draw(*shape, device=device, dtype=dtype, mean=5.0, std=3.0)
    given = (x, *affine(shape[-1], device, dtype), EPS)
    ours = layer_norm(*given)
    assert ours.is_contiguous()
    assert_as_good(ours, reference.layer_norm, *given)


@DTYPES
@named(ROWS)
def test_a_sum_and_its_norm_are_as_good_as_torch(device: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, residual = (draw(*shape, device=device, dtype=dtype, std=std) for std in (3.0, 0.5))
    given = (x, residual.flip(0), *affine(shape[-1], device, dtype), EPS)
    for which, ours in enumerate(add_layer_norm(*given)):
        assert_as_good(ours, lambda *each, which=which: reference.add_layer_norm(*each)[which], *given)


def test_the_norm_is_of_the_sum_before_it_is_rounded(device: str) -> None:
    x = torch.full((1, 4), 256.0, device=device, dtype=torch.bfloat16)
    residual = torch.tensor([[0.0, 0.25, 0.5, 0.75]], device=device, dtype=torch.bfloat16)
    weight, bias = torch.ones(4, device=device), torch.zeros(4, device=device)
    total, normed = add_layer_norm(x, residual, weight, bias, EPS)
    assert torch.equal(total, x)
    assert normed.float().diff().min() > 0.8


@pytest.mark.parametrize("width", [21, 320, 2048])
def test_a_mean_far_larger_than_the_spread_keeps_the_variance(device: str, width: int) -> None:
    """Mean 1e3, std 1e-2: E[x^2] - E[x]^2 in float32 would be off by more than the variance itself."""
    x = draw(3, width, device=device, mean=1e3, std=1e-2)
    given = (x, *affine(width, device, torch.float32), EPS)
    ours, exact = layer_norm(*given), reference.layer_norm(*(each.double() for each in given[:3]), EPS)
    assert (ours.double() - exact).abs().max() < 1e-5


def test_a_row_is_the_same_bits_alone_and_among_others(device: str) -> None:
    x, (weight, bias) = draw(9, 320, device=device), affine(320, device, torch.float32)
    together = layer_norm(x, weight, bias, EPS)
    assert torch.equal(together[7:8], layer_norm(x[7:8], weight, bias, EPS))
    gated = geglu(x)
    assert torch.equal(gated[7:8], geglu(x[7:8]))


def test_a_nan_stays_in_its_row(device: str) -> None:
    x, (weight, bias) = draw(5, 320, device=device), affine(320, device, torch.float32)
    clean = layer_norm(x, weight, bias, EPS)
    x[2, 17] = math.nan
    ours = layer_norm(x, weight, bias, EPS)
    assert ours[2].isnan().all()
    assert torch.equal(ours[[0, 1, 3, 4]], clean[[0, 1, 3, 4]])


def test_a_row_that_no_program_holds_is_the_twins(device: str) -> None:
    x, (weight, bias) = (
        draw(2, layer_norms._MOST + 1, device=device),
        affine(layer_norms._MOST + 1, device, torch.float32),
    )
    assert torch.equal(layer_norm(x, weight, bias, EPS), reference.layer_norm(x, weight, bias, EPS))
    ours, theirs = (call(x, x, weight, bias, EPS) for call in (add_layer_norm, reference.add_layer_norm))
    assert all(map(torch.equal, ours, theirs))


@DTYPES
@named(ROWS)
def test_geglu_is_as_good_as_torch(device: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = draw(*shape[:-1], 2 * shape[-1], device=device, dtype=dtype, std=2.0)
    assert_as_good(geglu(x), reference.geglu, x)


def test_gelu_is_exact_wherever_float32_is(device: str) -> None:
    """Within 1e-6 of itself, and 2e-5 of it far on the negative side, where torch has lost all digits by -6."""
    b = torch.cat([torch.linspace(-13, 13, 5001), torch.logspace(-30, 1, 500), -torch.logspace(-30, 0, 500)])
    ours = geglu(torch.stack([torch.ones_like(b), b], 1).to(device))[:, 0].double().cpu()
    exact = b.double() * torch.special.erfc(-b.double() / math.sqrt(2)) / 2
    error = ((ours - exact) / exact).abs()
    print(f"{error[b > 0].max():.1e}, {error[b > -5].max():.1e}, {error.max():.1e}")
    assert error[b > 0].max() < 1e-6
    assert error[b > -5].max() < 5e-6
    assert error.max() < 2e-5


def test_gelu_has_limits_and_keeps_a_nan(device: str) -> None:
    b = torch.tensor([math.inf, -math.inf, -200.0, 3e38, -3e38, 0.0, math.nan], device=device)
    ours = geglu(torch.stack([torch.ones_like(b), b], 1))[:, 0]
    assert ours[:6].tolist() == [math.inf, 0.0, 0.0, b[3].item(), 0.0, 0.0]
    assert ours[6].isnan()


@DTYPES
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@named(MAPS)
def test_a_bias_and_a_residual_are_as_good_as_torch(
    device: str, shape: tuple[int, ...], layout: torch.memory_format, dtype: torch.dtype
) -> None:
    x = draw(*shape, device=device, dtype=dtype).to(memory_format=layout)
    bias, residual = draw(shape[1], device=device, dtype=dtype), draw(*shape, device=device, dtype=dtype, std=2.0)
    ours = bias_residual(x, bias, residual)
    assert ours.stride() == x.stride()
    assert_as_good(ours, reference.bias_residual, x, bias, residual)
    assert torch.equal(ours, bias_residual(x, bias, residual.to(memory_format=layout)))


def test_any_strides_are_read(device: str) -> None:
    x, (weight, bias) = draw(4, 6, 5, device=device), affine(5, device, torch.float32)
    wider = draw(4, 6, 11, device=device)
    wider[..., 3:8] = x
    turned = x.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    for each in (wider[..., 3:8], turned):
        assert torch.equal(layer_norm(each, weight, bias, EPS), layer_norm(x, weight, bias, EPS))
        sums = add_layer_norm(each, turned, weight, bias, EPS)
        for ours, theirs in zip(sums, add_layer_norm(x, x, weight, bias, EPS), strict=True):
            assert torch.equal(ours, theirs)
            assert ours.is_contiguous()
    assert torch.equal(geglu(wider[..., 3:9]), geglu(wider[..., 3:9].contiguous()))
    image = wider[..., 3:8, None].expand(4, 6, 5, 3)
    expected = bias_residual(image.contiguous(), draw(6, device=device), image)
    assert torch.equal(expected, bias_residual(image, draw(6, device=device), image.contiguous()))


TIMES = {
    "whole steps": torch.tensor([0, 1, 41, 499, 981, 999]),
    "fractions": torch.tensor([0.0, 1e-3, 0.7, 999.3]),
    "logarithms": torch.tensor([-1.6, 1.1]),
    "far beyond any schedule": torch.tensor([3e7, -2e6]),
    "in sixteen bits": torch.tensor([1.0, 997.0], dtype=torch.bfloat16),
    "sizes of SDXL": torch.tensor([1024, 768, 0, 4096], dtype=torch.int32),
}


@pytest.mark.parametrize("t", TIMES.values(), ids=TIMES.keys())
@pytest.mark.parametrize("cos_first", [True, False], ids=["cosine first", "sine first"])
@pytest.mark.parametrize(
    ("width", "shift"), [(320, 0.0), (320, 1.0), (2, 0.5), (1, -1.0), (7, 1.0), (1030, 0.0)], ids=str
)
def test_a_time_is_embedded_nearer_than_torch_does(
    device: str, width: int, shift: float, cos_first: bool, t: Tensor
) -> None:
    t = t.to(device)
    ours, theirs = (call(t, width, cos_first, shift) for call in (timestep_embedding, reference.timestep_embedding))
    exact = reference.timestep_embedding(t.double(), width, cos_first, shift)
    mine, other = ((each.double() - exact).abs().max().item() for each in (ours, theirs))
    print(f"ours {mine:.2e}, torch {other:.2e}")
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    assert mine <= 2 * other + torch.finfo(torch.float32).eps
    if t.abs().max() < 1e4:
        assert mine < 2 * torch.finfo(torch.float32).eps


def test_a_time_that_is_no_number_stays_none(device: str) -> None:
    ours = timestep_embedding(torch.tensor([math.nan, math.inf, 3.0, 1e30], device=device), 8, True, 0.0)
    assert ours[:2].isnan().all()
    assert (ours[2:].abs() <= 1 + 1e-6).all()


@pytest.mark.parametrize("shape", [(0, 320), (3, 0, 320), (3, 0)], ids=["no rows", "no tokens", "no channels"])
def test_what_is_empty_launches_nothing(device: str, shape: tuple[int, ...]) -> None:
    x, (weight, bias) = torch.zeros(shape, device=device), affine(shape[-1], device, torch.float32)
    assert layer_norm(x, weight, bias, EPS).shape == shape
    assert [each.shape for each in add_layer_norm(x, x, weight, bias, EPS)] == [shape, shape]
    assert geglu(x).shape == (*shape[:-1], shape[-1] // 2)
    assert timestep_embedding(torch.zeros(0, device=device), 8, True, 0.0).shape == (0, 8)
    empty = torch.zeros(0, 3, 5, 7, device=device)
    assert bias_residual(empty, torch.zeros(3, device=device), empty).shape == empty.shape


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: layer_norm(x.double(), x[0], x[0], EPS), TypeError, "x: got torch.float64"),
        (lambda x: layer_norm(x, x[0, 1:], x[0], EPS), ValueError, r"weight: got \[5\]; allowed: \[6\]"),
        (lambda x: layer_norm(x[0, 0], x[0], x[0], EPS), ValueError, r"x: got \[\]"),
        (lambda x: add_layer_norm(x, x[:1], x[0], x[0], EPS), ValueError, r"residual: got \[1, 6\]; allowed: \[4, 6\]"),
        (lambda x: geglu(x[:, 1:]), ValueError, r"x: got \[4, 5\]; allowed: an even last dimension"),
        (lambda x: geglu(x.long()), TypeError, "x: got torch.int64"),
        (lambda x: bias_residual(x, x[0], x), ValueError, r"x: got \[4, 6\]; allowed: \[B, C, H, W\]"),
        (lambda x: bias_residual(x[None, None], x[0], x[None, None]), ValueError, r"bias: got \[6\]; allowed: \[1\]"),
        (lambda x: timestep_embedding(x, 8, True, 0.0), ValueError, r"t: got \[4, 6\]; allowed: \[B\]"),
        (lambda x: timestep_embedding(x[0], 2, True, 1.0), ValueError, "freq_shift: got 1; allowed: less than 1, half"),
    ],
    ids=["float64", "short weight", "a number", "residual of another shape", "odd width", "integers", "no image",
         "bias of other channels", "times in two dimensions", "no frequency"],
)  # fmt: skip
def test_what_does_not_fit_is_named(call: Callable[[Tensor], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(torch.ones(4, 6))


def test_every_cut_covers_the_matrix_once() -> None:
    for columns in (*range(1, 70), 320, 640, 1273, 1280, 2560, 5120, 2**20):
        for itemsize in (2, 4):
            cut, whole = rows.cut_of(columns, itemsize), layer_norms.whole_rows(min(columns, 8192), itemsize)
            assert -(-columns // cut.block_n) * cut.block_n < columns + 64
            assert columns % cut.vector == 0
            assert whole.block_n >= min(columns, 8192)
            assert 1 <= whole.num_warps <= 16
            for count in (1, cut.block_r, cut.block_r + 1, 10**7):
                across = -(-columns // cut.block_n)
                assert cut.programs(count, columns) % across == 0
                assert 0 <= cut.programs(count, columns) // across * cut.block_r - count < cut.block_r


def test_a_convolution_and_its_residual_are_one_sum(device: str) -> None:
    x, weight, bias = draw(2, 5, 9, 7, device=device), draw(6, 5, 3, 3, device=device), draw(6, device=device)
    residual = draw(2, 6, 9, 7, device=device)
    for memory in LAYOUTS.values():
        given = [each.to(memory_format=memory) for each in (x, weight)]
        ours = conv2d_residual(*given, bias, residual, 1)
        torch.testing.assert_close(ours, functional.conv2d(*given, bias, padding=1) + residual)
