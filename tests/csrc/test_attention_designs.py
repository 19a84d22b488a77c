"""Every design of sm_90a's attention kernel, in the emulator: as exact as torch, and the same bits in any order."""

import ast
import functools
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from fewstep_kernels import _ext
from fewstep_kernels.ahead import Ahead
from fewstep_kernels.attention import cuda_attention, own_attention
from fewstep_kernels.attention_call import Call
from fewstep_kernels.measured import AHEAD
from support.simulation import FEW, MANY, builder, emulator, judge, layouts, rising, simulate, tensors
from support.tree import ROOT

pytestmark = pytest.mark.slow

CHOICE = sys.modules[cuda_attention.__module__]
PADDED = (32, 40, 80, 96, 160)  # no multiple of 64
SWEPT = (40, 64, 80, 160)
LENGTHS = (1, 7, 64, 77, 130, 257)
RUNS = 80  # keys, at most
run = functools.partial(simulate, arch=90)


def others(D: int, Lk: int = 1) -> list[str]:
    """The designs of a head dim beside the default that take so many keys."""
    _, *found = emulator().designs(D)
    return [name for name in found if not name.endswith("runs") or Lk <= RUNS]


def same_in_any_block(q: Tensor, k: Tensor, v: Tensor, name: str) -> Tensor:
    """The result, after a look that the size of the blocks changes no bit of it."""
    large, small = (run(q, k, v, design=name, multiprocessors=each)[0] for each in (FEW, MANY))
    assert torch.equal(large, small), name
    return large


def test_each_head_dim_lists_its_designs() -> None:
    assert emulator().designs(128) == ["exact"]
    assert emulator().designs(96) == emulator().designs(88) == ["exact", "padded"]
    assert emulator().designs(64) == ["exact", "packed+lazy", "keys160", "runs"]
    assert {"lazy", "packed+lazy", "packed+lazy+poly8", "keys96", "keys176", "runs"} < {*others(40)}
    assert emulator().designs(257) == []


