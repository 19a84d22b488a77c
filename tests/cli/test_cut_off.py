"""The command line tells of an earlier write that was killed half-way, in one line, and goes on."""

import json
from pathlib import Path

from PIL import Image

from support.cli_case import Run, names
from support.killed import killed_while_writing

SHEET = ("out.png", "out-000.png", "out-001.png")


def test_a_write_that_was_killed_is_told_by_the_next_command(run: Run, heights: Path, tmp_path: Path) -> None:
    killed_while_writing(tmp_path, SHEET, "replace", 2)
    assert (tmp_path / "out.png").read_bytes() == b"new out.png"
    assert not (tmp_path / "out-001.png").exists()
    ran = run("generate", heights, "--labels", "5,6", "--out", tmp_path / "other.png", "--json")
    assert ran.code == 0
    said = "a process was killed while it put files into place; out-000.png, out-001.png followed now"
    assert ran.err == f"warning: {tmp_path}: {said}, so all are the new ones\n"
    assert len(json.loads(ran.out)["images"]) == 2
    assert (tmp_path / "out-001.png").read_bytes() == b"new out-001.png"
    assert names(tmp_path) == sorted([*SHEET, "other.png", "other-000.png", "other-001.png"])


def test_what_a_killed_command_left_half_written_goes_without_a_word(run: Run, heights: Path, tmp_path: Path) -> None:
    killed_while_writing(tmp_path, SHEET, "fsync", 2)
    ran = run("generate", heights, "--labels", "5,6", "--out", tmp_path / "out.png")
    assert (ran.code, ran.err) == (0, "")
    assert names(tmp_path) == sorted(SHEET)
    assert Image.open(tmp_path / "out-001.png").size == (16, 16)
