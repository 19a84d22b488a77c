"""benchmarks/in_flight.py: contenders that draw the same, batches that wait as they say, a verdict that adds up."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from support.gpu_parts import load

script: Any = load("in_flight")
contenders: Any = load("in_flight_contenders")


@pytest.mark.slow
def test_a_dry_run_has_a_row_for_every_contender_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--dry-run", "--rates", "0.4", "--threads", "1", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    report = json.loads((tmp_path / "out/in_flight.json").read_text())
    assert {row["contender"].split(" ")[0] for row in report["rows"]} == {"in", "equal", "static"}
    assert all(row["requests"] > 0 for row in report["rows"])
    assert report["deadlines"]["requests"] > 0
    assert set(report["deadlines"]["steps_given"]) <= {"1", "2", "4", "8"}
    assert (tmp_path / "out/in_flight.png").read_bytes().startswith(b"\x89PNG")
    assert "images differ by 0 of 255 at most" in said
    assert "samples/step" in said


class Drawing:
    """An engine that only says which batches it was given."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def sample(self, n: int, *, steps: list[int], **_: Any) -> Any:
        self.batches.append(steps)
        return SimpleNamespace(numpy=lambda: np.zeros((n, 2, 2, 1), np.uint8))


@pytest.mark.parametrize(
    ("equal", "expected"),
    [(True, [[3, 3], [1, 1], [3]]), (False, [[3, 1], [3, 1], [3]])],
    ids=["equal steps", "whatever comes"],
)
def test_batches_are_full_or_have_waited(equal: bool, expected: list[list[int]]) -> None:
    engine = Drawing()
    batches = contenders.Batches("it", engine, 2, 0.05, equal=equal)
    visits = [contenders.Visit(0.0, steps, 0, 0) for steps in (3, 1, 3, 1, 3)]
    images = script.Images()
    batches._done = images.take
    for visit in visits:
        batches.submit(visit)
    drawn: list[list[int]] = []
    while sum(map(len, drawn)) < len(visits):
        batch = batches._next()
        drawn.append([visit.steps for visit in batch])
    assert drawn == expected
    batches._stopping = True
    assert batches._next() is None


def row(contender: str, rate: float, p99: float) -> Any:
    return script.Row(contender, rate / 100, rate, 100, 0, p99 / 2, p99, p99, p99, 1.0)


def test_the_verdict_compares_with_the_best_setting_at_each_rate() -> None:
    ours = [row("in flight", 40, 100.0), row("in flight", 80, 200.0)]
    others = [
        row("equal steps 8 x 0 ms", 40, 150.0),
        row("equal steps 8 x 0 ms", 80, 400.0),
        row("equal steps 16 x 20 ms", 40, 160.0),
        row("equal steps 16 x 20 ms", 80, 380.0),
        row("static 8 x 20 ms", 40, float("inf")),
    ]
    found = script.verdict([*ours, *others])
    first, second = found["rates"]
    assert first["best"] == "equal steps 8 x 0 ms"
    assert first["p99"] == pytest.approx(100 / 150)
    assert first["rate"] == pytest.approx(60 / 40)  # in flight, 150 ms lie halfway between its rates
    assert second["best"] == "equal steps 16 x 20 ms"
    assert second["p99"] == pytest.approx(200 / 380)
    assert found["kept"]
    slow = [row("in flight", 40, 140.0), row("in flight", 80, 390.0)]
    assert not script.verdict([*slow, *others])["kept"]
    assert not script.verdict(ours)["kept"]
    assert [script.kind(each.contender) for each in others] == ["equal steps"] * 4 + ["static"]


def test_a_trace_is_a_poisson_process_of_one_to_eight_steps() -> None:
    visits = script.traffic(500.0, 4.0, 3)
    assert abs(len(visits) - 2000) < 200
    assert [visit.at for visit in visits] == sorted(visit.at for visit in visits)
    assert {visit.steps for visit in visits} == set(range(1, 9))
    assert [visit.at for visit in script.traffic(500.0, 4.0, 3)] == [visit.at for visit in visits]