@pytest.mark.parametrize("D", sorted({*PADDED, *SWEPT}))
def test_every_length_is_as_exact_as_torch(D: int) -> None:
    """Each length as queries and as keys of each design; a padded width has the bits of the exact one."""
    for i, queries in enumerate(LENGTHS):
        keys = LENGTHS[(i + D // 8) % len(LENGTHS)]
        q, k, v = tensors(queries, keys, D, torch.bfloat16, B=1)
        for name in others(D, keys):
            out = same_in_any_block(q, k, v, name)
            judge(out, q, k, v)
            if name in ("padded", "runs", "padded+runs"):
                assert torch.equal(out, run(q, k, v)[0]), name


@pytest.mark.parametrize("D", [8, 24, *PADDED, 136])
def test_padded_widths_of_float16_have_the_bits_of_exact_ones(D: int) -> None:
    q, k, v = tensors(70, 130, D, torch.float16)
    out, did = run(q, k, v, design="padded")
    exact, did_exactly = run(q, k, v)
    assert torch.equal(out, exact)
    assert did["wgmma"] == did_exactly["wgmma"]
    assert did["multiply_accumulates"] > did_exactly["multiply_accumulates"]


def test_a_head_dim_that_fills_its_panels_is_padded_already() -> None:
    q, k, v = tensors(70, 130, 64, torch.bfloat16)
    assert run(q, k, v, design="padded")[1] == run(q, k, v, design="exact")[1]


@pytest.mark.parametrize("D", SWEPT)
def test_three_orders_of_threads_and_blocks_give_the_same_bits(D: int) -> None:
    q, k, v = tensors(300, 77, D, torch.bfloat16, B=1)
    for name in others(D):
        first, did = run(q, k, v, design=name)
        for seed, multiprocessors in ((1, FEW), (2, MANY), (3, 8)):
            out, again = run(q, k, v, design=name, seed=seed, multiprocessors=multiprocessors)
            assert torch.equal(out, first), name
            assert again["wgmma"] == did["wgmma"] or multiprocessors != FEW


def test_packing_early_and_promoting_otherwise_change_no_bit() -> None:
    q, k, v = tensors(130, 530, 40, torch.bfloat16)
    lazy, _ = run(q, k, v, design="lazy")
    for name in ("packed+lazy", "padded+packed+lazy", "packed+lazy+l2_256", "lazy+l2_none"):
        assert torch.equal(run(q, k, v, design=name)[0], lazy), name
    assert torch.equal(run(q, k, v, design="l2_256")[0], run(q, k, v)[0])


@pytest.mark.parametrize("keys", [77, 130])
def test_every_layout_gives_the_same_bits(keys: int) -> None:
    for name in others(40, keys):
        first, *rest = (run(*given, design=name)[0] for given in layouts(40, keys).values())
        assert all(torch.equal(each, first) for each in rest), name


@pytest.mark.parametrize("keys", [77, 400])
def test_extreme_logits_are_as_exact_as_torch(keys: int) -> None:
    """Logits of 200 either way; keys that are all equal; logits that rise from tile to tile, in either order."""
    q, k, v = tensors(70, keys, 40, torch.bfloat16, B=1)
    signs = torch.randn(40, generator=torch.Generator().manual_seed(1)).sign().bfloat16()
    far = [torch.where(each[..., :1] > 0, 5, -5) * signs * 1.26 for each in (q, k)]
    up = rising(q, k)
    for name in others(40, keys):
        for given in (far, (q, k[:, :1].repeat(1, keys, 1, 1)), up, (up[0], up[1].flip(1))):
            judge(same_in_any_block(*given, v, name), *given, v)


def test_a_logit_of_minus_infinity_has_no_weight() -> None:
    """Over a whole tile of keys, the first or the last that is looked at."""
    q, k, v = tensors(16, 330, 40, torch.bfloat16, B=1, H=1)
    q[..., 0], k[..., 0], q[..., 1:] = 3e38, 0, 0
    for dead in (slice(0, 200), slice(130, 330)):
        some = k.clone()
        some[:, dead, :, 0] = -3e38
        alive = torch.ones(330, dtype=torch.bool)
        alive[dead] = False
        expected = v[0, alive, 0].float().mean(0).expand(16, -1)
        for name in others(40, 330):
            out, _ = run(q, some, v, design=name)
            torch.testing.assert_close(out[0, :, 0].float(), expected, rtol=0, atol=4e-3)


@pytest.mark.parametrize("keys", [77, 257])
def test_a_nan_stays_where_it_belongs(keys: int) -> None:
    """In a key or value: in the head that has it, for a value in its column; in a query: in its row."""
    q, k, v = tensors(70, keys, 40, torch.bfloat16)
    clean = {name: run(q, k, v, design=name)[0] for name in others(40, keys)}
    q[0, 3, 1] = k[1, 65, 0] = v[0, 65, 0, 5] = torch.nan
    for name, expected in clean.items():
        expected[0, 3, 1] = expected[1, :, 0] = expected[0, :, 0, 5] = torch.nan
        torch.testing.assert_close(run(q, k, v, design=name)[0], expected, rtol=0, atol=0, equal_nan=True)


def test_in_runs_keys_and_values_arrive_once_for_a_head_of_a_block() -> None:
    """Two heads of 5 tiles over 4 blocks: runs of 3, 3, 2 and 2 tiles, so that two heads begin in 5 places."""
    q, k, v = tensors(300, 77, 40, torch.bfloat16, B=1)
    _, did = run(q, k, v, design="runs", multiprocessors=FEW)
    assert did["blocks"] == 4
    assert did["box_bytes"] == 2 * 64 * (10 * 64 + 5 * 2 * 80 + 10 * 64)


def test_the_polynomial_is_closer_than_16_bits_can_tell() -> None:
    """The same in float32 by torch, with the coefficients of the source: 2^x from where it is 0 to where it ends."""
    source = (ROOT / "csrc/attention/sm90/exponentials.h").read_text()
    c0, c1, c2, c3 = (float(each) for each in re.findall(r"c\d = ([0-9.]+)f", source))
    shift = float(re.findall(r"kInteger = ([0-9.]+)f", source)[0])
    x = torch.linspace(-126, 8, 1_000_001)
    shifted = x + shift
    f = x - (shifted - shift)
    power = (shifted.view(torch.int32) << 23).view(torch.float32)
    found = power * (c0 + f * (c1 + f * (c2 + f * c3)))
    off = (found.double() / torch.exp2(x.double()) - 1).abs().max()
    print(f"relative error {off:.2e}")
    assert off < 7.6e-5


def test_rows_that_are_one_row_go_to_the_kernel_of_sm_80_under_every_design() -> None:
    q, k, v = tensors(33, 70, 40, torch.bfloat16)
    q = q[:, :1].expand_as(q)
    expected = simulate(q, k, v, arch=80)
    for name in others(40, 70):
        out, did = run(q, k, v, design=name)
        assert torch.equal(out, expected[0])
        assert did == expected[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"design": "lazyy"}, "design: got 'lazyy'; allowed: '', 'exact', 'padded', 'lazy', .*'runs'"),
        ({"design": "lazy+l2_512"}, "design: got 'lazy\\+l2_512'.* followed by \\+l2_none or \\+l2_256"),
        ({"design": "lazy", "arch": 80}, "design: got 'lazy'; allowed: '', 'exact', 'padded', and"),
        ({"design": "runs"}, "design: runs is for up to 80 keys"),
    ],
    ids=["unknown", "promotion", "sm_80", "too many keys"],
)
def test_a_design_that_is_not_there_is_named(change: dict[str, object], message: str) -> None:
    q, k, v = tensors(7, 81, 40, torch.bfloat16)
    with pytest.raises(ValueError, match=message):
        run(q, k, v, **change)


