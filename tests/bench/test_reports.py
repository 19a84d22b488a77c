"""A report in words: it fits the page, names who is missing, gives no speed for wrong images, and no name steers it."""

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from fewstep.bench.reports import facts, to_html, to_markdown
from fewstep.bench.reports.scores import REAL, SAMPLER, STUDENTS
from fewstep.bench.results import FORMAT, Report, Row
from fewstep.cli.bench_view import page
from support.bench_report import ADVICE, sample
from support.tree import ROOT

NASTY = "a|b<script>alert(1)</script>$x$\n# `c` [d](e) \x1b[31m\"'&amp;"
FORMS: dict[str, Callable[[Report], str]] = {
    "page": lambda report: page(report, []),
    "markdown": to_markdown,
    "html": lambda report: to_html(report, {}),
    "csv": Report.to_csv,
}


@pytest.fixture(scope="module")
def report() -> Report:
    return sample()


@pytest.fixture(scope="module")
def nasty() -> Report:
    return sample(runs=1, names={"digits": NASTY})


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_page_fits_the_terminal_and_its_last_words_are_the_advice(
    monkeypatch: pytest.MonkeyPatch, report: Report, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = page(report, [Path("out/bench.json")])
    assert max(map(len, shown.splitlines())) <= columns
    assert " ".join(shown.split()).endswith(ADVICE)
    if columns == 80:
        assert len(shown.splitlines()) < 170


def test_a_network_has_times_with_the_ratio_and_its_interval(monkeypatch: pytest.MonkeyPatch, report: Report) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = page(report, [])
    row = next(row for row in report.rows if (row.contender, row.steps, row.batch) == ("engine openvino", 8, 4))
    assert row.ratio is not None
    assert f"{row.ms_per_image:.1f}  {row.ratio:.2f} ({row.ratio_low:.2f}..{row.ratio_high:.2f})" in shown
    assert "Student's t" in shown
    assert "bootstrap" in page(sample(runs=1), [])


@pytest.mark.parametrize("form", ["page", "markdown", "html"])
def test_wrong_images_have_no_speed(report: Report, form: str) -> None:
    fast = 98765.4
    told = next(row for row in report.rows if row.status.startswith("wrong"))
    one = Report(
        report.machine,
        report.settings,
        report.models,
        report.contenders,
        [row if row is not told else _pretending(row, fast) for row in report.rows],
        [{"model": told.model, "contender": told.contender, "status": "measured", "import_seconds": 77123.0}],
    )
    shown = FORMS[form](one)
    assert told.contender in shown
    shown = re.sub(r'data-value="0[.]0*[0-9]+"|data-value="[0-9]{1,4}[.][0-9]+"', "", shown)
    for number in ("98765", "98,765", "9.877e+04", "9.88e+04", "77123", "7.71e+04"):
        assert number not in shown


def test_wrong_images_have_no_speed_in_the_table_of_numbers(report: Report) -> None:
    rows = [row for row in csv.DictReader(io.StringIO(report.to_csv())) if row["status"].startswith("wrong")]
    assert rows
    speeds = ("min_ms", "median_ms", "ms_per_image", "images_per_s", "ratio", "outside_us", "tflops", "of_floor")
    assert {row[name] for row in rows for name in speeds} == {""}


def _pretending(row: Row, milliseconds: float) -> Row:
    """A wrong row into which a time has come all the same."""
    times = dict.fromkeys(("min_ms", "median_ms", "p90_ms", "ms_per_image", "images_per_s", "of_floor"), milliseconds)
    return Row(**{**vars(row), **times, "ratio": milliseconds, "outside_us": milliseconds})


@pytest.mark.parametrize("form", ["page", "markdown", "html"])
def test_who_is_missing_is_named_once_with_the_reason(report: Report, form: str) -> None:
    shown = " ".join(FORMS[form](report).split())  # a page wraps its lines
    for line in ("onnxruntime: not installed: pip install onnxruntime", "compile reduce-overhead: not asked for"):
        assert shown.count(line) == 1
    assert "diffusers: its pipelines take no labels (digits); its layout is another (terrain)" in shown


def test_both_dtypes_of_one_who_is_missing_are_one_name() -> None:
    report = sample(runs=1)
    rows = [row for row in report.rows if row.kind != "engine"]
    absent = [Row(**{**vars(row), "status": "no"}) for row in report.rows if row.backend == "openvino"]
    found = facts.missing(Report(report.machine, {}, {}, report.contenders, [*rows, *absent]))
    assert ["engine openvino"] in [each.names for each in found]


@pytest.mark.parametrize("form", FORMS)
def test_no_name_steers_what_it_stands_in(nasty: Report, form: str) -> None:
    shown = FORMS[form](nasty)
    assert "\x1b" not in shown or form == "csv"
    if form == "html":
        assert "<script>alert" not in shown
        assert shown.count("<script>") == shown.count("</script>") == 1
    elif form == "markdown":
        tables = [line for line in shown.splitlines() if line.startswith("|")]
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in tables}
        assert len(cells) < 8
        assert "<script" not in shown.split("## Again")[0]  # behind it there is a block of code
        assert not [line for line in shown.splitlines() if line.startswith("# `")]
    elif form == "csv":
        rows = list(csv.DictReader(io.StringIO(shown)))
        assert {row["model"] for row in rows} == {NASTY, "cifar10-ddpm", "terrain"}
    else:
        assert not [line for line in shown.splitlines() if line.startswith("# `")]


@pytest.mark.parametrize("form", FORMS)
def test_the_same_report_is_the_same_text(report: Report, form: str) -> None:
    again = Report.from_dict(report.to_dict())
    assert FORMS[form](again) == FORMS[form](report)


def test_a_report_of_nobody_is_a_report() -> None:
    report = sample(runs=1)
    rows = [Row(**{**vars(row), "status": "not measured yet", "ms_per_image": None}) for row in report.rows]
    nobody = Report(report.machine, {}, report.models, report.contenders, rows)
    for form in FORMS.values():
        assert "not measured yet" in form(nobody)


def test_scores_are_those_of_record() -> None:
    for score in STUDENTS:
        kept = ROOT / f"benchmarks/results/digits/{score.steps}-step/evaluate/evaluate.json"
        found = json.loads(kept.read_text())
        row = next(row for row in found["rows"] if (row["sampler"], row["steps"]) == (SAMPLER, score.steps))
        told = (row["accuracy"], row["frechet"], row["frechet_spread"], found["real"]["frechet"])
        assert (score.accuracy, score.frechet, score.spread, REAL) == pytest.approx(told, rel=2e-3)


def test_the_format_is_written_into_the_record(report: Report) -> None:
    assert report.to_dict()["format"] == FORMAT
