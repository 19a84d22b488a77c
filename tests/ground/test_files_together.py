"""Several files are all the new ones or all the old ones, whatever fails, and whoever is killed."""

import errno
import os
import shutil
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fewstep.errors import OutputError, UnfinishedWriteWarning
from fewstep.files import AtomicFiles, atomic_write, check_writable
from fewstep.staging import Staging, cut_off
from support.folders import everything
from support.killed import killed_while_writing

NAMES = ("a.png", "a-000.png", "a-001.png", "a-002.png")
OLD = {name: f"old {name}".encode() for name in NAMES[:3]}  # the last is new
NEW = {name: f"new {name}".encode() for name in NAMES}


def holding(folder: Path, files: dict[str, bytes] = OLD) -> Path:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write(folder: Path) -> None:
    with AtomicFiles() as files:
        for name, content in NEW.items():
            files.open(folder / name).write(content)


def failing(call: Any, at: set[int], number: int = errno.EPERM) -> Any:
    """`call`, whose k-th calls fail for each k of `at`."""
    seen: list[int] = []

    def instead(*arguments: Any, **more: Any) -> Any:
        seen.append(len(seen) + 1)
        if seen[-1] in at:
            raise OSError(number, os.strerror(number))
        return call(*arguments, **more)

    return instead


@pytest.mark.parametrize("failed", [1, 2, 3, 4])
@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_a_rename_that_fails_gives_the_earlier_files_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failed: int, links: bool
) -> None:
    holding(tmp_path)
    if not links:
        monkeypatch.setattr(os, "link", failing(os.link, set(range(99)), errno.EOPNOTSUPP))
    monkeypatch.setattr(os, "replace", failing(os.replace, {failed}))
    with pytest.raises(OutputError, match=f"{NAMES[failed - 1]}: cannot be written: operation not permitted$"):
        write(tmp_path)
    assert everything(tmp_path) == OLD


def test_a_file_that_cannot_be_replaced_gives_the_earlier_files_back(tmp_path: Path) -> None:
    """A folder in its place stands for all that a rename meets first: an immutable file, a mount, another's file."""
    holding(tmp_path)
    with pytest.raises(OutputError, match=r"a-002\.png: cannot be written: is a directory"), AtomicFiles() as files:
        for name, content in NEW.items():
            files.open(tmp_path / name).write(content)
        (tmp_path / "a-002.png").mkdir()
    assert everything(tmp_path) == OLD | {"a-002.png": b"<folder>"}


@pytest.mark.parametrize(
    ("step", "failed", "written"),
    [*(("link", at, True) for at in (1, 2, 3)), *(("mkdir", at, False) for at in (1, 2, 3)), ("rename", 1, False)],
)
def test_what_fails_before_the_renames_changes_all_files_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, failed: int, written: bool
) -> None:
    """A file system without hard links is no failure: what is replaced is copied there."""
    holding(tmp_path)
    monkeypatch.setattr(os, step, failing(getattr(os, step), {failed}, errno.ENOSPC))
    if written:
        write(tmp_path)
    else:
        with pytest.raises(OutputError, match=r"cannot be written: no space left on device$"):
            write(tmp_path)
    assert everything(tmp_path) == (OLD | NEW if written else OLD)


def test_what_cannot_be_put_back_is_kept_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holding(tmp_path)
    monkeypatch.setattr(os, "replace", failing(os.replace, {3}))
    monkeypatch.setattr(os, "rename", failing(os.rename, {2}))
    with pytest.raises(OutputError, match=r"a-001\.png: .* a-000\.png could not be put back .*, see .*\.kept") as error:
        write(tmp_path)
    (kept,) = tmp_path.glob(".fewstep-*.kept")
    assert str(kept) in str(error.value)
    assert (kept / "old" / "a-000.png").read_bytes() == OLD["a-000.png"]
    assert (tmp_path / "a.png").read_bytes() == OLD["a.png"]
    write(tmp_path)
    assert kept.exists()


def test_two_folders_are_put_back_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        holding(tmp_path / folder, {"a": b"old"})
    before = everything(tmp_path)
    monkeypatch.setattr(os, "replace", failing(os.replace, {2}))
    with pytest.raises(OutputError, match="two/a: cannot"), AtomicFiles() as files:
        files.open(tmp_path / "one" / "a").write(b"new")
        files.open(tmp_path / "two" / "a").write(b"new")
    assert everything(tmp_path) == before


@pytest.mark.parametrize("at", [1, 3, 4])
def test_a_kill_between_two_renames_is_told_and_mended_by_the_next_write(tmp_path: Path, at: int) -> None:
    killed_while_writing(holding(tmp_path), NAMES, "replace", at)
    assert list(cut_off(tmp_path)) == sorted(NAMES[at - 1 :])
    with pytest.warns(UnfinishedWriteWarning, match="killed while it put files into place"):
        check_writable(tmp_path / "b.png")
    assert everything(tmp_path) == NEW
    assert not cut_off(tmp_path)


@pytest.mark.parametrize(("method", "at"), [("fsync", 2), ("link", 3), ("rename", 1)])
def test_a_kill_before_the_renames_leaves_the_old_files_and_is_swept(tmp_path: Path, method: str, at: int) -> None:
    killed_while_writing(holding(tmp_path), NAMES, method, at)
    assert not cut_off(tmp_path)
    assert len(everything(tmp_path)) > len(OLD)
    check_writable(tmp_path / "b.png")
    assert everything(tmp_path) == OLD


