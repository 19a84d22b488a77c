"""A module of one's own from the command line: a file of 20 lines, benched in this process and in others."""

import json
from pathlib import Path

import pytest

from fewstep.cli import main

# As in the README: a network that fewstep has never seen.
MY_FILE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x, t):
        scale = torch.cos(t / 100)[:, None, None, None]
        return self.last(torch.relu(self.first(x)) * scale)


def make_model():
    return Net()
"""
QUICK = ["--steps", "1,4", "--batch", "2", "--repeats", "2", "--sampler", "ddim", "--backends", "torch"]
TOLD = ["--shape", "3,8,8", "--schedule", "linear"]


@pytest.fixture
def mine(tmp_path: Path) -> str:
    path = tmp_path / "my_file.py"
    path.write_text(MY_FILE)
    return f"{path}:make_model"


def test_a_module_of_20_lines_is_benched_with_a_word_of_advice(
    mine: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = [mine, *TOLD, *QUICK, "--no-cold", "--beside", "bare", "--out", str(tmp_path / "out"), "--json"]
    assert main(["bench", *arguments]) == 0
    report = json.loads(capsys.readouterr().out)
    rows = {(row["contender"], row["steps"]): row for row in report["rows"]}
    for contender in ("engine", "eager", "bare"):
        for steps in (1, 4):
            assert rows[contender, steps]["status"] == "measured"
    assert rows["engine", 4]["difference"] < 2e-5
    assert report["settings"]["runs"] == 1
    kept = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert kept["advice"] == report["advice"] != ""


@pytest.mark.long
def test_it_is_benched_in_several_processes_and_goes_on_from_them(
    mine: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = [mine, *TOLD, *QUICK, "--no-cold", "--beside", "bare", "--runs", "2", "--out", str(tmp_path), "--json"]
    assert main(["bench", *arguments]) == 0
    report = json.loads(capsys.readouterr().out)
    engine = next(row for row in report["rows"] if row["contender"] == "engine" and row["steps"] == 4)
    assert (engine["status"], engine["runs"], engine["repeats"]) == ("measured", 2, 4)
    cells = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    assert len(cells) == 4
    assert main(["bench", *arguments]) == 0  # all of it is there
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()} == cells


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["digits/1-step", "--shape", "3,8,8"], "shape"),
        (["digits/1-step", "--preset", "cifar10-ddpm"], "preset"),
        (["digits/1-step", "--full"], "full"),
        (["--runs", "0"], "runs"),
        (["--seconds", "-1"], "seconds"),
        (["--beside", "flax"], "beside"),
        (["--sampler", "dim"], "sampler"),
        (["--compare", "here", "there"], "compare"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_argument_is_named(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments, "--quiet"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {named}: got ")
