"""Which attention runs, and what becomes of arguments that the hand-written kernel cannot take."""

import json
import mmap
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from fewstep_kernels import _ext, attention, reference
from fewstep_kernels.ahead import Ahead, ahead
from fewstep_kernels.attention import cuda_attention, forced, own_attention
from fewstep_kernels.attention_call import Call, check_attention, prepare, refusal
from fewstep_kernels.measured import AHEAD
from support.simulation import SHARED_LIMITS, emulator, errors, extent, simulate, tensors
from support.tree import ROOT

CHOICE = sys.modules[cuda_attention.__module__]
SAMPLE = tensors(9, 77, 40, torch.bfloat16)


def narrow(D: int, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor, Tensor]:
    return tensors(5, 6, D, dtype)


def misplaced(x: Tensor) -> Tensor:
    """The same values two bytes off an aligned address."""
    return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)


REFUSED = {
    "head dim 7": (narrow(7), None, "the head dim 7 is not a multiple of 8 up to 256"),
    "head dim 264": (narrow(264), None, "the head dim 264 is not a multiple of 8 up to 256"),
    "float64": (narrow(40, torch.float64), None, "torch.float64 is not bfloat16 or float16"),
    "float32": (narrow(40, torch.float32), None, "torch.float32 is not bfloat16 or float16"),
    "last dim apart": (
        tuple(each.transpose(1, 3).contiguous().transpose(1, 3) for each in SAMPLE),
        None,
        "q is not contiguous along the head dim",
    ),
    "two bytes off": (
        (SAMPLE[0], misplaced(SAMPLE[1]), SAMPLE[2]),
        None,
        "k has rows that are not aligned to 16 bytes",
    ),
    "rows of 41": (tuple(each[..., :40] for each in narrow(41)), None, "q has rows that are not aligned to 16 bytes"),
    "empty batch": (tuple(each[:0] for each in SAMPLE), None, "nothing to attend to"),
    "no queries": ((SAMPLE[0][:, :0], *SAMPLE[1:]), None, "nothing to attend to"),
    "no keys": ((SAMPLE[0], *(each[:, :0] for each in SAMPLE[1:])), None, "nothing to attend to"),
    "scale of 0": (SAMPLE, 0.0, "the scale 0.0 is not positive and finite"),
    "negative scale": (SAMPLE, -0.3, "the scale -0.3 is not positive and finite"),
}


@pytest.mark.parametrize(("given", "scale", "why"), REFUSED.values(), ids=REFUSED)
def test_what_the_kernel_does_not_take_is_named_and_torch_gives_the_right_answer(
    given: tuple[Tensor, Tensor, Tensor], scale: float | None, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert str(refusal(*given, scale)).endswith(why)
    monkeypatch.setenv("FEWSTEP_ATTENTION", "ours")
    out, exact = cuda_attention(*given, scale), reference.attention(*(each.double() for each in given), scale)
    assert out.shape == given[0].shape
    assert torch.equal(attention(*given, scale), out)
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=4 * torch.finfo(out.dtype).eps)


def test_more_than_2_to_the_31_elements_are_counted_in_64_bits() -> None:
    """Two rows 2^31 elements apart, in memory that is hardly touched; and more blocks than can be numbered."""
    q, k, v = SAMPLE
    memory = mmap.mmap(-1, 2 * (2**31 + 80), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    untouched = torch.frombuffer(memory, dtype=torch.bfloat16)
    far = untouched.as_strided((2, 1, 2, 40), (2**31, 80, 40, 1))
    far.copy_(q[:, :1])
    assert refusal(far, k, v) is None
    assert torch.equal(simulate(far, k, v)[0], simulate(q[:, :1].contiguous(), k, v)[0])
    many = untouched.as_strided((2**27, 2**11, 1, 8), (0, 8, 8, 1))
    assert str(refusal(many, many, many)).endswith("too much for the 32-bit indices of blocks and rows")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": SAMPLE[1].half()}, TypeError, "k: got torch.float16; allowed: torch.bfloat16"),
        ({"v": SAMPLE[2].to("meta")}, ValueError, "v: got a tensor on meta; allowed: cpu"),
        ({"q": SAMPLE[0][0]}, ValueError, r"q: got \[9, 2, 40\]; allowed: \[B, Lq, H, D\]"),
        ({"k": SAMPLE[1][:, :, :1]}, ValueError, r"k: got \[2, 77, 1, 40\]; allowed: \[2, Lk, 2, 40\]"),
        ({"v": SAMPLE[2][:, :76]}, ValueError, r"v: got \[2, 76, 2, 40\]; allowed: \[2, 77, 2, 40\]"),
    ],
    ids=["dtypes", "devices", "dims", "heads", "lengths"],
)
def test_tensors_that_do_not_belong_together_are_named(
    change: dict[str, Tensor], error: type[Exception], message: str
) -> None:
    given = dict(zip("qkv", SAMPLE, strict=True)) | change
    for call in (check_attention, attention, own_attention, cuda_attention):
        with pytest.raises(error, match=message):
            call(**given)


