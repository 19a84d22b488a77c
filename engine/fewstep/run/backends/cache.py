"""A folder of what took long to make, each entry under the digest of what it was made of: whole, checked, bounded."""

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fewstep.checks import real
from fewstep.errors import ArgumentError, BackendWarning, reason_of

ENVIRONMENT: Final = "FEWSTEP_CACHE"
LIMIT_ENVIRONMENT: Final = "FEWSTEP_CACHE_GB"
DEFAULT_GB: Final = 4.0
CARD: Final = "entry.json"
MAX_CARD: Final = 1 << 20  # bytes
UNFINISHED: Final = ".new-"
ABANDONED: Final = 24 * 3600  # seconds after which nobody is still writing an unfinished entry
_NAME: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """One thing that is kept.

    Attributes:
        key: its name, 64 hexadecimal digits.
        path: its folder.
        facts: what it is, as JSON has it.
        size: bytes of its files.
        used: when it was last read or made, in seconds since 1970.
    """

    key: str
    path: Path
    facts: Mapping[str, Any]
    size: int
    used: float


class Cache:
    """Entries in a folder, which several processes may use at once.

    An entry is a folder of its own, with a card that holds the digest of each file and of itself. It is written beside
    its place and renamed into it, so it is there whole or not at all, and nothing is handed out whose digests do not
    agree: one that is damaged is made anew. Where the whole is larger than the limit, what was used least recently
    goes. A folder that cannot be written to is told of in one `BackendWarning`, and work goes on.

    Args:
        folder: of the entries; made when the first is kept.
        limit: bytes that all entries may take together; an entry that is larger is not kept.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._told = False

    @classmethod
    def of_user(cls) -> "Cache":
        """The user's: in the folder FEWSTEP_CACHE, or else among the platform's caches; of FEWSTEP_CACHE_GB, or 4 GiB.

        Raises:
            ArgumentError: FEWSTEP_CACHE_GB is no size.
        """
        said = os.environ.get(LIMIT_ENVIRONMENT) or str(DEFAULT_GB)
        try:
            size = real(float(said))
        except ValueError:
            size = None
        if size is None or not 0 <= size < 2**40:
            raise ArgumentError(LIMIT_ENVIRONMENT, said, "GiB, a number of at least 0; 0 keeps nothing")
        folder = user_folder()
        return cls(folder or Path(os.devnull) / "none", int(size * 2**30) if folder is not None else 0)

    def find(self, key: str) -> Entry | None:
        """The entry of a name, each of its files read and found to be as it was written; None where there is none."""
        try:
            entry = _read(self.folder / key, key)
            if entry is None or not _is_whole(entry):
                return None
        except (OSError, ValueError):
            return None
        with suppress(OSError):  # a folder that is only read knows no last use
            os.utime(entry.path / CARD)
        return entry

    def keep(
        self, key: str, facts: Mapping[str, Any], write: Callable[[Path], None] | None = None, size: int = 0
    ) -> Entry | None:
        """Make an entry; None where it is not kept. One of the same name that is whole stays as it is.

        Args:
            key: 64 hexadecimal digits, of all that the entry depends on.
            facts: what it is, for people, as JSON has it.
            write: puts its files into a folder; raises an OSError where it cannot.
            size: bytes that they will take, about.
        """
        if _NAME.fullmatch(key) is None:
            raise ValueError(key)
        if size > self.limit or not self.limit:
            return None
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if size > shutil.disk_usage(self.folder).free // 2:
                raise OSError("it would take more than half of what is free on the disk")
            new = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=self.folder))
            try:
                if write is not None:
                    write(new)
                total = _close(new, key, facts)
                if total > self.limit:
                    return None
                self._make_room(total, key)
                self._place(new, key)
            finally:
                shutil.rmtree(new, ignore_errors=True)
        except (OSError, ValueError) as error:
            self._tell(error)
            return None
        with suppress(OSError, ValueError):
            return _read(self.folder / key, key)
        return None

    def replace(self, key: str, facts: Mapping[str, Any]) -> None:
        """Keep an entry that has facts alone, in place of what has its name."""
        known = self.find(key)
        if known is None or known.facts != facts:
            _remove(self.folder / key)
            self.keep(key, facts)

    def remove(self, key: str) -> None:
        """Remove an entry, if it is there and can be removed."""
        _remove(self.folder / key)

    def entries(self) -> list[Entry]:
        """What is kept, last used first. Their files are not read, so one may yet be found to be damaged."""
        found = []
        for name in self._names():
            try:
                entry = _read(self.folder / name, name)
            except (OSError, ValueError):
                entry = None
            path = self.folder / name
            found.append(entry or Entry(name, path, {"what": "damaged"}, _size(path), 0.0))
        return sorted(found, key=lambda entry: -entry.used)

    def clear(self) -> int:
        """Remove every entry, and what unfinished ones left; the bytes that were freed. What is not ours stays.

        Raises:
            OSError: the folder cannot be written to.
        """
        freed = 0
        for name in [*self._names(), *self._unfinished()]:
            path = self.folder / name
            size = _size(path)
            _remove(path, strict=True)
            freed += size
        return freed

    def _names(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self.folder) if _NAME.fullmatch(name))
        except OSError:
            return []

    def _unfinished(self) -> list[str]:
        try:
            return [name for name in os.listdir(self.folder) if name.startswith(UNFINISHED)]
        except OSError:
            return []

    def _make_room(self, size: int, key: str) -> None:
        for name in self._unfinished():
            path = self.folder / name
            if time.time() - _changed(path) > ABANDONED:
                _remove(path)
        entries = [entry for entry in self.entries() if entry.key != key]
        over = size + sum(entry.size for entry in entries) - self.limit
        while over > 0 and entries:
            last = entries.pop()
            _remove(last.path)
            over -= last.size

    def _place(self, new: Path, key: str) -> None:
        target = self.folder / key
        for _ in range(2):
            if os.path.lexists(target):
                if self.find(key) is not None:
                    return  # another process was first
                _remove(target)
            try:
                os.replace(new, target)
                return
            except OSError:
                if not os.path.lexists(target):
                    raise

    def _tell(self, error: Exception) -> None:
        if not self._told:
            self._told = True
            why = f"{self.folder}: {reason_of(error)}"
            warnings.warn(f"what was made ready is not kept for the next time: {why}", BackendWarning, stacklevel=2)


def user_folder() -> Path | None:
    """Where the entries are: FEWSTEP_CACHE, or fewstep/backends in the platform's folder for caches.

    None where there is neither: a user without a home, as some containers have.
    """
    said = os.environ.get(ENVIRONMENT)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or ""
        base = base if os.path.isabs(base) else "~/.cache"  # as its specification says
    folder = os.path.expanduser(said or os.path.join(base, "fewstep", "backends"))
    return None if folder.startswith("~") else Path(os.path.abspath(folder))


def key_of(facts: Mapping[str, Any]) -> str:
    """The name of what is made of these facts."""
    return hashlib.sha256(_canonical(facts)).hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()


def _close(folder: Path, key: str, facts: Mapping[str, Any]) -> int:
    """Write the card of an entry whose other files are there; bytes of all."""
    sizes = _files(folder)
    files = {name: [size, _digest(folder / name)] for name, size in sizes.items()}
    content = {"key": key, "facts": json.loads(_canonical(facts)), "files": files}
    card = _canonical({**content, "sha256": hashlib.sha256(_canonical(content)).hexdigest()})
    (folder / CARD).write_bytes(card)
    return len(card) + sum(sizes.values())


def _read(folder: Path, key: str) -> Entry | None:
    """An entry by its card; None where there is none, ValueError for one that is damaged. Its files are not read."""
    if folder.is_symlink() or not folder.is_dir():
        return None
    sizes = _files(folder)
    if not 0 < sizes.get(CARD, 0) <= MAX_CARD:
        raise ValueError(CARD)
    card = json.loads((folder / CARD).read_bytes())
    if not isinstance(card, dict) or not isinstance(card.get("facts"), dict) or not isinstance(card.get("files"), dict):
        raise ValueError(CARD)
    said = card.pop("sha256", None)
    if said != hashlib.sha256(_canonical(card)).hexdigest() or card.get("key") != key:
        raise ValueError(CARD)
    return Entry(key, folder, card["facts"], sum(sizes.values()), _changed(folder / CARD))


def _is_whole(entry: Entry) -> bool:
    said = json.loads((entry.path / CARD).read_bytes())["files"]
    sizes = {name: size for name, size in _files(entry.path).items() if name != CARD}
    if sizes != {name: size for name, (size, _) in said.items()}:
        return False
    return all(_digest(entry.path / name) == digest for name, (_, digest) in said.items())


def _files(folder: Path) -> dict[str, int]:
    """The sizes of a folder's files; OSError for anything in it that is no plain file, a link among them."""
    sizes = {}
    with os.scandir(folder) as found:
        for each in found:
            if not each.is_file(follow_symlinks=False):
                raise OSError(f"{each.name} is no plain file")
            sizes[each.name] = each.stat(follow_symlinks=False).st_size
    return dict(sorted(sizes.items()))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    """Bytes of what may be a file, a link or a damaged folder."""
    try:
        if path.is_symlink() or not path.is_dir():
            return path.lstat().st_size
        return sum(each.lstat().st_size for each in path.rglob("*"))
    except OSError:
        return 0


def _changed(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return time.time()


def _remove(path: Path, strict: bool = False) -> None:
    """Remove a folder, renamed first so that nobody finds half of it; of a link the link alone."""
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
            return
        away = path.parent / f"{UNFINISHED}{os.urandom(8).hex()}"
        os.rename(path, away)
        shutil.rmtree(away)
    except FileNotFoundError:  # another process was first
        pass
    except OSError:
        if strict:
            raise
