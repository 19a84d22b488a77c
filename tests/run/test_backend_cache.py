"""The cache of backends: entries are whole or not there, checked before they are used, and within a limit."""

import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fewstep.errors import ArgumentError, BackendWarning
from fewstep.run.backends.cache import CARD, UNFINISHED, Cache, key_of, user_folder
from support.cache_case import LIMIT, keeps_many

A, B, C = (key_of({"name": name}) for name in "abc")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", 1 << 20)


def writes(content: bytes, name: str = "model.bin") -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return write


def content(cache: Cache, key: str) -> bytes | None:
    found = cache.find(key)
    return None if found is None else (found.path / "model.bin").read_bytes()


def test_what_was_kept_is_found_with_its_facts(cache: Cache) -> None:
    assert cache.find(A) is None
    made = cache.keep(A, {"what": "model", "inputs": [1, None]}, writes(b"weights"))
    found = Cache(cache.folder, cache.limit).find(A)
    assert made is not None
    assert found is not None
    assert found.facts == {"what": "model", "inputs": [1, None]}
    assert found.size == made.size == sum(each.stat().st_size for each in found.path.iterdir())
    assert content(cache, A) == b"weights"
    assert cache.find(B) is None
    assert [each.key for each in cache.entries()] == [A]


def test_an_entry_that_is_there_stays(cache: Cache) -> None:
    cache.keep(A, {}, writes(b"first"))
    cache.keep(A, {}, writes(b"second"))
    assert content(cache, A) == b"first"
    cache.replace(B, {"found": 1})
    cache.replace(B, {"found": 2})
    assert [each.facts for each in cache.entries() if each.key == B] == [{"found": 2}]


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def linked(path: Path) -> None:
    shutil.copy(path, path.parent.parent.parent / "elsewhere")
    path.unlink()
    path.symlink_to(path.parent.parent.parent / "elsewhere")


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "a bit": flipped,
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "emptied": lambda path: path.write_bytes(b""),
    "grown": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "gone": lambda path: path.unlink(),
    "a link": linked,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["model.bin", CARD])
def test_a_damaged_entry_is_none_and_is_made_anew(cache: Cache, name: str, damage: str) -> None:
    cache.keep(A, {"what": "model"}, writes(bytes(range(256))))
    DAMAGES[damage](cache.folder / A / name)
    assert cache.find(A) is None
    assert [each.key for each in cache.entries()] == [A]
    cache.keep(A, {"what": "model"}, writes(b"new"))
    assert content(cache, A) == b"new"
    assert os.listdir(cache.folder) == [A]


def test_no_entry_passes_for_another(cache: Cache) -> None:
    cache.keep(A, {}, writes(b"a"))
    shutil.copytree(cache.folder / A, cache.folder / B)
    assert cache.find(B) is None
    (cache.folder / A / "more.bin").write_bytes(b"")
    assert cache.find(A) is None


def test_an_entry_that_is_a_link_is_replaced_and_what_it_leads_to_stays(cache: Cache, tmp_path: Path) -> None:
    cache.keep(A, {}, writes(b"mine"))
    os.rename(cache.folder / A, tmp_path / "theirs")
    (cache.folder / A).symlink_to(tmp_path / "theirs")
    assert cache.find(A) is None
    cache.keep(A, {}, writes(b"new"))
    assert content(cache, A) == b"new"
    (cache.folder / B).symlink_to(tmp_path / "theirs")
    assert cache.clear() > 0
    assert (tmp_path / "theirs" / "model.bin").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["", "..", "a/../b", A[:-1], A.upper(), f"{A}\n", f"../{A}"])