def test_what_somebody_wrote_after_a_kill_stays(tmp_path: Path) -> None:
    killed_while_writing(holding(tmp_path), NAMES, "replace", 3)
    (tmp_path / "a-001.png").write_bytes(b"mine, since")
    said = r"a-001\.png changed since then and stays; what .* place yet, a-001\.png, a-002\.png, lies in .*\.kept/new"
    with pytest.warns(UnfinishedWriteWarning, match=said):
        check_writable(tmp_path / "b.png")
    rest = {name: NEW[name] for name in NAMES[:2]}
    (kept,) = tmp_path.glob(".fewstep-*.kept")
    assert {path.name: path.read_bytes() for path in (kept / "new").iterdir()} == {
        name: NEW[name] for name in NAMES[2:]
    }
    shutil.rmtree(kept)
    assert everything(tmp_path) == rest | {"a-001.png": b"mine, since"}


@pytest.mark.parametrize("hours", [-1, 1])
def test_what_was_written_by_another_clock_has_not_changed(tmp_path: Path, hours: int) -> None:
    holding(tmp_path)
    then = time.time() + 3600 * hours
    for name in OLD:
        os.utime(tmp_path / name, (then, then))
    killed_while_writing(tmp_path, NAMES, "replace", 2)
    with pytest.warns(UnfinishedWriteWarning, match="all are the new ones"):
        check_writable(tmp_path / "b.png")
    assert everything(tmp_path) == NEW


@pytest.mark.parametrize("how", ["in place", "another file", "a new file"])
def test_a_change_is_seen_whatever_time_it_says(tmp_path: Path, how: str) -> None:
    """As `cp -p` and `rsync -t` keep it."""
    name = "a-002.png" if how == "a new file" else "a-001.png"
    killed_while_writing(holding(tmp_path), NAMES, "replace", 2)
    mine = b"mine, of another size" if how == "in place" else OLD["a-001.png"]
    before = (tmp_path / "a-001.png").stat()
    if how == "another file":
        (tmp_path / "copy").write_bytes(mine)
        (tmp_path / "copy").rename(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(mine)
    os.utime(tmp_path / name, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.warns(UnfinishedWriteWarning, match=f"{name} changed since then and stays"):
        check_writable(tmp_path / "b.png")
    assert (tmp_path / name).read_bytes() == mine
    assert list(tmp_path.glob(".fewstep-*.kept/new/a-000.png"))


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"a-000.png": 1}', None], ids=["cut short", "list", "odd", "none"])
def test_without_its_note_a_leftover_is_kept(tmp_path: Path, content: bytes | None) -> None:
    killed_while_writing(holding(tmp_path), NAMES, "replace", 2)
    (note,) = tmp_path.glob(".fewstep-*.placing/was.json")
    if content is None:
        note.unlink()
    else:
        note.write_bytes(content)
    with pytest.warns(UnfinishedWriteWarning, match=r"a-000\.png, a-001\.png changed since then and stay; "):
        check_writable(tmp_path / "b.png")
    assert list(tmp_path.glob(".fewstep-*.kept/new/a-000.png"))


def test_what_cannot_be_finished_is_told_each_time_and_lost_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_while_writing(holding(tmp_path), NAMES, "replace", 2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing(os.replace, {1}))
        with pytest.warns(UnfinishedWriteWarning, match="could not be: Operation not permitted; they lie in"):
            check_writable(tmp_path / "b.png")
    with pytest.warns(UnfinishedWriteWarning, match="all are the new ones"):
        check_writable(tmp_path / "b.png")
    assert everything(tmp_path) == NEW


def test_leftovers_are_swept_but_not_what_a_living_writer_holds(tmp_path: Path) -> None:
    (tmp_path / ".fewstep-00ff00ff00ff00ff.tmp").write_bytes(b"half")
    (tmp_path / ".fewstep-mine.tmp").write_bytes(b"not ours")
    living = Staging(tmp_path)
    living.open("a.png").write(b"still writing")
    with atomic_write(tmp_path / "b.png") as file:
        file.write(b"b")
    assert set(os.listdir(tmp_path)) == {"b.png", ".fewstep-mine.tmp", living.path.name}
    living.remove()
    assert set(os.listdir(tmp_path)) == {"b.png", ".fewstep-mine.tmp"}


def test_another_users_leftovers_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_while_writing(holding(tmp_path), NAMES, "replace", 2)
    before = everything(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 12345)
        check_writable(tmp_path / "b.png")
    assert everything(tmp_path) == before
    with pytest.warns(UnfinishedWriteWarning):
        check_writable(tmp_path / "b.png")


def test_three_writers_at_once_leave_the_files_of_one(tmp_path: Path) -> None:
    def rewrite(mark: bytes) -> None:
        for _ in range(20):
            with AtomicFiles() as files:
                for name in NAMES:
                    files.open(tmp_path / name).write(mark)

    with ThreadPoolExecutor(3) as pool:
        for running in [pool.submit(rewrite, mark) for mark in (b"1", b"2", b"3")]:
            running.result()
    assert len(set(everything(tmp_path).values())) == 1
    assert sorted(everything(tmp_path)) == sorted(NAMES)


def test_a_file_keeps_the_permissions_of_the_one_it_replaces(tmp_path: Path) -> None:
    holding(tmp_path)
    (tmp_path / "a.png").chmod(0o600)
    write(tmp_path)
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0o600


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for name in ("pipe", "link"):
        with pytest.raises(OutputError, match=f"{name}: cannot be written: it is a device or a pipe"):
            check_writable(tmp_path / name)
    assert Path("/dev/null").is_char_device()
