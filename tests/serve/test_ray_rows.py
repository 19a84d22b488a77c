"""The rows of a set and what draws them, without a cluster."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from fewstep.errors import ArgumentError
from fewstep.results import read_parameters
from fewstep.serve.ray.drawing import Drawing, missing, recorded
from fewstep.serve.ray.rows import Job, Row, check_columns, name_of, rows_of, seed_of

pytestmark = pytest.mark.slow  # Ray takes a few seconds to import

OPTIONS = {"device": "cpu", "backend": "torch", "batch_invariant": True, "max_batch": 4}
RECORDS = [
    {"id": 0, "label": 3, "steps": 1, "seed": None},
    {"id": 1, "label": 5, "steps": 2},
    {"id": 2, "label": 7, "steps": 1, "seed": 42},
]


def job_in(folder: Path, **changed: Any) -> Job:
    folder.mkdir(exist_ok=True)
    return Job("digits", OPTIONS, str(folder), **changed)


def row_of(record: dict[str, Any], job: Job) -> Row:
    return next(rows_of([record], job))


@pytest.mark.parametrize("wrong", ["", ".hidden", "../up", "a/b", "a b", "é", "x" * 201, 1.5, None, "a\0"])
def test_an_id_is_a_name_on_every_system(wrong: object) -> None:
    with pytest.raises(ArgumentError, match="id"):
        name_of(wrong)


def test_a_row_without_a_seed_has_one_of_its_own() -> None:
    assert [seed_of(each, 10) for each in (0, 1, 2)] == [10, 11, 12]
    texts = {seed_of("a", 0), seed_of("b", 0), seed_of("a", 1), seed_of("1", 0), seed_of(1, 0)}
    assert len(texts) == 5
    assert all(0 <= each < 1 << 64 for each in texts)


def test_unknown_columns_are_named() -> None:
    with pytest.raises(ArgumentError, match="did you mean label"):
        check_columns(["id", "lable"])
    with pytest.raises(ArgumentError, match="a column id"):
        check_columns(["label"])


def test_a_batch_is_drawn_once_and_known_again(tmp_path: Path) -> None:
    """Whoever draws it: bits do not depend on who shared the batch, and a second time nothing is drawn."""
    job, table = job_in(tmp_path / "images"), pa.Table.from_pylist(RECORDS)
    drawing = Drawing(job)
    assert drawing(table) == {"id": ["0", "1", "2"], "wrong": ["", "", ""]}
    written = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.glob("images/*")}
    assert set(written) == {"0.png", "1.png", "2.png"}
    assert read_parameters(tmp_path / "images/2.png")["seed"] == "42"

    assert len(missing(table, job)) == 0
    drawing(table)
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.glob("images/*")} == written

    (tmp_path / "images/1.png").unlink()
    assert missing(table, job).to_pylist() == [{"id": 1, "label": 5, "steps": 2, "seed": None}]
    drawing(table.slice(1, 1))
    assert (tmp_path / "images/1.png").read_bytes() == written["1.png"][0]

    records = [json.loads(each) for each in recorded(table, job)["record"]]
    assert [each["id"] for each in records] == ["0", "1", "2"]
    assert {each["file"] for each in records} == {f"images/{name}" for name in written}
    assert records[1]["steps"] == 2 and records[1]["labels"] == 5  # noqa: PT018 (one row)


def test_a_row_that_cannot_be_drawn_leaves_the_others_alone(tmp_path: Path) -> None:
    job = job_in(tmp_path / "images")
    records = [{"id": "good", "label": 3, "steps": 1}, {"id": "bad", "label": 33, "steps": 1}]
    said = Drawing(job)(pa.Table.from_pylist(records))
    assert said["id"] == ["good", "bad"]
    assert said["wrong"][0] == ""
    assert "labels" in said["wrong"][1]
    assert [path.name for path in tmp_path.glob("images/*")] == ["good.png"]


def test_a_picture_of_another_row_is_not_taken_for_this_one(tmp_path: Path) -> None:
    job = job_in(tmp_path / "images")
    row = row_of(RECORDS[0], job)
    Image.new("L", (4, 4)).save(row.path)
    with pytest.raises(ArgumentError, match=r"0\.png"):
        row.is_done()
    Drawing(job)  # which opens no picture
    row.path.write_bytes(b"\x89PNG\r\n")
    with pytest.raises(ArgumentError, match=r"0\.png"):
        row.is_done()


def test_a_picture_that_is_cut_off_is_found_when_it_is_read_back(tmp_path: Path) -> None:
    job, table = job_in(tmp_path / "images"), pa.Table.from_pylist(RECORDS[:1])
    Drawing(job)(table)
    path = tmp_path / "images/0.png"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArgumentError, match="whole pictures"):
        recorded(table, job)
