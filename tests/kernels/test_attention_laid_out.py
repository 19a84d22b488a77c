"""Attention on keys and values that were laid out once: the same answer, the same refusals."""

import mmap
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fewstep_kernels import _ext, attention, attention_laid_out, lay_out, reference
from fewstep_kernels.attention import own_attention
from fewstep_kernels.attention_call import refusal
from fewstep_kernels.laid_out import check_laid_out, cuda_attention_laid_out, keys_and_values
from support.simulation import simulate, tensors

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
LENGTHS = {"77 keys": (150, 77), "several tiles": (70, 200), "one of each": (1, 1)}
SAMPLE = tensors(9, 77, 40, torch.bfloat16)


@pytest.mark.parametrize("D", [8, 41, 64])
def test_what_is_laid_out_is_contiguous_and_comes_back(D: int) -> None:
    packed = tensors(1, 77, 2 * D, torch.float32, B=3, H=5)[1]
    k, v = packed[..., :D], packed[..., D:]
    kv = lay_out(k, v)
    assert kv.shape == (3, 2, 5, 77, D)
    assert kv.is_contiguous()
    assert all(torch.equal(*pair) for pair in zip(keys_and_values(kv), (k, v), strict=True))
    assert {each.untyped_storage().data_ptr() for each in keys_and_values(kv)} == {kv.untyped_storage().data_ptr()}


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("D", [40, 64, 160])
@pytest.mark.parametrize("arch", [80, 90])
def test_the_kernel_finds_the_same_bits(arch: int, D: int, lengths: tuple[int, int], dtype: torch.dtype) -> None:
    q, k, v = tensors(*lengths, D, dtype)
    assert torch.equal(simulate(q, *keys_and_values(lay_out(k, v)), arch=arch)[0], simulate(q, k, v, arch=arch)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("scale", [None, 0.3], ids=["scale of the head dim", "scale of 0.3"])
def test_on_a_cpu_the_op_finds_the_same_bits(scale: float | None, dtype: torch.dtype) -> None:
    q, k, v = tensors(130, 77, 41, dtype)
    out = attention_laid_out(q, lay_out(k, v), scale)
    assert out.is_contiguous()
    assert torch.equal(out, attention(q, k, v, scale))
    assert torch.equal(reference.attention_laid_out(q, lay_out(k, v), scale), reference.attention(q, k, v, scale))


@pytest.mark.slow
def test_laying_out_once_then_attending_compiles_whole() -> None:
    def twice(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        kv = lay_out(k, v)
        return attention_laid_out(attention_laid_out(q, kv), kv)

    given = tensors(9, 77, 8, torch.float32)
    torch.compiler.reset()
    compiled = torch.compile(twice, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*given), twice(*given))


def test_training_differentiates_both_steps() -> None:
    q, k, v = (torch.randn(1, 5, 2, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    assert torch.autograd.gradcheck(lambda q, k, v: attention_laid_out(q, lay_out(k, v)), (q, k, v))


REFUSED = {
    "head dim 7": (tensors(5, 6, 7, torch.bfloat16), None, "the head dim 7 is not a multiple of 8 up to 256"),
    "head dim 264": (tensors(5, 6, 264, torch.bfloat16), None, "the head dim 264 is not a multiple of 8 up to 256"),
    "float64": (tensors(5, 6, 40, torch.float64), None, "torch.float64 is not bfloat16 or float16"),
    "float32": (tensors(5, 6, 40, torch.float32), None, "torch.float32 is not bfloat16 or float16"),
    "empty batch": (tuple(each[:0] for each in SAMPLE), None, "nothing to attend to"),
    "no queries": ((SAMPLE[0][:, :0], *SAMPLE[1:]), None, "nothing to attend to"),
    "no keys": ((SAMPLE[0], *(each[:, :0] for each in SAMPLE[1:])), None, "nothing to attend to"),
    "negative scale": (SAMPLE, -0.3, "the scale -0.3 is not positive and finite"),
}


@pytest.mark.parametrize(("given", "scale", "why"), REFUSED.values(), ids=REFUSED)
def test_what_the_kernel_does_not_take_torch_answers(
    given: tuple[Tensor, Tensor, Tensor], scale: float | None, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, kv = given[0], lay_out(*given[1:])
    assert str(refusal(q, *keys_and_values(kv), scale)).endswith(why)
    monkeypatch.setenv("FEWSTEP_ATTENTION", "ours")
    out, exact = cuda_attention_laid_out(q, kv, scale), reference.attention_laid_out(q.double(), kv.double(), scale)
    assert out.shape == q.shape
    assert torch.equal(attention_laid_out(q, kv, scale), out)
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=4 * torch.finfo(out.dtype).eps)


def test_a_head_dim_apart_or_an_odd_address_is_laid_out_anew_or_torchs_to_answer() -> None:
    q, k, v = SAMPLE
    apart = [each.transpose(1, 3).contiguous().transpose(1, 3) for each in (k, v)]
    assert refusal(q, *apart) == "k is not contiguous along the head dim"
    assert refusal(q, *keys_and_values(lay_out(*apart))) is None
    kv = lay_out(k, v).transpose(3, 4).contiguous().transpose(3, 4)
    assert refusal(q, *keys_and_values(kv)) == "k is not contiguous along the head dim"
    torch.testing.assert_close(cuda_attention_laid_out(q, kv), attention(q, k, v), rtol=0, atol=0.03)
    shifted = torch.cat([kv.new_zeros(1), lay_out(k, v).flatten()])[1:].view(2, 2, 2, 77, 40)
    assert refusal(q, *keys_and_values(shifted)) == "k has rows that are not aligned to 16 bytes"
    assert torch.equal(cuda_attention_laid_out(q, shifted), attention(q, k, v))


def test_more_than_2_to_the_31_elements_are_counted_in_64_bits() -> None:
    """Keys and values 2^31 elements apart, in memory that is hardly touched; and more heads than can be numbered."""
    q, k, v = SAMPLE
    memory = mmap.mmap(-1, 2 * (2**31 + 2 * 2 * 77 * 40), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    untouched = torch.frombuffer(memory, dtype=torch.bfloat16)
    far = untouched.as_strided((2, 2, 2, 77, 40), (6160, 2**31, 3080, 40, 1))
    far.copy_(lay_out(k, v))
    assert refusal(q, *keys_and_values(far)) is None
    assert torch.equal(simulate(q, *keys_and_values(far))[0], simulate(q, k, v)[0])
    many = untouched.as_strided((2**27, 2, 2**5, 2**6, 8), (0, 8, 0, 8, 1))
    wide = untouched.as_strided((2**27, 2**6, 2**5, 8), (0, 8, 0, 1))
    assert str(refusal(wide, *keys_and_values(many))).endswith("too much for the 32-bit indices of blocks and rows")


def test_shapes_of_more_than_2_to_the_31_elements_are_traced() -> None:
    q = torch.empty(2**20, 64, 8, 64, device="meta", dtype=torch.bfloat16)
    kv = lay_out(q[:, :1].expand(-1, 77, -1, -1), q[:, :1].expand(-1, 77, -1, -1))
    assert kv.shape == (2**20, 2, 8, 77, 64)
    assert attention_laid_out(q, kv).shape == attention(q, *keys_and_values(kv)).shape == q.shape


KV = lay_out(*SAMPLE[1:])
MISMATCHED = {
    "dtypes": ({"kv": KV.half()}, TypeError, "kv: got torch.float16; allowed: torch.bfloat16, the dtype of q"),
    "devices": ({"kv": KV.to("meta")}, ValueError, "kv: got a tensor on meta; allowed: cpu, where q is"),
    "dims of q": ({"q": SAMPLE[0][0]}, ValueError, "q: got [9, 2, 40]; allowed: [B, Lq, H, D]"),
    "dims of kv": ({"kv": KV[:, 0]}, ValueError, "kv: got [2, 2, 77, 40]; allowed: [2, 2, 2, Lk, 40]"),
    "keys alone": ({"kv": KV[:, :1]}, ValueError, "kv: got [2, 1, 2, 77, 40]; allowed: [2, 2, 2, Lk, 40]"),
    "heads": ({"kv": KV[:, :, :1]}, ValueError, "kv: got [2, 2, 1, 77, 40]; allowed: [2, 2, 2, Lk, 40]"),
    "head dims": ({"kv": KV[..., :32]}, ValueError, "kv: got [2, 2, 2, 77, 32]; allowed: [2, 2, 2, Lk, 40]"),
}


@pytest.mark.parametrize(("change", "error", "message"), MISMATCHED.values(), ids=MISMATCHED)
@pytest.mark.parametrize("call", [check_laid_out, attention_laid_out, cuda_attention_laid_out])
def test_tensors_that_do_not_belong_together_are_named(
    call: Callable[..., object], change: dict[str, Tensor], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call(**{"q": SAMPLE[0], "kv": KV} | change)


UNLIKE = {
    "dtypes": (SAMPLE[2].half(), TypeError, "v: got torch.float16; allowed: torch.bfloat16, the dtype of k"),
    "devices": (SAMPLE[2].to("meta"), ValueError, "v: got a tensor on meta; allowed: cpu, where k is"),
    "lengths": (SAMPLE[2][:, :76], ValueError, "v: got [2, 76, 2, 40]; allowed: [2, 77, 2, 40], the shape of k"),
}


@pytest.mark.parametrize(("v", "error", "message"), UNLIKE.values(), ids=UNLIKE)
def test_what_cannot_be_laid_out_is_named(v: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        lay_out(SAMPLE[1], v)
    with pytest.raises(ValueError, match=re.escape("k: got [77, 2, 40]; allowed: [B, Lk, H, D]")):
        lay_out(SAMPLE[1][0], SAMPLE[2][0])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("D", [40, 64, 80, 160])
def test_on_a_device_the_bits_are_the_same_and_a_graph_holds_them(
    D: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why_not := _ext.device_refusal(torch.cuda.current_device()):
        pytest.skip(why_not)
    monkeypatch.setenv("FEWSTEP_ATTENTION", "ours")
    q, k, v = (each.cuda() for each in tensors(1024, 77, D, dtype))
    expected, kv = own_attention(q, k, v), lay_out(k, v)
    assert torch.equal(attention_laid_out(q, kv), expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = attention_laid_out(q, kv)
    out.zero_()
    graph.replay()
    assert torch.equal(out, expected)
