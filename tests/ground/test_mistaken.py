"""The beginning of a file, which tells what it is: asked for of whatever lies at a path, and never waited for."""

import os
from pathlib import Path

from fewstep.mistaken import HEAD, head_of


def test_a_head_is_the_first_bytes_of_a_regular_file(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"ab" * HEAD)
    (tmp_path / "empty").touch()
    assert head_of(tmp_path / "long") == b"ab" * (HEAD // 2)
    assert head_of(tmp_path / "empty") == b""


def test_what_is_no_file_has_no_head(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "absent", tmp_path / "a\0b"):
        assert head_of(path) is None
