"""Files appear whole or not at all."""

import errno
import os
import re
import resource
import stat
from pathlib import Path
from typing import Any

import pytest

from fewstep.errors import OutputError
from fewstep.files import AtomicFiles, atomic_write, check_writable
from support.folders import everything


def fails_with(number: int) -> Any:
    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def test_a_file_appears_with_its_content_and_ordinary_permissions(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.bin") as file:
        file.write(b"whole")
        assert not (tmp_path / "a.bin").exists()
    assert everything(tmp_path) == {"a.bin": b"whole"}
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    assert stat.S_IMODE((tmp_path / "a.bin").stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)


@pytest.mark.parametrize("name", ["a\0b", "", "a\ud800", "folder/\0"], ids=ascii)
def test_what_no_file_can_be_called_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for write in (check_writable, lambda path: AtomicFiles().open(path)):
        with pytest.raises(OutputError, match="is no name of a file"):
            write(name)
    assert everything(tmp_path) == {}


def test_missing_folders_are_made(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "deep" / "er" / "a.bin") as file:
        file.write(b"x")
    assert (tmp_path / "deep" / "er" / "a.bin").read_bytes() == b"x"


def test_an_existing_file_is_replaced_only_when_the_new_one_is_complete(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(RuntimeError, match="stop"), atomic_write(tmp_path / "a") as file:
        file.write(b"ne")
        raise RuntimeError("stop")
    assert everything(tmp_path) == {"a": b"old"}
    with atomic_write(tmp_path / "a") as file:
        file.write(b"new")
    assert everything(tmp_path) == {"a": b"new"}


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interruption_leaves_neither_file_nor_folder(tmp_path: Path, interruption: type[BaseException]) -> None:
    with pytest.raises(interruption), AtomicFiles() as files:
        files.open(tmp_path / "new" / "a").write(b"1")
        files.open(tmp_path / "new" / "b").write(b"2")
        raise interruption
    assert everything(tmp_path) == {}


def test_a_full_disk_leaves_earlier_results_and_names_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"old")
    fsync, full = os.fsync, fails_with(errno.ENOSPC)
    allowed: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: full() if allowed else allowed.append(fd) or fsync(fd))
    reason = f"{tmp_path / 'b'}: cannot be written: no space left on device"
    with pytest.raises(OutputError, match=re.escape(reason)), AtomicFiles() as files:
        files.open(tmp_path / "a").write(b"new")
        files.open(tmp_path / "b").write(b"new")
    assert everything(tmp_path) == {"a": b"old"}


def test_a_write_beyond_the_file_size_limit_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OutputError, match="a: cannot be written: file too large"):  # noqa: SIM117
            with atomic_write(tmp_path / "new" / "a") as file:
                file.write(b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert everything(tmp_path) == {}


def test_a_rename_that_fails_takes_back_the_ones_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, denied = Path.replace, fails_with(errno.EPERM)
    monkeypatch.setattr(Path, "replace", lambda here, to: denied() if to.name == "b" else replace(here, to))
    with pytest.raises(OutputError, match="b: cannot be written: operation"), AtomicFiles() as files:
        files.open(tmp_path / "a").write(b"1")
        files.open(tmp_path / "b").write(b"2")
    assert everything(tmp_path) == {}


def test_a_symbolic_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with atomic_write(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.parametrize("write", [check_writable, lambda path: atomic_write(path).__enter__()])
@pytest.mark.parametrize(
    ("below", "reason"),
    [("file/x.png", "not a directory"), ("file/sub/x.png", "not a directory"), ("folder", "is a directory")],
    ids=["below a file", "a folder below a file", "a folder in its place"],
)
def test_an_impossible_place_is_named(tmp_path: Path, write: Any, below: str, reason: str) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    (tmp_path / "folder").mkdir()
    before = everything(tmp_path)
    with pytest.raises(OutputError, match=re.escape(f"{tmp_path / below}: cannot be written: {reason}")):
        write(tmp_path / below)
    assert everything(tmp_path) == before


def test_a_read_only_file_system_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "open", fails_with(errno.EROFS))
    with pytest.raises(OutputError, match="a: cannot be written: read-only file system"):
        check_writable(tmp_path / "new" / "a")
    assert everything(tmp_path) == {}


def test_checking_leaves_nothing_behind(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "folder" / "a.png")
    assert everything(tmp_path) == {}


def test_a_file_system_without_fsync_is_written_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", fails_with(errno.EINVAL))
    with atomic_write(tmp_path / "a") as file:
        file.write(b"x")
    assert everything(tmp_path) == {"a": b"x"}
