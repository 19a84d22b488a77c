"""Every op as torch sees it: schema, fake, torch.compile; and the two ops of the U-Net against float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import fewstep_kernels
from fewstep_kernels import (
    COLUMNS,
    add_layer_norm,
    attention,
    bias_residual,
    conv2d_residual,
    geglu,
    group_norm_silu,
    layer_norm,
    pointwise,
    reference,
    timestep_embedding,
)
from fewstep_kernels.layer_ops import conv2d_residual_on_gpu, pointwise_on_gpu
from fewstep_kernels.torch_layers import torch_group_norm_silu

OPS = torch.ops.fewstep


def step_arguments() -> tuple[Tensor, ...]:
    x, row = torch.randn(2, 3, 5, 7), torch.rand(2, len(COLUMNS))
    x_in, output = torch.zeros(3, 3, 5, 7).to(memory_format=torch.channels_last), torch.randn(3, 3, 5, 7)
    step, seed = torch.tensor([0, 1]), torch.tensor([3, 4])
    return (
        x,
        x_in,
        torch.zeros(2, 2, 3, 5, 7),
        x.clone(),
        output,
        row,
        step,
        seed,
        torch.tensor([0, 1]),
        torch.tensor([2, 1]),
    )


def samples() -> dict[str, tuple[Tensor | int | float | list[int] | None, ...]]:
    x, row = torch.randn(2, 3, 5, 7), torch.rand(2, len(COLUMNS))
    two, index = torch.tensor([0, 1]), torch.zeros(2, dtype=torch.int64)
    q, k = torch.randn(2, 9, 3, 8), torch.randn(2, 77, 3, 8)
    rows = torch.randn(2, 6, 5).transpose(1, 2)
    table, t = torch.rand(2, 4, len(COLUMNS)), torch.zeros(3)
    return {
        "normal": (two, index, 1, [3, 5, 7]),
        "add_noise": (x, torch.rand(2), torch.rand(2), torch.randn_like(x)),
        "cfg_combine": (x, torch.randn_like(x), torch.tensor([1.0, 3.0]), torch.tensor([0.0, 0.5])),
        "posterior_update": (x, torch.randn_like(x), torch.randn_like(x), row, torch.randn_like(x), None),
        "begin_step": (table, index, row, two.clone(), t, two, torch.tensor([2, 1]), t.clone()),
        "step_statistics": (torch.zeros(2, 2), x, torch.randn(3, 3, 5, 7), row, two, torch.tensor([2, 1])),
        "step_log_prob": (
            torch.zeros(2, 4),
            torch.randn(3, 6, 5, 7),
            row,
            two,
            two,
            two,
            3,
            None,
            torch.ones(2, 1, 5, 7),
            True,
        ),
        "denoise_step": step_arguments(),
        "group_norm_silu": (torch.randn(2, 6, 5, 7), torch.rand(6), torch.rand(6), 3, 1e-5),
        "layer_norm": (rows, torch.rand(6), torch.rand(6), 1e-5),
        "add_layer_norm": (rows, torch.randn(2, 5, 6), torch.rand(6), torch.rand(6), 1e-5),
        "geglu": (rows,),
        "bias_residual": (x.to(memory_format=torch.channels_last), torch.rand(3), torch.randn_like(x)),
        "timestep_embedding": (torch.rand(2) * 1000, 7, True, 1.0),
        "attention": (q, k, torch.randn_like(k), None),
        "attention_laid_out": (q, torch.randn(2, 2, 3, 77, 8), None),
    }


@pytest.mark.parametrize("name", samples())
def test_opcheck(name: str) -> None:
    """Schema, fake and dispatch agree with what the op does."""
    torch.library.opcheck(getattr(OPS, name).default, samples()[name])


@pytest.mark.parametrize("name", samples())
def test_compiles_without_a_graph_break(name: str) -> None:
    def clone(arguments: tuple[object, ...]) -> list[object]:
        return [each.clone() if isinstance(each, Tensor) else each for each in arguments]

    op, arguments = getattr(OPS, name).default, samples()[name]

    def call(*given: object) -> list[Tensor]:
        result = op(*given)
        result = given if result is None else result
        return [result] if isinstance(result, Tensor) else [each for each in result if isinstance(each, Tensor)]

    torch.compiler.reset()  # each case its own cache, not one shared recompile limit
    eager = call(*clone(arguments))
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)(*clone(arguments))
    for ours, theirs in zip(eager, compiled, strict=True):
        torch.testing.assert_close(ours, theirs)


NORM_SHAPES = {
    "one element a group": (1, 4, 1, 1, 2),
    "channels == groups": (2, 32, 8, 8, 32),
    "63x21": (2, 64, 63, 21, 32),
    "one group": (1, 6, 5, 3, 1),
}


@pytest.mark.parametrize("size", NORM_SHAPES.values(), ids=NORM_SHAPES.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("form", ["plain", "no silu", "scale and shift", "shift before", "residual"])
def test_group_norm_silu_is_as_good_as_torch(size: tuple[int, ...], dtype: torch.dtype, form: str) -> None:
    """Against float64: at most twice torch's own error in the same dtype, plus one eps."""
    batch, channels, height, width, groups = size
    generator = torch.Generator().manual_seed(channels)
    x = (torch.randn(batch, channels, height, width, generator=generator) * 3 + 5).to(dtype)
    x = x.to(memory_format=torch.channels_last)
    weight, bias = torch.rand(channels, generator=generator) + 0.5, torch.randn(channels, generator=generator)
    extra = [torch.randn(batch, channels, generator=generator).to(dtype) for _ in range(3)]
    after = torch.randn(x.shape, generator=generator).to(dtype)

    def composed(wide: torch.dtype) -> Tensor:
        before, scale, shift = (each.to(wide)[:, :, None, None] for each in extra)
        h = x.to(wide) + before if form == "shift before" else x.to(wide)
        h = functional.group_norm(h, groups, weight.to(wide), bias.to(wide), 1e-5)
        h = h * (1 + scale) + shift if form == "scale and shift" else h
        h = h if form == "no silu" else functional.silu(h)
        return h + after.to(wide) if form == "residual" else h

    options = {
        "no silu": {"silu": False},
        "scale and shift": {"scale": extra[1], "shift": extra[2]},
        "shift before": {"shift_before": extra[0]},
        "residual": {"residual": after},
    }.get(form, {})
    ours = group_norm_silu(x, weight.to(dtype), bias.to(dtype), groups, 1e-5, **options)
    weight, bias = weight.to(dtype), bias.to(dtype)
    exact = composed(torch.float64)
    theirs = (composed(dtype).double() - exact).abs().max()
    mine = (ours.double() - exact).abs().max()
    print(f"ours {mine:.2e}, torch {theirs:.2e}")
    assert mine <= 2 * theirs + torch.finfo(dtype).eps * max(1.0, float(exact.abs().max()))
    assert ours.dtype == dtype
    assert ours.is_contiguous(memory_format=torch.channels_last)


