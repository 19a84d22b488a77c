"""Pictures of one's own, from a folder for each class to a student's pictures, by the commands of the README."""

import json
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image

from fewstep.cli.app import main
from support.tree import ROOT

NETWORK = ["--channels", "8,16", "--layers", "1"]
# As long as a test may take, and no shorter than what each command has to show.
SHORTER = {
    "train": ["--steps", "3", "--batch", "8", "--sheet-every", "0", "--threads", "1", *NETWORK],
    "distill": ["--steps", "1", "--batch", "4", "--sheet-every", "0", "--threads", "1"],
    "evaluate": ["--n", "12", "--teacher-steps", "4", "--threads", "1"],
    "generate": ["--threads", "1"],
    "bench": ["--steps", "1", "--batch", "1", "--repeats", "1", "--threads", "1", "--beside", "bare"],
}


def commands() -> list[list[str]]:
    """The lines of the README's block about pictures of one's own."""
    section = (ROOT / "README.md").read_text().split("## Your own pictures", 1)[1]
    lines = section.split("```sh\n", 1)[1].split("```", 1)[0].replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.slow
def test_own_pictures_from_folder_to_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (_, script, *arguments), *lines = commands()
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(str(ROOT / script), run_name="__main__")
    pictures = sorted(path.suffix for path in Path("out/shapes").rglob("*.*"))
    assert len(pictures) == 60
    assert set(pictures) == {".jpg", ".png"}

    assert [line[1] for line in lines] == ["train", "distill", "evaluate", "generate", "bench"]
    said = {}
    for _, verb, *given in lines:
        assert main([verb, *given, *SHORTER[verb]]) == 0, capsys.readouterr().err
        said[verb] = capsys.readouterr()
    assert "60 images, 3 classes: circle (20), square (20), triangle (20)" in said["train"].err

    spec = json.loads(Path("out/students/1-step/fewstep.json").read_text())
    assert spec["labels"]["names"] == ["circle", "square", "triangle"]
    scores = json.loads(Path("out/scores/evaluate.json").read_text())
    assert (scores["rows"][0]["steps"], len(scores["rows"][0]["psnr"])) == (1, 12)
    assert Image.open("out/scores/teacher-student-1.png").mode == "RGB"
    assert len(list(Path("out").glob("circles-*.png"))) == 8
    assert Image.open("out/circles-000.png").info["label"].startswith("circle")
    assert "1-step" in said["bench"].out