def test_own_attention_says_why_it_cannot_run_here() -> None:
    with pytest.raises(RuntimeError, match="for CUDA devices, not for cpu"):
        own_attention(*SAMPLE)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The CPU as a CUDA device that the emulator drives; tells which attention ran."""
    ran: list[str] = []

    def emulate(call: Call, _: torch.device, arch: int | None = None) -> None:
        ran.append("ours")
        ranges = [*(extent(each, False) for each in SAMPLE), (call.pointers[3], SAMPLE[0].nbytes, True)]
        emulator().attention_fwd(*call, 132, 80, ranges, 0, SHARED_LIMITS[80])

    monkeypatch.setattr(CHOICE, "_device_refusal", lambda q: None)
    monkeypatch.setattr(_ext, "attention_fwd", emulate)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    return ran


def test_ours_runs_only_where_it_is_asked_for_or_ahead(device: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_attention(*SAMPLE)
    assert device == []
    monkeypatch.setenv("FEWSTEP_ATTENTION", "ours")
    ours, theirs = errors(cuda_attention(*SAMPLE), *SAMPLE)
    assert device == ["ours"]
    assert ours <= 2 * theirs
    monkeypatch.delenv("FEWSTEP_ATTENTION")
    monkeypatch.setattr(CHOICE, "AHEAD", (Ahead((9, 0), 40, (1, 4096), (77, 77), "h200/attention.json"),))
    cuda_attention(*SAMPLE)
    assert device == ["ours", "ours"]
    monkeypatch.setenv("FEWSTEP_ATTENTION", "torch")
    cuda_attention(*SAMPLE)
    assert device == ["ours", "ours"]


def test_the_table_covers_an_architecture_a_head_dim_and_lengths() -> None:
    entry = Ahead((9, 0), 40, (256, 4096), (1, 77), "h200/attention.json")
    assert ahead((entry,), (9, 0), 40, 4096, 77) == entry
    for other in (((8, 0), 40, 4096, 77), ((9, 0), 48, 4096, 77), ((9, 0), 40, 255, 77), ((9, 0), 40, 4096, 78)):
        assert ahead((entry,), *other) is None


def shown(entry: Ahead, results: Path) -> bool:
    """Whether its result has ours measured right and faster than all others, at lengths the entry covers."""
    rows = json.loads((results / entry.result).read_text())["rows"]
    covered = [
        row for row in rows
        if row["status"] == "measured" and ahead((entry,), entry.arch, row["head_dim"], row["queries"], row["keys"])
    ]  # fmt: skip
    best = {name: [row for row in covered if (row["contender"] == "ours") == name] for name in (True, False)}
    return bool(best[True]) and all(
        mine["error"] <= mine["allowed"] and mine["us"] < other["us"]
        for mine in best[True]
        for other in best[False]
        if mine["case"] == other["case"]
    )


def test_every_entry_of_the_table_is_shown_by_its_result() -> None:
    assert not [entry for entry in AHEAD if not shown(entry, ROOT / "benchmarks" / "results")]


def test_an_entry_that_its_result_does_not_show_is_found(tmp_path: Path) -> None:
    entry = Ahead((9, 0), 40, (4096, 4096), (4096, 4096), "attention.json")
    row = {"case": "SD", "queries": 4096, "keys": 4096, "head_dim": 40, "status": "measured", "allowed": 4e-3}
    ours, theirs = row | {"contender": "ours", "error": 2e-3}, row | {"contender": "torch", "error": 2e-3, "us": 130.0}
    for mine, expected in (
        (ours | {"us": 100.0}, True),
        (ours | {"us": 140.0}, False),
        (ours | {"us": 100.0, "error": 5e-3}, False),
        (ours | {"us": 100.0, "head_dim": 64}, False),
    ):
        (tmp_path / "attention.json").write_text(json.dumps({"rows": [mine, theirs]}))
        assert shown(entry, tmp_path) == expected


def test_a_wrong_choice_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWSTEP_ATTENTION", "theirs")
    with pytest.raises(ValueError, match="FEWSTEP_ATTENTION: got 'theirs'; allowed: ours, torch"):
        forced()


def test_a_size_of_one_has_no_stride_to_refuse() -> None:
    """torch leaves it to chance: here 41, which no kernel would take for rows."""
    q, k, v = narrow(40)
    odd = q[:1, :1, :1].as_strided((1, 1, 1, 40), (41, 41, 41, 1))
    assert refusal(odd, k[:1, :, :1], v[:1, :, :1]) is None
    assert prepare(odd, k, v, odd).strides[0] == [0, 0, 0]


@pytest.mark.parametrize(
    ("driver", "arch", "why"),
    [
        (12080, (9, 0), "the driver is of CUDA 12.8, and fewstep_kernels._C needs one of CUDA 13.0 (580) or newer"),
        (13000, (7, 5), "sm_75 is older than sm_80"),
        (13000, (8, 9), None),
    ],
    ids=["an old driver", "an old device", "both new enough"],
)
def test_an_old_driver_or_device_is_named(
    driver: int, arch: tuple[int, int], why: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = SimpleNamespace(driver_version=lambda: driver)
    monkeypatch.setattr(_ext, "extension", lambda: _ext.Extension(module, None))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: arch)
    assert _ext.device_refusal.__wrapped__(0) == why


def test_a_head_dim_above_what_was_built_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(head_dims=lambda: [40, 160])
    monkeypatch.setattr(_ext, "extension", lambda: _ext.Extension(module, None))
    assert [_ext.head_dim_refusal.__wrapped__(D) for D in (8, 40, 48, 160)] == [None] * 4
    assert _ext.head_dim_refusal.__wrapped__(168) == (
        "the head dim 168 is above all that fewstep_kernels._C was built for, 40, 160; FEWSTEP_HEAD_DIMS=all adds some"
    )


def test_without_the_module_the_reason_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name, name=name)

    monkeypatch.setattr("fewstep_kernels._ext.importlib.import_module", missing)
    assert _ext.extension.__wrapped__().why_not == (
        "fewstep_kernels._C is not built; `make build` does it where there is nvcc"
    )