def test_what_is_only_measured_is_not_there_in_float16() -> None:
    with pytest.raises(ValueError, match=r"design: got 'lazy'; allowed: '', 'exact', 'padded', and"):
        run(*tensors(7, 7, 40, torch.float16), design="lazy")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The designs that calls on a CUDA device, which the CPU poses as, ask for."""
    designs: list[str] = []
    monkeypatch.setattr(CHOICE, "_device_refusal", lambda q: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))

    def note(call: Call, *_: object) -> None:
        designs.append(call.design)

    monkeypatch.setattr(_ext, "attention_fwd", note)
    return designs


def test_one_constant_chooses_the_width_and_the_table_a_design(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tensors(9, 77, 40, torch.bfloat16)
    monkeypatch.setattr(CHOICE, "EXACT_WIDTHS", True)
    own_attention(*given)
    monkeypatch.setattr(CHOICE, "EXACT_WIDTHS", False)
    own_attention(*given)
    own_attention(*given, design="exact")
    monkeypatch.setattr(CHOICE, "AHEAD", (Ahead((9, 0), 40, (1, 64), (1, 77), "h200/attention.json", "runs"),))
    cuda_attention(*given)
    assert asked == ["exact", "padded", "exact", "runs"]


def test_a_design_that_the_table_names_is_in_every_build() -> None:
    for entry in AHEAD:
        _, *padded = builder().designs("sm90", entry.head_dim, "half")
        assert entry.design.split("+l2_")[0] in ("", "exact", *(["padded"] if padded else []))


def test_what_was_measured_is_data() -> None:
    """So that a program can write it: nothing but literals and entries of the table."""
    module = ast.parse((ROOT / "kernels/fewstep_kernels/measured.py").read_text())
    _, imported, *assigned = module.body
    assert isinstance(imported, ast.ImportFrom)
    assert [each.target.id for each in assigned] == ["EXACT_WIDTHS", "AHEAD"]
    calls = [each for each in ast.walk(module) if isinstance(each, ast.Call)]
    assert all(each.func.id == "Ahead" for each in calls)
    assert all(isinstance(ast.literal_eval(part), (str, int, tuple)) for each in calls for part in each.args)


def test_the_module_says_which_designs_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ext, "extension", lambda: _ext.Extension(SimpleNamespace(designs=lambda D: ["exact"]), None))
    assert _ext.designs(40) == ["exact"]
    monkeypatch.setattr(_ext, "extension", lambda: _ext.Extension(None, "not built"))
    assert _ext.designs(40) == []
