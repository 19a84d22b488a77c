"""Where files lie until they are complete, so that a folder is left with its old files or with all new ones.

.fewstep-<hex>.tmp/          being written by the process that holds its lock
    new/a.png                what will be a.png
.fewstep-<hex>.placing/      all are complete and are renamed into place; what is left here was cut off in between
    new/a-001.png            not yet in place
    old/a.png                what a.png was
    was.json                 {"a.png": [[inode, size, mtime in ns]]}: what there may be for a new file to replace
.fewstep-<hex>.kept/         files that could not be put back when placing failed, or placed over what somebody has
                             written since; nobody removes them
"""

import json
import os
import re
import secrets
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from fewstep.errors import UnfinishedWriteWarning, some_of

NAME: Final = re.compile(r"\.fewstep-[0-9a-f]{4,32}\.(tmp|placing)")
WRITING, PLACING, KEPT = ".tmp", ".placing", ".kept"
WAS: Final = "was.json"
SHOWN: Final = 3  # names in a warning
PATIENCE: Final = 10.0  # seconds to wait for who holds a folder's lock; renaming takes milliseconds


class Staging:
    """The new files of one folder, and its old ones until the new are in place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        mend(folder)
        while True:
            # A short name of its own: a suffix on a long target name could pass the file system's limit.
            self.path = folder / f".fewstep-{secrets.token_hex(8)}{WRITING}"
            self.path.mkdir()
            self._lock = _lock(self.path, PATIENCE)
            if self.path.exists():  # else somebody took it for a leftover before it was locked
                break
            self._unlock()
        self.new, self.old = self.path / "new", self.path / "old"
        self._was: dict[str, list[tuple[int, int, int]]] = {}
        try:
            self.new.mkdir()
            self.old.mkdir()
        except OSError:
            self.remove()
            raise

    def open(self, name: str) -> BinaryIO:
        """A handle whose content becomes the file of that name, with the permissions of the one it replaces."""
        handle = (self.new / name).open("xb")
        with suppress(OSError):
            (self.new / name).chmod((self.folder / name).stat().st_mode & 0o777)
        return handle

    def keep_old(self, name: str) -> None:
        """Hold on to what is in the place of a file: a second link to it, or a copy where there are no links."""
        target, old = self.folder / name, self.old / name
        if target.exists():
            try:
                os.link(target, old)
            except OSError:
                shutil.copy2(target, old)
            # A copy comes into the place of its original when it is put back.
            self._was[name] = [(seen.st_ino, seen.st_size, seen.st_mtime_ns) for seen in (target.stat(), old.stat())]

    def mark(self) -> None:
        """From here on the files are placed, if not by this process then by the next that writes into the folder."""
        (self.path / WAS).write_text(json.dumps(self._was))
        self._move(PLACING)

    def place(self, name: str) -> None:
        """Rename one file into place."""
        (self.new / name).replace(self.folder / name)

    def put_back(self, name: str) -> None:
        """Undo `place` where it was done; the new file returns, so that a kill in here leaves it to be placed again."""
        target, new, old = self.folder / name, self.new / name, self.old / name
        if new.exists():
            return
        target.rename(new)
        if old.exists():
            old.rename(target)

    def keep(self) -> Path:
        """Leave all files where nobody removes them."""
        with suppress(OSError):
            self._move(KEPT)
        self._unlock()
        return self.path

    def remove(self) -> None:
        """Remove what is left."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._unlock()

    def _move(self, suffix: str) -> None:
        path = self.path.with_suffix(suffix)
        self.path.rename(path)
        self.path, self.new, self.old = path, path / "new", path / "old"

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


