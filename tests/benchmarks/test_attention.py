"""benchmarks/attention.py on a CPU: what is wrong or refuses has no time, and ours alone is a check."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep_kernels.attention import torch_attention
from support.attention_shapes import UNETS
from support.gpu_parts import load

bench: Any = load("attention")
cases: Any = load("attention_cases")
others: Any = load("attention_contenders")

CASE = cases.Case("small cross", 1, 2, 20, 77, 40)
CEILINGS = cases.Ceilings(operations=1e12, exponentials=1e9, bytes=1e11)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs the benchmark of `CASE` with these contenders beside torch's own; gives the exit code and the rows."""

    def with_contenders(*added: Any, seconds: float = 60.0) -> tuple[int, dict[str, dict[str, Any]], Any]:
        every = [others.Contender("torch", torch_attention), *added]
        monkeypatch.setattr(bench, "contenders", lambda case, device: every)
        options = argparse.Namespace(out=None, dry_run=True, device=torch.device("cpu"), seconds=seconds)
        script = bench.Bench(options)
        return script.run(), {row.get("contender", ""): row for row in script.report.rows}, script.report

    monkeypatch.setattr(cases.Ceilings, "of", lambda device, dry_run: CEILINGS)
    monkeypatch.setattr(bench, "TINY", (CASE,))
    return with_contenders


def off_by(factor: float) -> Any:
    return lambda q, k, v: torch_attention(q, k, v) * factor


