"""What adopt.py makes of results: the widths from golden.json, the shapes that are ahead from attention.json."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from support.gpu_parts import MEASURED, load

adopt: Any = load("adopt")
golden: Any = load("golden")

ALONE = [(64, 4096, 4096), (64, 256, 256)]


def row(shape: tuple[int, int, int], contender: str, us: float, spread: float = 0.1, **more: Any) -> dict[str, Any]:
    D, queries, keys = shape
    sizes = {"case": f"{more.pop('case', '')}{shape}", "head_dim": D, "queries": queries, "keys": keys}
    timing = {"status": "measured", "us": us, "us_p10": us - spread, "us_p90": us + spread}
    return sizes | {"contender": contender} | timing | more


def lead(shape: tuple[int, int, int], ahead: bool = True, case: str = "") -> list[dict[str, Any]]:
    others = [row(shape, "torch", 12.0, case=case), row(shape, "cudnn", 10.0, case=case)]
    return [*others, row(shape, "ours", 8.0 if ahead else 11.0, case=case)]


def written(
    folder: Path, rows: list[dict[str, Any]], widths: Any = True, arch: Any = (9, 0), name: str = "nvidia-h200"
) -> Path:
    """A folder of results."""
    home = folder / name
    home.mkdir(exist_ok=True)
    about = {"capability": arch and list(arch), "exact_widths": widths}
    (home / "attention.json").write_text(json.dumps({"about": about, "rows": rows}))
    (home / "golden.json").write_text(json.dumps({"about": {"exact_widths": widths}, "rows": []}))
    return home


def entries(decision: Any, arch: tuple[int, int] = (9, 0)) -> list[tuple[int, tuple[int, int], tuple[int, int]]]:
    return [(each.head_dim, each.queries, each.keys) for each in decision.ahead[arch]]


def test_ours_is_listed_where_it_leads_every_backend_by_more_than_the_spread(tmp_path: Path) -> None:
    near, right = (40, 64, 64), (40, 1024, 1024)
    rows = [*lead(right), row(near, "torch", 10.0, spread=0.5), row(near, "ours", 9.0, spread=1.0)]
    rows += [*lead((80, 8, 8), ahead=False), row((96, 8, 8), "ours", 1.0), *lead((128, 8, 8))[:2]]
    rows += [*lead((160, 8, 8))[:2], row((160, 8, 8), "ours", 1.0, status="wrong: off by 1.0e+00")]
    rows += [*lead((192, 8, 8), ahead=False), row((192, 8, 8), "ours, sm_80", 1.0)]
    rows += [*lead((256, 8, 8))[:2], row((256, 8, 8), "ours, laid out", 1.0)]
    assert entries(adopt.decide([written(tmp_path, rows)])) == [(40, (1024, 1024), (1024, 1024))]


def test_a_shape_of_two_cases_or_two_machines_is_listed_if_it_leads_in_all(tmp_path: Path) -> None:
    shape, other = (64, 1024, 1024), (64, 77, 77)
    one = written(tmp_path, lead(shape, case="SDXL") + lead(shape, ahead=False, case="ADM") + lead(other))
    assert entries(adopt.decide([one])) == [(64, (77, 77), (77, 77))]
    two = written(tmp_path, lead(other, ahead=False), name="nvidia-h100")
    assert entries(adopt.decide([two, one])) == []


def test_a_range_joins_neighbours_and_covers_nothing_that_is_behind(tmp_path: Path) -> None:
    squares = [lead((64, n, n), ahead=n != 256) for n in (64, 128, 256, 1024, 4096)]
    crossed = [lead((64, n, 77)) for n in (64, 1024, 4096)] + [lead((80, 64, 77))]
    decision = adopt.decide([written(tmp_path, [row for rows in [*squares, *crossed] for row in rows])])
    assert entries(decision) == [
        (64, (64, 128), (64, 128)),
        (64, (1024, 4096), (1024, 4096)),
        (64, (64, 4096), (77, 77)),
        (80, (64, 64), (77, 77)),
    ]
    inside = lead((64, 2000, 3000), ahead=False)
    decision = adopt.decide([written(tmp_path, [*squares[3], *squares[4], *inside])])
    assert entries(decision) == [(64, (1024, 1024), (1024, 1024)), (64, (4096, 4096), (4096, 4096))]


def test_a_range_does_not_reach_over_a_shape_that_there_was_no_time_for(tmp_path: Path) -> None:
    unmeasured = row((64, 1024, 1024), "", 0.0, status="not run: no time left")
    del unmeasured["contender"]
    rows = [*lead(ALONE[0]), unmeasured, *lead(ALONE[1])]
    assert entries(adopt.decide([written(tmp_path, rows)])) == [(64, (n, n), (n, n)) for n in (256, 4096)]


def test_the_careful_answer_about_widths_wins_and_others_times_are_not_ours(tmp_path: Path) -> None:
    exact, padded = written(tmp_path, lead(ALONE[0])), written(tmp_path, lead(ALONE[1]), widths=False, name="other")
    assert adopt.decide([exact]).exact_widths is True
    decision = adopt.decide([exact, padded])
    assert decision.exact_widths is False
    assert entries(decision) == [(64, (256, 256), (256, 256))]
    assert adopt.decide([written(tmp_path, [], widths=None)]).exact_widths is None


def test_what_no_result_speaks_of_stays(tmp_path: Path) -> None:
    source = tmp_path / "measured.py"
    source.write_text(MEASURED)
    folder = written(tmp_path, lead(ALONE[0]) + lead(ALONE[1]), widths=False)
    assert "-EXACT_WIDTHS: bool = True  # by what" in adopt.adopt([folder], source)
    text = source.read_text()
    assert text.startswith(
        '"""What was decided."""\n\nfrom there import Ahead\n\nEXACT_WIDTHS: bool = False  # by what\n'
    )
    assert text.endswith(")\n\nAFTER = 1\n")
    ast.parse(text)
    assert [line.strip() for line in text.splitlines() if "json" in line] == [
        'Ahead((8, 0), 40, (4096, 4096), (4096, 4096), "nvidia-a100/attention.json"),',
        'Ahead((9, 0), 64, (256, 4096), (256, 4096), "nvidia-h200/attention.json"),',
    ]
    stamp = source.stat().st_mtime_ns
    assert adopt.adopt([folder], source) == adopt.SAME
    assert (source.stat().st_mtime_ns, source.read_text()) == (stamp, text)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_nothing_ahead_empties_the_list_of_that_architecture_alone(tmp_path: Path) -> None:
    source = tmp_path / "measured.py"
    source.write_text(MEASURED)
    adopt.adopt([written(tmp_path, lead(ALONE[0], ahead=False))], source)
    assert source.read_text().count("Ahead(") == 1
    adopt.adopt([written(tmp_path, lead(ALONE[0], ahead=False), arch=(8, 0), name="a")], source)
    assert "AHEAD: tuple[Ahead, ...] = ()\n" in source.read_text()


@pytest.mark.parametrize("reports", [{}, {"attention.json": None}], ids=["no result", "a dry run's"])
def test_a_result_that_decides_nothing_says_so(
    reports: dict[str, None], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "kernels/fewstep_kernels"
    home.mkdir(parents=True)
    (home / "measured.py").write_text(MEASURED)
    monkeypatch.setattr(adopt, "ROOT", tmp_path)
    if reports:
        written(tmp_path, lead(ALONE[0]), widths=None, arch=None)
    assert adopt.main([str(tmp_path / "nvidia-h200")]) == 0
    assert "no result decides anything" in capsys.readouterr().out
    stem = tmp_path / "nvidia-h200/adopt"
    stem.parent.mkdir(exist_ok=True)
    assert adopt.main(["--from-out", "--out", str(stem)]) == 77
    assert json.loads(stem.with_suffix(".json").read_text())["not_run"] == [adopt.EMPTY]
    assert (home / "measured.py").read_text() == MEASURED


def test_the_check_changes_nothing_and_a_dry_run_writes_beside_its_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / adopt.MEASURED
    source.parent.mkdir(parents=True)
    source.write_text(MEASURED)
    monkeypatch.setattr(adopt, "ROOT", tmp_path)
    folder = written(tmp_path, lead(ALONE[0]))
    assert adopt.main(["--check", str(folder)]) == 1
    assert '+    Ahead((9, 0), 64, (4096, 4096), (4096, 4096), "nvidia-h200' in capsys.readouterr().out
    assert adopt.main(["--from-out", "--dry-run", "--out", str(folder / "adopt")]) == 0
    assert source.read_text() == MEASURED
    assert "nvidia-h200" in (folder / "measured.py").read_text()
    assert adopt.main([str(folder)]) == 0
    assert source.read_text() == (folder / "measured.py").read_text()
    assert adopt.main(["--check", str(folder)]) == 0


def test_the_librarys_own_file_can_be_rewritten(tmp_path: Path) -> None:
    own = adopt.ROOT / adopt.MEASURED
    copy = tmp_path / own.name
    copy.write_text(own.read_text())
    adopt.adopt([written(tmp_path, lead((160, 65536, 65536)), widths=False, name="nvidia-" + 20 * "x")], copy)
    names: dict[str, Any] = {}
    exec(copy.read_text(), names)
    assert names["EXACT_WIDTHS"] is False
    assert names["AHEAD"][-1].queries == (65536, 65536)
    assert max(map(len, copy.read_text().splitlines())) <= 120


def test_the_widths_are_wrong_where_only_their_probes_differ() -> None:
    names = [name for name, _ in golden.cases.answers(golden.cases.Probes(None))]
    right = dict.fromkeys(names, True)
    odd = golden.odd_widths()
    assert {"wgmma half: columns along rows, 40", "wgmma bfloat16: columns along rows, 160"} < odd
    assert not {"wgmma half: columns along rows, 128", "wgmma half: depth along rows, 40"} & odd
    assert golden.exact_widths(right, len(names)) is True
    assert golden.exact_widths(right | dict.fromkeys(odd, False), len(names)) is False
    assert golden.exact_widths(right | dict.fromkeys(sorted(odd)[:1], False), len(names)) is False
    assert golden.exact_widths(right | dict.fromkeys([*odd, "stmatrix x4"], False), len(names)) is None
    assert golden.exact_widths({name: right[name] for name in names[:-1]}, len(names)) is None
