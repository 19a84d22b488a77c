"""A set of images on Ray Data: one for every row, whoever is killed, and no row twice."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import ray.data
from PIL import Image

from fewstep.errors import ArgumentError
from fewstep.serve.ray.data import SetReport, Workers, main, sample_set
from support.cluster import SECONDS, cluster
from support.serving import digits_family, until

pytestmark = [pytest.mark.long, pytest.mark.alone]

ROWS = [{"id": f"row-{number:02d}", "label": number % 10, "seed": number, "steps": 30} for number in range(12)]
TORCH = {"backend": "torch"}
WORKERS = Workers(actors=2, batch=2, num_cpus=0.5)


def pictures(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "images").glob("*.png")}


def test_every_row_has_its_image_though_an_actor_is_killed(tmp_path: Path) -> None:
    """And what is missing is drawn by the next run; one cluster, which takes longer to start than all of it."""
    table, out = tmp_path / "rows.jsonl", tmp_path / "set"
    table.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with cluster() as started:
        ray.data.DataContext.get_current().enable_progress_bars = False
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(sample_set, table, "digits", out, workers=WORKERS, engine=TORCH)
            until(lambda: run.done() or len(list(out.glob("images/*.png"))) >= 2, SECONDS)
            assert not run.done(), run.result()
            started.kill(started.processes("Drawing")[0])
            report = run.result(SECONDS)
        assert report == SetReport(rows=12, drawn=12, found=0)
        first = pictures(out)
        check(out, first)

        for name in ("row-03.png", "row-10.png"):
            (out / "images" / name).unlink()
        (out / "manifest.jsonl").unlink()
        told: list[tuple[int, int]] = []
        report = sample_set(
            table, "digits", out, workers=WORKERS, engine=TORCH, progress=lambda *numbers: told.append(numbers)
        )
        assert report == SetReport(rows=12, drawn=2, found=10)
        assert (told[0], told[-1]) == ((10, 12), (12, 12))
        assert pictures(out) == first  # to the bit, in smaller company
        check(out, first)

        with pytest.raises(ArgumentError, match="more than once"):
            sample_set([*ROWS, ROWS[3]], "digits", out)
        with pytest.raises(ArgumentError, match="pictures of these rows alone"):
            sample_set(ROWS[1:], "digits", out)
        wrong = sample_set([{"id": 1, "label": 3, "steps": 1}, {"id": 2, "label": 77}], "digits", tmp_path / "wrong")
        assert list(wrong.wrong) == ["2"]
        assert len((tmp_path / "wrong/manifest.jsonl").read_text().splitlines()) == 1
        three = ["3", "--model", "digits/teacher", "--out", str(tmp_path / "three")]  # which draws without a label too
        assert main([*three, "--cpus", "0.5", "--engine", '{"backend": "torch"}']) == 0
        assert set(pictures(tmp_path / "three")) == {"0.png", "1.png", "2.png"}


def check(out: Path, found: dict[str, bytes]) -> None:
    """A picture and a line for each row, and the picture is the row's."""
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [row["id"] for row in ROWS]
    assert {line["file"] for line in lines} == {f"images/{name}" for name in found}
    assert len(found) == len(ROWS)
    teacher = digits_family().member(30).engine
    labels, seeds = [row["label"] for row in ROWS], [row["seed"] for row in ROWS]
    own = teacher.sample(labels=labels, seeds=seeds, steps=30, output="uint8").images[:, :, :, 0].numpy()
    for place, line in enumerate(lines):
        drawn = np.asarray(Image.open(out / line["file"])).astype(int)
        assert np.abs(drawn - own[place]).max() <= 1  # rounding of another batch
