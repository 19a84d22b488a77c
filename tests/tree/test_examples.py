"""The examples run as they stand, and do what they say."""

import runpy
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from support.tree import ROOT

pytestmark = pytest.mark.slow

EMBED = ROOT / "examples/embed_your_unet.py"
ACCELERATE = ROOT / "examples/accelerate_diffusers.py"
TURBO = ROOT / "examples/sdxl_turbo.py"
NOTEBOOK = ROOT / "examples/quickstart.ipynb"


def printed(notebook: nbformat.NotebookNode) -> list[str]:
    """What each cell prints."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return ["".join(output.text for output in cell.outputs if output.output_type == "stream") for cell in cells]


def test_embedding_a_network_draws_pictures_of_its_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "shapes.png"
    monkeypatch.setattr(sys, "argv", [str(EMBED), str(path)])
    made = runpy.run_path(str(EMBED), run_name="__main__")

    assert capsys.readouterr().out.startswith("ddim: 8 model calls, x_0 prediction")
    assert Image.open(path).size == (8 * 34 - 2, 2 * 34 - 2)
    samples, world = made["samples"], made["denoiser"]
    differences = (samples.images.flatten(1)[:, None] - world.pictures).abs().amax(2)
    assert differences.amin(1).max() < 0.01
    assert world.kinds[differences.argmin(1)].tolist() == samples.labels


def test_the_embedding_example_stays_short() -> None:
    assert len(EMBED.read_text().splitlines()) < 60


def test_accelerating_a_pipeline_takes_fewer_ops_and_gives_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(ACCELERATE)])
    runpy.run_path(str(ACCELERATE), run_name="__main__")
    first, *_, last = capsys.readouterr().out.splitlines()
    counts = [int(word) for word in first.split() if word.isdecimal()]
    assert counts[0] == 4
    assert counts[2] < counts[1]
    assert last == "restored: the pipeline has its own modules again"


def test_text_to_image_in_one_call_writes_its_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(TURBO)])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(TURBO), run_name="__main__")
    printed = capsys.readouterr().out
    assert printed.startswith("euler_ancestral: 1 model call, eps prediction, trailing spacing")
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == [
        *(f"fox-{place:03d}.png" for place in range(4)),
        "fox.png",
    ]


def test_the_notebook_runs_and_prints_what_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'engine'}:{ROOT / 'kernels'}")
    monkeypatch.delenv("MPLBACKEND", raising=False)  # of this session; in the notebook the inline one draws
    committed = nbformat.read(NOTEBOOK, as_version=4)
    expected = printed(committed)
    where = {"metadata": {"path": str(NOTEBOOK.parent)}}
    executed = NotebookClient(committed, timeout=120, resources=where).execute()

    assert printed(executed) == expected
    shown = [output.data for cell in executed.cells for output in cell.get("outputs", []) if "data" in output]
    assert sum("image/png" in data for data in shown) >= 4


def test_the_notebook_stays_small() -> None:
    assert NOTEBOOK.stat().st_size < 150_000
