"""Pictures: every kind is drawn and small, the same for the same report; without matplotlib the rest stands."""

from pathlib import Path

import pytest

from fewstep.bench.contenders import KINDS, Contender
from fewstep.bench.reports import pictures, rendered
from fewstep.bench.reports.plots.style import OTHER, color
from fewstep.bench.results import Report
from fewstep.cli.bench_view import page
from support.bench_report import sample

pytest.importorskip("matplotlib")


def only(report: Report, model: str) -> Report:
    """The part of one network."""
    rows = [row for row in report.rows if row.model == model]
    cold = [start for start in report.cold if start["model"] == model]
    about = (report.machine, report.settings, report.models, report.contenders)
    return Report(*about, rows, cold, report.ceilings, report.advice, report.when)


@pytest.mark.slow
def test_every_kind_of_picture_is_drawn_and_small_and_the_same_again() -> None:
    report = only(sample(names={"terrain": "$x_1$ a|b\n<c>"}), "digits")
    drawn = pictures(report)
    names = {
        "latency-digits.png",
        "waterfall-digits.png",
        "scaling-digits.png",
        "roofline.png",
        "cold.png",
        "quality.png",
    }
    assert drawn.keys() == names
    assert all(len(content) < 150_000 for content in drawn.values())
    assert pictures(Report.from_dict(report.to_dict())) == drawn


def test_every_kind_of_contender_has_a_colour_of_its_own() -> None:
    colors = [color(Contender(kind)) for kind in KINDS]
    assert OTHER not in colors
    assert len({*colors}) == len(colors)


@pytest.mark.slow
def test_no_name_stops_a_picture_or_leaves_its_folder(tmp_path: Path) -> None:
    name = "$x_1$ ../a|b\n<c>"
    report = only(sample(runs=1, names={"terrain": name}), name)
    paths = report.save(tmp_path, rendered(report))
    assert {path.parent for path in paths} == {tmp_path}
    assert (tmp_path / "latency-x-1-a-b-c.png").exists()


def test_without_matplotlib_numbers_and_text_are_written_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fewstep.bench.reports.find_spec", lambda name: None)
    report = sample(runs=1)
    paths = report.save(tmp_path, rendered(report))
    assert {path.name for path in paths} == {"bench.json", "bench.csv", "bench.md", "bench.html"}
    assert "matplotlib" in (tmp_path / "bench.html").read_text()
    assert "pip install 'fewstep[plot]'" in page(report, paths)
    assert Report.load(tmp_path / "bench.json").to_csv() == report.to_csv() == (tmp_path / "bench.csv").read_text()


def test_a_network_without_a_time_has_no_picture() -> None:
    report = only(sample(runs=1), "digits")
    rows = [row for row in report.rows if row.contender == "onnxruntime"]
    assert pictures(Report(report.machine, {}, report.models, report.contenders, rows)) == {}