def test_a_name_is_a_digest_and_nothing_else(cache: Cache, name: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        cache.keep(name, {}, writes(b""))


def test_a_writer_that_fails_leaves_nothing(cache: Cache) -> None:
    def fails(folder: Path) -> None:
        (folder / "model.bin").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.warns(BackendWarning, match="no space left|No space left"):
        assert cache.keep(A, {}, fails) is None
    assert os.listdir(cache.folder) == []
    with pytest.raises(KeyboardInterrupt):
        cache.keep(A, {}, lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
    assert os.listdir(cache.folder) == []


def test_the_least_recently_used_goes_first(cache: Cache) -> None:
    for age, key in enumerate((A, B, C)):
        cache.keep(key, {}, writes(bytes(100_000)))
        os.utime(cache.folder / key / CARD, (1e9 + age, 1e9 + age))
    assert cache.find(A) is not None  # which is a use of it
    small = Cache(cache.folder, 350_000)
    small.keep(key_of({"name": "d"}), {}, writes(bytes(100_000)))
    assert {each.key for each in small.entries()} == {A, C, key_of({"name": "d"})}
    assert sum(each.size for each in small.entries()) <= small.limit


def test_what_is_larger_than_the_limit_is_not_kept_and_drives_nothing_out(cache: Cache) -> None:
    cache.keep(A, {}, writes(bytes(1000)))
    assert cache.keep(B, {}, writes(bytes(cache.limit))) is None
    assert cache.keep(B, {}, writes(b""), size=cache.limit + 1) is None
    assert os.listdir(cache.folder) == [A]
    assert Cache(cache.folder, 0).keep(B, {}, writes(b"")) is None


def test_what_a_killed_process_left_goes_after_a_day(cache: Cache) -> None:
    cache.folder.mkdir()
    for name, age in (("old", 25), ("new", 1)):
        left = cache.folder / f"{UNFINISHED}{name}"
        left.mkdir()
        (left / "model.bin").write_bytes(bytes(1000))
        os.utime(left, (time.time() - age * 3600,) * 2)
    cache.keep(A, {}, writes(b""))
    assert sorted(os.listdir(cache.folder)) == sorted([A, f"{UNFINISHED}new"])
    assert cache.clear() > 1000
    assert os.listdir(cache.folder) == []


def test_only_entries_are_cleared(cache: Cache) -> None:
    cache.keep(A, {}, writes(b"1234"))
    (cache.folder / "mine.txt").write_text("keep")
    assert cache.clear() > 4
    assert os.listdir(cache.folder) == ["mine.txt"]
    assert Cache(cache.folder / "nowhere", 1).clear() == 0


def test_a_folder_that_cannot_be_written_to_is_told_of_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where the folder should be")
    cache = Cache(tmp_path / "file" / "cache", 1 << 20)
    with pytest.warns(BackendWarning, match="not kept"):
        assert cache.keep(A, {}, writes(b"")) is None
    assert cache.keep(B, {}, writes(b"")) is None  # and no warning, which would be an error
    cache.replace(B, {})
    assert cache.find(A) is None
    assert cache.entries() == []
    assert cache.clear() == 0


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_is_only_read_is_read(cache: Cache) -> None:
    cache.keep(A, {}, writes(b"weights"))
    cache.folder.chmod(0o500)
    try:
        assert content(cache, A) == b"weights"
        with pytest.warns(BackendWarning, match="ermission"):
            assert cache.keep(B, {}, writes(b"")) is None
    finally:
        cache.folder.chmod(0o700)


@pytest.mark.slow
def test_processes_that_keep_and_drive_out_the_same_at_once_all_go_on(tmp_path: Path) -> None:
    started = [multiprocessing.get_context("spawn").Process(target=keeps_many, args=(tmp_path, 0.7)) for _ in range(2)]
    for each in started:
        each.start()
    for each in started:
        each.join()
    assert [each.exitcode for each in started] == [0, 0]
    assert sum(each.size for each in Cache(tmp_path, 1).entries()) <= 2 * LIMIT
    assert not [name for name in os.listdir(tmp_path) if name.startswith(UNFINISHED)]


def test_no_test_uses_the_users_folder() -> None:
    assert Path(os.environ["FEWSTEP_CACHE"]).name.startswith("fewstep-tests-")
    assert user_folder() == Path(os.environ["FEWSTEP_CACHE"])


def test_the_folder_is_the_users_or_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEWSTEP_CACHE", "~/here")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_folder() == tmp_path / "here"
    monkeypatch.delenv("FEWSTEP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    for system, folder in (("linux", "xdg"), ("darwin", "Library/Caches"), ("win32", "local")):
        monkeypatch.setattr(sys, "platform", system)
        assert user_folder() == tmp_path / folder / "fewstep" / "backends"
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert user_folder() == tmp_path / ".cache" / "fewstep" / "backends"


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FEWSTEP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # which then leaves it as it is
    assert user_folder() is None
    cache = Cache.of_user()
    assert cache.keep(A, {}, writes(b"")) is None
    assert cache.find(A) is None
    assert cache.entries() == []


def test_the_limit_is_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEWSTEP_CACHE_GB", raising=False)
    assert Cache.of_user().limit == 4 << 30
    monkeypatch.setenv("FEWSTEP_CACHE_GB", "0.5")
    assert Cache.of_user().limit == 1 << 29
    for said in ("-1", "nan", "inf", "much"):
        monkeypatch.setenv("FEWSTEP_CACHE_GB", said)
        with pytest.raises(ArgumentError, match="FEWSTEP_CACHE_GB: got"):
            Cache.of_user()
