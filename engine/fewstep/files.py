"""Writing files whole or not at all: every file fewstep writes goes through here."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from fewstep.errors import OutputError


class AtomicFiles:
    """Several files that appear together or not at all.

        with AtomicFiles() as files:
            files.open("out/a.png").write(...)
            files.open("out/b.png").write(...)

    Each is written to a hidden temporary file in its own folder and flushed to the disk; only when all are
    complete are they renamed into place, so a full disk leaves earlier results as they were. Missing folders
    are made, and removed again on failure. An operating-system error becomes an OutputError naming the path.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[Path, Path, Path, BinaryIO]] = []
        self._folders: list[Path] = []
        self._current = Path()

    def open(self, path: str | os.PathLike[str]) -> BinaryIO:
        """A binary handle whose content becomes `path`; OutputError if it cannot be made there."""
        self._current = Path(path)
        try:
            target = Path(os.path.realpath(path))
            if target.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            self._make_folder(target.parent)
            # A short name of its own: a suffix on a long target name could pass the file system's limit.
            temporary = target.parent / f".fewstep-{secrets.token_hex(8)}.tmp"
            handle = temporary.open("xb")
        except OSError as error:
            raise output_error(self._current, error) from error
        self._pending.append((self._current, target, temporary, handle))
        return handle

    def __enter__(self) -> "AtomicFiles":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._discard()
            if isinstance(error, OSError):
                raise output_error(self._current, error) from error
            return
        placed: list[Path] = []
        try:
            for path, _, _, handle in self._pending:
                self._current = path
                handle.flush()
                _sync(handle)
                handle.close()
            for path, target, temporary, _ in self._pending:
                self._current = path
                temporary.replace(target)
                placed.append(target)
        except BaseException as failure:
            for target in placed:
                target.unlink(missing_ok=True)
            self._discard()
            if isinstance(failure, OSError):
                raise output_error(self._current, failure) from failure
            raise

    def _make_folder(self, folder: Path) -> None:
        missing = []
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            self._folders.append(path)

    def _discard(self) -> None:
        for _, _, temporary, handle in self._pending:
            # close() flushes what is buffered, which fails again on a full disk.
            with suppress(OSError):
                handle.close()
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        for folder in reversed(self._folders):
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Write one file, whole or not at all.

        with atomic_write("model.json") as file:
            file.write(b"{}")

    Raises OutputError naming the path and the reason (read-only folder, full disk); nothing is left behind.
    """
    with AtomicFiles() as files:
        yield files.open(path)


def check_writable(path: str | os.PathLike[str]) -> None:
    """OutputError if `path` could not be written now; asked before long work, so that its result is not lost.

    Leaves nothing behind, neither a file nor the folders on the way.
    """
    files = AtomicFiles()
    try:
        files.open(path)
    finally:
        files._discard()


def _sync(handle: BinaryIO) -> None:
    try:
        os.fsync(handle.fileno())
    except OSError as error:
        # Some network and user-space file systems have no fsync; any other failure is lost data.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


def output_error(path: Path | str, error: OSError) -> OutputError:
    """What an operating-system error on `path` is to a user: the path and the reason, in one line."""
    reason = error.strerror or str(error)
    return OutputError(f"{path}: cannot be written: {reason[:1].lower()}{reason[1:]}")