ROW_SHAPES = {
    "one element": (1, 1),
    "63x21": (63, 21),
    "77 tokens": (2, 77, 320),
    "width 1280": (5, 1280),
}


def _norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], weight, bias, 1e-5)


OF_ROWS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {  # ours, and torch's
    "layer_norm": (lambda ops, x, r, w, b: ops.layer_norm(x, w, b, 1e-5), lambda x, r, w, b: _norm(x, w, b)),
    "the sum": (lambda ops, x, r, w, b: ops.add_layer_norm(x, r, w, b, 1e-5)[0], lambda x, r, w, b: x + r),
    "its norm": (
        lambda ops, x, r, w, b: ops.add_layer_norm(x, r, w, b, 1e-5)[1],
        lambda x, r, w, b: _norm(x + r, w, b),
    ),
    "geglu": (lambda ops, x, r, w, b: ops.geglu(torch.cat([x, r], -1)), lambda x, r, w, b: x * functional.gelu(r)),
}


@pytest.mark.parametrize("shape", ROW_SHAPES.values(), ids=ROW_SHAPES.keys())
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["float32", "bfloat16", "float16"]
)
@pytest.mark.parametrize("name", OF_ROWS)
@pytest.mark.parametrize("ops", [fewstep_kernels, reference], ids=["op", "twin"])
def test_an_op_of_rows_is_as_good_as_torch(ops: Any, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Against float64: at most twice torch's own error in the same dtype, plus one eps. Rows are columns of memory."""
    call, formula = OF_ROWS[name]
    generator = torch.Generator().manual_seed(shape[-1])
    x, residual = ((torch.randn(shape, generator=generator) * 3 + 5).to(dtype) for _ in range(2))
    x, residual = (each.mT.contiguous().mT for each in (x, residual))
    given = x, residual, *((torch.randn(shape[-1], generator=generator) + 1).to(dtype) for _ in range(2))
    ours, exact = call(ops, *given), formula(*(each.double() for each in given))
    mine, theirs = ((each.double() - exact).abs().max() for each in (ours, formula(*given)))
    print(f"ours {mine:.2e}, torch {theirs:.2e}")
    assert mine <= 2 * theirs + torch.finfo(dtype).eps * max(1.0, float(exact.abs().max()))
    assert (ours.dtype, ours.shape, ours.is_contiguous()) == (dtype, exact.shape, True)


@pytest.mark.parametrize("lengths", [(1, 1), (64, 64), (130, 77), (7, 257)], ids=str)
@pytest.mark.parametrize("head_dim", [8, 40, 64])
def test_attention_is_its_definition(lengths: tuple[int, int], head_dim: int) -> None:
    queries, keys = lengths
    packed = torch.randn(2, max(lengths), 3, 2, head_dim, generator=torch.Generator().manual_seed(queries))
    q, k, v = (
        packed[:, :queries, 0],
        packed[:, :keys, 1],
        packed[:, :keys, 2],
    )  # views with strides, as a packed qkv gives
    exact = reference.attention(q.double(), k.double(), v.double())
    theirs = (reference.attention(q, k, v).double() - exact).abs().max()
    ours = attention(q, k, v)
    assert (ours.double() - exact).abs().max() <= 2 * theirs + torch.finfo(torch.float32).eps * 4
    assert ours.is_contiguous()
    assert attention(q, k, v, scale=0.3).allclose(reference.attention(q, k, v, scale=0.3), atol=1e-5)


def test_training_differentiates_the_unet_ops() -> None:
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64, requires_grad=True)
    after = torch.randn(2, 8, 4, 4, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.randn(8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda *a: group_norm_silu(*a, 4, 1e-5), (x, weight, bias))
    q, k, v = (torch.randn(1, 5, 2, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    assert torch.autograd.gradcheck(attention, (q, k, v))
    assert torch.autograd.gradcheck(lambda *a: layer_norm(*a, 1e-5), (x.transpose(1, 3), weight, bias))
    assert torch.autograd.gradcheck(lambda *a: add_layer_norm(*a, 1e-5), (q, k, *(each[:4] for each in (weight, bias))))
    assert torch.autograd.gradcheck(geglu, (q,))
    assert torch.autograd.gradcheck(bias_residual, (x, bias, after))
    assert torch.autograd.gradcheck(lambda t: timestep_embedding(t, 7, False, 0.0), (bias,))
    kernel = torch.randn(8, 8, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *a: conv2d_residual(*a, padding=1), (x, kernel, bias, after))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "channels last"])
def test_what_a_gpu_does_in_fewer_launches_is_the_same_convolution(layout: torch.memory_format) -> None:
    x, residual = (torch.randn(2, n, 5, 3, dtype=torch.float64).to(memory_format=layout) for n in (4, 6))
    wide, narrow = (torch.randn(6, 4, n, n, dtype=torch.float64).to(memory_format=layout) for n in (3, 1))
    bias = torch.randn(6, dtype=torch.float64)
    two, one = conv2d_residual_on_gpu(x, wide, bias, residual, 1), pointwise_on_gpu(x, narrow, bias)
    torch.testing.assert_close(two, conv2d_residual(x, wide, bias, residual, 1))
    torch.testing.assert_close(one, pointwise(x, narrow, bias))
    torch.testing.assert_close(pointwise_on_gpu(x, narrow, None), pointwise(x, narrow, None))
    if layout == torch.channels_last:
        assert two.is_contiguous(memory_format=layout)
        assert one.is_contiguous(memory_format=layout)


def test_an_export_in_another_thread_changes_no_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's flags of an export are the process's."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 32, 7, 7), torch.randn(32), torch.randn(32)
    found = []
    for flag in (False, True):
        monkeypatch.setattr(torch.compiler, "_is_compiling_flag", flag)
        monkeypatch.setattr(torch.compiler, "_is_exporting_flag", flag)
        assert torch.compiler.is_exporting() == flag
        found.append(group_norm_silu(x, weight, bias, 8, 1e-5))
    assert torch.equal(*found)
    assert not torch.equal(found[0], torch_group_norm_silu(x, weight, bias, 8, 1e-5))