def raises(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    raise RuntimeError("the kernel broke\nand said more")


def test_ours_is_a_check_and_is_timed_only_if_it_is_right(run: Any) -> None:
    code, rows, report = run(others.Contender("ours", torch_attention, is_ours=True))
    assert (code, report.passed, report.failed) == (0, 1, 0)
    assert rows["ours"]["status"] == "measured"
    assert rows["ours"]["allowed"] == 2 * rows["torch"]["error"]
    for attend, status in ((off_by(2.0), "wrong: off by 1.0e+00"), (raises, "failed: RuntimeError: the kernel broke")):
        code, rows, report = run(others.Contender("ours", attend, is_ours=True))
        assert (code, report.passed, report.failed) == (1, 0, 1)
        assert rows["ours"]["status"] == status
        assert "us" not in rows["ours"]


def test_another_that_is_wrong_or_refuses_says_so_and_fails_nothing(run: Any) -> None:
    ours = others.Contender("ours", torch_attention, is_ours=True)
    wrong, nan = others.Contender("wrong", off_by(2.0)), others.Contender("nan", off_by(float("nan")))
    absent = others.Contender("absent", others.flash_attention("no_such_package", "nor.this"))
    code, rows, report = run(ours, wrong, nan, absent, others.Contender("broken", raises))
    assert (code, report.passed, report.failed) == (0, 1, 0)
    assert {name: row["status"] for name, row in rows.items()} == {
        "torch": "measured",
        "ours": "measured",
        "wrong": "wrong: off by 1.0e+00",
        "nan": "wrong: off by nan",
        "absent": "not run: not here (no_such_package: ModuleNotFoundError, nor.this: ModuleNotFoundError)",
        "broken": "failed: RuntimeError: the kernel broke",
    }


def test_without_ours_nothing_is_proven(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "own_refusal", lambda device: "it is not built")
    code, rows, report = run()
    assert code == 77
    assert report.not_run == ["ours: it is not built"]
    assert rows["torch"]["status"] == "measured"


def test_the_summary_sets_the_fastest_of_ours_beside_the_fastest_other() -> None:
    def row(contender: str, us: float, status: str = "measured") -> dict[str, Any]:
        known = {"case": "a", "contender": contender, "status": status}
        return known | ({"us": us, "of_torch": 12.0 / us, "share_of_floor": 3.0 / us} if status == "measured" else {})

    rows = [row("torch", 12.0), row("ours", 8.0), row("ours, sm_80", 6.0), row("FA3", 9.0), row("math", 0.0, "wrong")]
    (line,) = bench.summary(rows)
    assert " ".join(line.split()) == "a ours, sm_80 6.00 us 50.0% of the floor 2.00 x torch, 1.50 x FA3"
    assert not list(bench.summary([row("torch", 12.0), row("ours", 0.0, "wrong: off by 1.0e+00")]))


def test_a_case_that_there_is_no_time_for_is_a_row_that_says_so(run: Any) -> None:
    _, rows, _ = run(seconds=-1.0)
    assert rows[""]["case"] == "small cross"
    assert rows[""]["status"] == "not run: no time left"


def test_a_row_counts_the_true_work(run: Any) -> None:
    _, rows, _ = run()
    row = rows["torch"]
    assert row["TFLOP/s"] == pytest.approx(4 * 2 * 20 * 77 * 40 / row["us"] / 1e6)
    assert row["floor_us"] == pytest.approx(1e6 * 2 * 20 * 77 / 1e9)
    assert row["bound"] == "exponentials"
    assert row["share_of_floor"] == pytest.approx(row["floor_us"] / row["us"])
    assert row["of_torch"] == 1.0


@pytest.mark.parametrize(
    ("ceilings", "bound", "seconds"),
    [
        ((1e9, 1e12, 1e12), "products", 4 * 2 * 20 * 77 * 40 / 1e9),
        ((1e12, 1e12, 1e6), "bytes", 2 * 40 * 2 * 2 * (20 + 77) / 1e6),
    ],
    ids=["products", "bytes"],
)
def test_the_floor_is_the_longest_of_three_times(
    ceilings: tuple[float, float, float], bound: str, seconds: float
) -> None:
    assert cases.Ceilings(*ceilings).floor(CASE) == (pytest.approx(seconds), bound)


def test_the_exact_result_is_that_of_the_whole_batch() -> None:
    q, k, v = cases.Case("three samples", 3, 2, 5, 7, 8).tensors(torch.device("cpu"))
    expected = torch_attention(q.double(), k.double(), v.double())
    torch.testing.assert_close(cases.exact(q, k, v), expected, rtol=1e-12, atol=1e-12)


def test_every_attention_of_the_tests_is_measured() -> None:
    measured = {(case.B, case.H, case.Lq, case.Lk, case.D) for case in cases.CASES}
    assert set(UNETS.values()) <= measured


def test_cross_attention_is_given_laid_out_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(others, "own", lambda device: torch_attention)
    names = {
        is_cross: [each.name for each in others.contenders(case, torch.device("cpu")) if each.laid_out]
        for is_cross, case in ((True, CASE), (False, cases.TINY[0]))
    }
    assert names == {True: ["torch, laid out", "ours, laid out"], False: []}
    q, k, v = CASE.tensors(torch.device("cpu"))
    given = others.Contender("", torch_attention, laid_out=True).arguments(q, k, v)
    assert torch.equal(given[1], k)
    assert given[1].stride() == (2 * 2 * 77 * 40, 40, 77 * 40, 1)


def test_a_head_dim_that_is_not_built_is_not_run_and_no_fault(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(others, "head_dim_refusal", lambda device, D: f"no kernel for {D}")
    ours = next(each for each in others.contenders(CASE, torch.device("cpu")) if each.is_ours)
    code, rows, report = run(ours)
    assert (code, report.passed, report.failed) == (77, 0, 0)
    assert rows["ours"]["status"] == "not run: no kernel for 40"


def test_the_older_kernel_is_asked_for_by_its_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(others, "own_attention", lambda q, k, v, arch: asked.append(arch))
    monkeypatch.setattr(others, "own", lambda device: torch_attention)
    for capability, expected in (((8, 9), 0), ((9, 0), 1)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        older = [each for each in others.contenders(CASE, torch.device("cuda")) if each.name == "ours, sm_80"]
        assert len(older) == expected
    older[0].attend(*CASE.tensors(torch.device("cpu")))
    assert asked == [80]


def test_a_backend_that_refuses_gives_torchs_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        import warnings

        for text in (
            "Flash attention kernel not used because: (Triggered internally at a.cpp:3.)",
            "Flash attention requires head_dim <= 256 (Triggered internally at a.cpp:4.)",
            "CuDNN attention has been runtime disabled.",
        ):
            warnings.warn(text, stacklevel=1)
        raise RuntimeError("No available kernel. Aborting execution.")

    monkeypatch.setattr(others, "torch_attention", refuse)
    attend = others.pinned(others.SDPBackend.FLASH_ATTENTION)
    with pytest.raises(others.NotHereError, match=r"^Flash attention requires head_dim <= 256$"):
        attend(*CASE.tensors(torch.device("cpu")))


def test_the_script_walks_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(sys, "argv", ["attention.py", "--dry-run", "--out", str(tmp_path / "attention")])
    assert bench.main() == 0
    assert (tmp_path / "attention.csv").read_text().startswith("case,B,H,queries,keys,head_dim,dtype,contender,")
