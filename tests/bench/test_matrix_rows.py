"""What is said of rows that are there: one sentence of advice, and whether two results agree."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fewstep.bench.advice import advice
from fewstep.bench.compare import compare, load
from fewstep.bench.contenders import COMPILE, DIFFUSERS, EAGER, ENGINE, Contender
from fewstep.bench.results import Report, Row
from fewstep.cli import main
from fewstep.errors import ArgumentError
from support.tree import ROOT

HALF = Contender(ENGINE, "openvino", "bfloat16")
MACHINE = dict.fromkeys(("cpu", "device", "threads", "torch", "diffusers", "fewstep"), "made up")


def row(contender: Contender, ms: float, ratio: float | None = None, model: str = "net", **more: Any) -> Row:
    ratio = ms / 100 if ratio is None else ratio
    told: dict[str, Any] = {
        "status": "measured",
        "difference": None if contender.kind == EAGER else 2e-3,
        "median_ms": ms,
        "ratio": ratio,
        "ratio_low": 0.95 * ratio,
        "ratio_high": 1.05 * ratio,
        **more,
    }
    about: dict[str, Any] = {"kind": contender.kind, "backend": contender.backend, "dtype": contender.dtype}
    return Row(model, told.pop("sampler", "ddim"), 4, 1, contender.name, told.pop("status"), **about, **told)


def rows(engine: float = 90.0, openvino: float = 30.0, **more: Any) -> list[Row]:
    return [
        row(Contender(ENGINE), engine, **more),
        row(HALF, openvino, ratio=openvino / 80, **more),
        row(Contender(EAGER), 100.0, **more),
        row(Contender(EAGER, dtype="bfloat16"), 80.0, ratio=1.0, **more),
        row(Contender(COMPILE), 60.0, **more),
    ]


def test_the_fastest_engine_is_advised_with_what_it_gains_over_eager_and_compiled() -> None:
    assert advice(rows()) == (
        "Use backend='openvino' in bfloat16: 3.33 times as fast as the eager reference and 2.00 times torch.compile "
        "at batch 1, 4 steps; images within 2e-03."
    )


def test_where_nothing_gains_the_advice_says_so_and_who_is_faster() -> None:
    assert advice(rows(engine=101.0, openvino=120.0)) == (
        "Nothing to switch on gains beyond its interval: at best the engine takes 1.01 times the eager reference's "
        "time at batch 1, 4 steps; compile is faster still, 1.68 times as fast as that."
    )


def test_a_gain_within_its_interval_is_none() -> None:
    assert advice(rows(engine=97.0, openvino=120.0)).startswith("Nothing to switch on gains")


def test_what_is_wrong_in_one_case_is_advised_in_none() -> None:
    wrong = row(HALF, 1.0, sampler="ddpm", status="wrong: off by 1")
    assert advice([*rows(), wrong]).startswith("Use backend='torch':")


def test_several_networks_share_one_sentence() -> None:
    both = rows(model="a") + rows(model="b", engine=101.0, openvino=120.0)
    text = advice(both)
    assert text.startswith("Use backend='openvino' in bfloat16 for a (3.33 times as fast")
    assert text.endswith("for b nothing gains beyond its interval.")
    assert advice(rows(model="b", engine=101.0, openvino=120.0) + rows(model="c", engine=101.0, openvino=120.0)) == (
        "For b and c nothing gains beyond its interval."
    )


def test_without_rows_there_is_no_advice() -> None:
    assert advice([]) == ""
    assert advice([row(Contender(ENGINE), 1.0, status="not installed")]) == ""


def report(found: list[Row]) -> Report:
    return Report(MACHINE, {}, {"net": {"title": "a net"}}, [Contender(ENGINE)], found)


def saved(folder: Path, found: list[Row]) -> Path:
    folder.mkdir()
    (folder / "bench.json").write_text(json.dumps(report(found).to_dict()))
    return folder


def test_rows_agree_where_their_intervals_overlap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = rows(), rows()
    second[1] = row(HALF, 60.0, ratio=60 / 80)  # 0.375 before
    second.append(row(Contender(DIFFUSERS), 110.0))
    found = compare(report(first), report(second))
    assert (len(found.pairs), len(found.apart), found.alone) == (3, 1, (0, 1))
    assert found.share == pytest.approx(2 / 3)
    paths = [str(saved(tmp_path / name, each)) for name, each in (("a", first), ("b", second))]
    assert main(["bench", "--compare", *paths]) == 0
    page = capsys.readouterr().out
    assert "2 of 3 rows agree (66.7%)" in page
    assert "engine openvino bfloat16" in page
    assert "0.375 (0.356..0.394)" in page
    assert "in the second alone: 1" in page
    assert main(["bench", "--compare", *paths, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["apart"][0]["second"] == pytest.approx([0.75, 0.7125, 0.7875])


def test_a_result_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = saved(tmp_path / "a", rows())
    with pytest.raises(ArgumentError, match="compare"):
        load(tmp_path / "b")
    assert main(["bench", "--compare", str(there), str(tmp_path / "b")]) == 2
    assert "allowed: a bench.json that fewstep bench --out wrote" in capsys.readouterr().err


def test_another_case_is_another_row() -> None:
    first = rows()
    second = [replace(each, batch=4) for each in first]
    found = compare(report(first), report(second))
    assert (found.pairs, found.alone) == ([], (3, 3))
    assert found.share == 0


def test_the_results_of_record_and_the_same_again_agree_as_often_as_their_intervals_promise() -> None:
    first = ROOT / "benchmarks/results/amd-epyc-2-cores"
    found = compare(load(first), load(first / "again"))
    print(f"{len(found.pairs) - len(found.apart)} of {len(found.pairs)}")
    assert len(found.pairs) >= 30
    assert found.share >= 0.95
