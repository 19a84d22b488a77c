"""The hand-written attention, executed by the emulator: against float64 and torch's own, in every layout and order."""

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from support.pairwise import pairwise
from support.simulation import FEW, MANY, emulator, judge, layouts, simulate, tensors

pytestmark = pytest.mark.slow

EXACT = (32, 40, 64, 80, 96, 128, 160, 192, 256)  # head dims with a variant of their own
LARGER = (8, 24, 48, 72, 88, 104, 136, 168, 248)  # served by the nearest above
LENGTHS = (1, 7, 64, 77, 130, 257)
DTYPES = (torch.bfloat16, torch.float16)
# A shape for each kernel: keys in one tile of 80 or of 128, and in many.
FORMS = {"77 keys": (70, 77), "128 keys": (70, 128), "many tiles": (130, 257)}


Run = Callable[..., tuple[Tensor, dict[str, int]]]


def name(value: object) -> str:
    return str(value).removeprefix("torch.")


ARCHS = {"sm_80": 80, "sm_90a": 90}


@pytest.fixture(params=ARCHS.values(), ids=ARCHS)
def run(request: pytest.FixtureRequest) -> Run:
    """The kernel of one architecture."""
    return functools.partial(simulate, arch=request.param)


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("D", EXACT)
def test_every_length_is_as_exact_as_torch_and_the_size_of_a_block_changes_no_bit(
    run: Run, D: int, dtype: torch.dtype
) -> None:
    """Each length as queries and as keys at every head dim, each pair at some; bits do not depend on the blocks."""
    for i, queries in enumerate(LENGTHS):
        q, k, v = tensors(queries, LENGTHS[(i + EXACT.index(D)) % len(LENGTHS)], D, dtype, B=1)
        large, did_large = run(q, k, v, multiprocessors=FEW)
        small, did_small = run(q, k, v, multiprocessors=MANY)
        judge(large, q, k, v)
        assert torch.equal(large, small)
        assert did_large["blocks"] <= did_small["blocks"]


@pytest.mark.parametrize(
    ("run", "D", "dtype"), pairwise(run=(80, 90), D=LARGER, dtype=DTYPES), indirect=["run"], ids=name
)
def test_a_head_dim_without_a_variant_runs_in_the_nearest_above(run: Run, D: int, dtype: torch.dtype) -> None:
    for queries, keys in ((7, 77), (65, 130)):
        q, k, v = tensors(queries, keys, D, dtype, B=1)
        judge(run(q, k, v, multiprocessors=MANY)[0], q, k, v)


@pytest.mark.parametrize("D", [40, 64, 160])
def test_every_layout_gives_the_same_bits(run: Run, D: int) -> None:
    found = {layout: run(*given)[0] for layout, given in layouts(D).items()}
    judge(found["contiguous"], *layouts(D)["contiguous"])
    assert not [layout for layout, out in found.items() if not torch.equal(out, found["contiguous"])]


@pytest.mark.parametrize("keys", [77, 130, 300])
@pytest.mark.parametrize("shared", ["samples", "heads", "both"])
def test_keys_that_samples_or_heads_share_need_no_copy(run: Run, shared: str, keys: int) -> None:
    q, k, v = tensors(33, keys, 40, torch.float16)
    one = (slice(None, None if shared == "heads" else 1), slice(None), slice(None, None if shared == "samples" else 1))
    k, v = k[one].expand_as(k), v[one].expand_as(v)
    out, did = run(q, k, v)
    expected, did_apart = run(q, k.contiguous(), v.contiguous())
    assert torch.equal(out, expected)
    assert did == did_apart


def test_a_query_that_all_rows_share_is_served_as_well(run: Run) -> None:
    """By the kernel of sm_80: a row is what TMA may not repeat."""
    q, k, v = tensors(33, 130, 40, torch.float16)
    q = q[:, :1].expand_as(q)
    out, did = run(q, k, v)
    judge(out, q, k, v)
    assert did["wgmma"] == 0


@pytest.mark.parametrize("scale", [0.02, 1.0, 3.5])
def test_the_scale_is_an_argument(run: Run, scale: float) -> None:
    for queries, keys in FORMS.values():
        q, k, v = tensors(queries, keys, 80, torch.float16)
        judge(run(q, k, v, scale)[0], q, k, v, scale)


@pytest.mark.parametrize(
    ("run", "D", "form"), pairwise(run=(80, 90), D=(40, 128, 160), form=list(FORMS)), indirect=["run"]
)
def test_five_orders_of_threads_and_blocks_give_the_same_bits(run: Run, D: int, form: str) -> None:
    q, k, v = tensors(*FORMS[form], D, torch.bfloat16, B=1)
    for multiprocessors in (FEW, MANY):
        first, did = run(q, k, v, seed=0, multiprocessors=multiprocessors)
        for seed in range(1, 5):
            out, again = run(q, k, v, seed=seed, multiprocessors=multiprocessors)
            assert torch.equal(out, first)
            assert again == did


@pytest.mark.parametrize("form", FORMS)
def test_a_sample_has_the_same_bits_alone_and_in_a_batch(run: Run, form: str) -> None:
    q, k, v = tensors(*FORMS[form], 64, torch.bfloat16, B=3)
    out, _ = run(q, k, v, multiprocessors=8)
    for i in range(3):
        alone, _ = run(*(each[i : i + 1] for each in (q, k, v)), multiprocessors=8)
        assert torch.equal(alone[0], out[i])


