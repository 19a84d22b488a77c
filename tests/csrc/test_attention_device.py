"""The hand-written attention where users run it: the same claims on a GPU, walked at small sizes in the emulator."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from fewstep_kernels import _ext, attention
from fewstep_kernels.attention import own_attention
from support.attention_shapes import UNETS
from support.simulation import FEW, judge, simulate, tensors

pytestmark = pytest.mark.slow

DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])


class Place(NamedTuple):
    """Where attention runs, and how."""

    device: str
    attend: Callable[..., Tensor]

    def tensors(self, Lq: int, Lk: int, D: int, dtype: torch.dtype, B: int = 2, H: int = 2) -> tuple[Tensor, ...]:
        return tuple(each.to(self.device) for each in tensors(Lq, Lk, D, dtype, B, H))


@pytest.fixture(
    params=[
        ("emulator", 80),
        ("emulator", 90),
        pytest.param(("cuda", 80), marks=pytest.mark.gpu),
        pytest.param(("cuda", 90), marks=pytest.mark.gpu),
    ],
    ids=lambda value: f"{value[0]}-sm_{value[1]}",
)
def place(request: pytest.FixtureRequest) -> Place:
    where, arch = request.param
    if where == "emulator":
        return Place("cpu", lambda *given: simulate(*given, arch=arch, multiprocessors=FEW)[0])
    if why_not := _ext.device_refusal(torch.cuda.current_device()):
        pytest.skip(why_not)
    if arch == 90 and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("the kernel of sm_90a is for that architecture alone")
    return Place("cuda", functools.partial(own_attention, arch=arch))


@DTYPES
@pytest.mark.parametrize("shape", UNETS.values(), ids=UNETS)
def test_the_shapes_of_unets_are_as_exact_as_torch(
    place: Place, shape: tuple[int, int, int, int, int], dtype: torch.dtype
) -> None:
    B, H, Lq, Lk, D = shape if place.device == "cuda" else (1, 2, min(shape[2], 150), min(shape[3], 150), shape[4])
    q, k, v = place.tensors(Lq, Lk, D, dtype, B, H)
    judge(place.attend(q, k, v), q, k, v)


@DTYPES
@pytest.mark.parametrize("D", [8, 32, 40, 64, 72, 80, 96, 128, 160, 192, 256])
def test_ugly_lengths_are_as_exact_as_torch(place: Place, D: int, dtype: torch.dtype) -> None:
    if place.device == "cuda" and (why_not := _ext.head_dim_refusal(D)):
        pytest.skip(why_not)
    for queries, keys in ((1, 129), (7, 64), (130, 7)):
        q, k, v = place.tensors(queries, keys, D, dtype, B=1)
        judge(place.attend(q, k, v), q, k, v)


def test_a_packed_projection_needs_no_copy(place: Place) -> None:
    packed = place.tensors(77, 77, 3 * 40, torch.bfloat16)[0].unflatten(-1, (3, 40)).permute(3, 0, 1, 2, 4)
    assert torch.equal(place.attend(*packed), place.attend(*packed.contiguous()))


def test_the_bits_depend_on_nothing_but_the_sample(place: Place) -> None:
    q, k, v = place.tensors(200, 300, 40, torch.bfloat16, B=3)
    out = place.attend(q, k, v)
    assert torch.equal(out, place.attend(q, k, v))
    for i in range(3):
        assert torch.equal(place.attend(*(each[i : i + 1] for each in (q, k, v))), out[i : i + 1])


def test_a_nan_stays_in_its_head(place: Place) -> None:
    q, k, v = place.tensors(70, 200, 80, torch.bfloat16)
    expected = place.attend(q, k, v)
    k[1, 150, 0, 3] = torch.nan
    expected[1, :, 0] = torch.nan
    torch.testing.assert_close(place.attend(q, k, v), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.gpu
def test_the_op_runs_ours_when_it_is_asked_to_and_inside_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    if why_not := _ext.device_refusal(torch.cuda.current_device()):
        pytest.skip(why_not)
    monkeypatch.setenv("FEWSTEP_ATTENTION", "ours")
    q, k, v = (each.cuda() for each in tensors(256, 77, 40, torch.bfloat16))
    expected = own_attention(q, k, v)
    assert torch.equal(attention(q, k, v), expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = attention(q, k, v)
    out.zero_()
    graph.replay()
    assert torch.equal(out, expected)