@contextmanager
def alone_in(folder: Path) -> Iterator[bool]:
    """Within it nobody else places files in the folder; gives False where that cannot be had."""
    lock = _lock(folder, PATIENCE)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            os.close(lock)


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Within it no other process holds the file `path`, which is there so long; gives False where one does.

    Where files have no locks it gives True. OSError where the file cannot be made.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        free = _try_lock(descriptor)
        if not free or _is_at(path, descriptor):
            break
        os.close(descriptor)  # who held it has removed it since it was opened
    try:
        yield free
    finally:
        if free:
            with suppress(OSError):
                path.unlink()
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    """Lock an open file, where files have locks; False where another process has it."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        pass
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except OSError:
        return False


def mend(folder: Path) -> None:
    """Remove what dead processes left in a folder; finish where one was killed between two renames, and warn of it.

    What a living process writes is locked and stays, as do another user's leftovers, and everything on a file system
    that has no locks.
    """
    if not _left(folder):
        return
    with alone_in(folder) as alone:
        for path in _left(folder) if alone else []:
            lock = _lock(path)
            if lock is None:
                continue
            try:
                # In a folder that others may write into, theirs would put what they like in the place of our files.
                if not is_own(path):
                    continue
                if path.suffix == PLACING:
                    _finish(path)
                else:
                    _remove(path)
            finally:
                os.close(lock)


def cut_off(folder: Path) -> dict[str, Path]:
    """The files of a folder whose writer was killed between two renames, and the leftover that holds the new ones.

    They may not belong to those beside them.
    """
    found: dict[str, Path] = {}
    for path in _left(folder):
        lock = _lock(path) if path.suffix == PLACING else None
        if lock is not None:
            os.close(lock)
            found |= dict.fromkeys(_names(path / "new"), path)
    return found


def is_own(path: Path) -> bool:
    """Whether a leftover is this user's, so that `mend` sees to it."""
    try:
        return path.lstat().st_uid == os.geteuid()
    except OSError:
        return False


def _finish(path: Path) -> None:
    """Place what is left, unless somebody has written those files since: then theirs stay."""
    folder, names = path.parent, _names(path / "new")
    changed, shown = _changed(path, names), some_of(names, SHOWN)
    said = f"{folder}: a process was killed while it put files into place"
    if not names:
        _remove(path)
    elif changed:
        kept = path.with_suffix(KEPT)
        try:
            path.rename(kept)
        except OSError:
            kept = path
        stay = f"{some_of(changed, SHOWN)} changed since then and stay{'s' * (len(changed) == 1)}"
        left = f"{stay}; what was not in place yet, {shown}, lies in {kept / 'new'}"
        warnings.warn(f"{said}; {left}", UnfinishedWriteWarning, stacklevel=2)
    else:
        try:
            for name in names:
                (path / "new" / name).replace(folder / name)
        except OSError as error:
            left = f"{shown} could not be: {error.strerror}; they lie in {path}"
            warnings.warn(f"{said}; {left}", UnfinishedWriteWarning, stacklevel=2)
            return
        _remove(path)
        warnings.warn(f"{said}; {shown} followed now, so all are the new ones", UnfinishedWriteWarning, stacklevel=2)


def _changed(path: Path, names: Sequence[str]) -> list[str]:
    """Those in whose place there is something else than what they were to replace.

    By what was noted: the old file may be a second link to the one in place, whose changes it then shares, and nothing
    keeps the clock from having been turned since a file was written.
    """
    try:
        was = json.loads((path / WAS).read_text())
    except (OSError, ValueError):  # cut short by a machine that went down
        was = None
    changed = []
    for name in names:
        try:
            now = (path.parent / name).stat()
        except OSError:
            continue
        noted = was.get(name) if isinstance(was, dict) else None
        if not isinstance(noted, list) or [now.st_ino, now.st_size, now.st_mtime_ns] not in noted:
            changed.append(name)
    return changed


def _left(folder: Path) -> list[Path]:
    try:
        return sorted(folder / name for name in os.listdir(folder) if NAME.fullmatch(name))
    except OSError:
        return []


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _lock(path: Path, patience: float = 0.0) -> int | None:
    """A descriptor that holds the lock of a file or folder; None where another has it, or it cannot be locked."""
    try:
        import fcntl
    except ImportError:  # Windows: leftovers stay there
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return None
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() < until:
                time.sleep(0.01)
                continue
        except OSError:
            pass
        os.close(descriptor)
        return None