@pytest.mark.parametrize(
    ("run", "form", "dtype"), pairwise(run=(80, 90), form=list(FORMS), dtype=DTYPES), indirect=["run"], ids=name
)
def test_logits_of_200_either_way(run: Run, form: str, dtype: torch.dtype) -> None:
    q, k, v = tensors(*FORMS[form], 64, dtype)
    signs = torch.randn(64, generator=torch.Generator().manual_seed(1)).sign()
    q, k = (torch.where(each[..., :1] > 0, 5, -5) * signs.to(dtype) for each in (q, k))
    assert ((q.float()[:, :1] * k.float()[:, :1]).sum(-1) / 8).abs().eq(200).all()
    out, _ = run(q, k, v)
    judge(out, q, k, v)


def test_logits_that_grow_from_tile_to_tile(run: Run) -> None:
    """Each tile of keys outweighs all before it, so what was summed must shrink to nothing."""
    q, k, v = tensors(64, 257, 40, torch.bfloat16)
    q, k = q.abs(), k.abs() * torch.linspace(0.01, 8, 257)[:, None, None].bfloat16()
    judge(run(q, k, v)[0], q, k, v)


@pytest.mark.parametrize("form", FORMS)
def test_equal_keys_give_the_mean_of_the_values(run: Run, form: str) -> None:
    q, k, v = tensors(*FORMS[form], 80, torch.float16)
    k = k[:, :1].expand_as(k)
    out, _ = run(q, k, v)
    judge(out, q, k, v)
    ours, theirs = out.double(), v.double().mean(1, keepdim=True).expand_as(q)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_a_nan_stays_where_it_belongs(run: Run, form: str) -> None:
    """In a key or value: in the head that has it, for a value in its column; in a query: in its row."""
    q, k, v = tensors(*FORMS[form], 40, torch.bfloat16)
    expected, _ = run(q, k, v)
    q[0, 3, 1] = k[1, 65, 0] = v[0, 65, 0, 5] = torch.nan
    expected[0, 3, 1] = expected[1, :, 0] = expected[0, :, 0, 5] = torch.nan
    torch.testing.assert_close(run(q, k, v)[0], expected, rtol=0, atol=0, equal_nan=True)


def test_a_logit_of_minus_infinity_has_no_weight(run: Run) -> None:
    """As torch has it: products that overflow to minus infinity, over a whole tile of keys."""
    q, k, v = tensors(16, 130, 40, torch.bfloat16, B=1, H=1)
    q[..., 0], k[:, :70, :, 0], k[:, 70:, :, 0] = 3e38, -3e38, 0
    q[..., 1:] = 0
    out, _ = run(q, k, v)
    torch.testing.assert_close(out[0, :, 0].float(), v[0, 70:, 0].float().mean(0).expand(16, -1), rtol=0, atol=4e-3)


def test_the_work_is_that_of_the_exact_head_dim() -> None:
    """d40: products of depth 48 and of width 40, not 64 and 64; copies of what exists; two barriers a tile."""
    q, k, v = tensors(128, 128 + 64, 40, torch.bfloat16, B=1, H=1)
    _, did = simulate(q, k, v)
    tiles, row_tiles = 3, 8
    assert did["mma"] == tiles * row_tiles * (8 * 3 + 4 * 5)
    assert did["copies"] == (128 * 48 + tiles * 64 * (48 + 40)) // 8
    assert (did["blocks"], did["barriers"]) == (1, 2 * tiles)


def test_on_sm_90a_the_work_is_that_of_the_exact_head_dim() -> None:
    """d40: depth 48 and width 40 for the 64 queries of each consumer; every panel arrives once and leaves once."""
    q, k, v = tensors(128, 384, 40, torch.bfloat16, B=1, H=1)
    _, did = simulate(q, k, v, arch=90)
    assert did["multiply_accumulates"] == 128 * 384 * (48 + 40)
    assert did["wgmma"] == 2 * 3 * (3 + 128 // 16)
    assert did["box_bytes"] == 2 * 64 * (128 + 2 * 384 + 128)
    assert (did["mma"], did["copies"], did["blocks"], did["barriers"]) == (0, 0, 1, 1)


def test_more_shared_memory_than_a_device_has_is_refused() -> None:
    q, k, v = tensors(16, 16, 40, torch.bfloat16)
    with pytest.raises(RuntimeError, match=r"launch: \d+ bytes of shared memory; at most 1000 are allowed"):
        simulate(q, k, v, shared_limit=1000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": 0.0}, "scale must be positive and finite"),
        ({"sizes": [2, 2, 7, 7, 44]}, "head_dim must be a multiple of 8 up to 256"),
        ({"sizes": [2, 2, 7, 7, 264]}, "head_dim must be a multiple of 8 up to 256"),
        ({"sizes": [0, 2, 7, 7, 40]}, "must be 1 or more"),
        ({"sizes": [2**20, 2**20, 7, 7, 40]}, "batch, heads and groups of 16 queries together must be fewer"),
        ({"strides": [[560, 81, 40]] * 4}, "multiples of 8"),
        ({"pointers": [0, 0, 0, 0]}, "must not be null"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_the_kernels_check_what_they_are_given_themselves(change: dict[str, object], message: str) -> None:
    pointers, strides = [4096] * 4, [[560, 80, 40]] * 4
    given = {
        "pointers": pointers,
        "strides": strides,
        "sizes": [2, 2, 7, 7, 40],
        "is_half": False,
        "scale": 1.0,
        "design": "",
    }
    with pytest.raises(ValueError, match=message):
        emulator().attention_fwd(*(given | change).values(), 1, 80, [], 0, 0)
