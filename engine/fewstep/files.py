"""Writing files whole or not at all: every file fewstep writes goes through here."""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from fewstep.errors import OutputError
from fewstep.staging import Staging, alone_in


class AtomicFiles:
    """Several files that appear together or not at all.

        with AtomicFiles() as files:
            files.open("out/a.png").write(...)
            files.open("out/b.png").write(...)

    Each is written in a hidden folder beside its place and flushed to the disk; only when all are complete are they
    renamed into place, one writer at a time where files have locks. Where one rename fails the earlier files are put
    back. A process that is killed in between leaves what the next one finishes, with a warning: see `staging`. That
    holds for each folder by itself; what is put back after an error is put back in all of them. Missing folders are
    made, and removed again on failure. An operating-system error becomes an OutputError naming the path.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[Path, Staging, str, BinaryIO]] = []  # the path as it was given
        self._stagings: dict[Path, Staging] = {}
        self._folders: list[Path] = []
        self._current = Path()

    def open(self, path: str | os.PathLike[str]) -> BinaryIO:
        """A binary handle whose content becomes `path`; OutputError if it cannot be made there."""
        check_name(path)
        self._current = Path(path)
        try:
            target = Path(os.path.realpath(path))
            _check_replaceable(target)
            self._make_folder(target.parent)
            if target.parent not in self._stagings:
                self._stagings[target.parent] = Staging(target.parent)
            staging = self._stagings[target.parent]
            handle = staging.open(target.name)
        except OSError as error:
            raise output_error(self._current, error) from error
        self._pending.append((self._current, staging, target.name, handle))
        return handle

    def __enter__(self) -> "AtomicFiles":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            try:
                self._place()
            except BaseException as failure:
                self._discard()
                if isinstance(failure, OSError):
                    raise output_error(self._current, failure) from failure
                raise
            for staging in self._stagings.values():
                staging.remove()
            return
        self._discard()
        if isinstance(error, OSError):
            raise output_error(self._current, error) from error

    def _place(self) -> None:
        for path, _, _, handle in self._pending:
            self._current = path
            handle.flush()
            _sync(handle)
            handle.close()
        with ExitStack() as stack:
            for folder in sorted(self._stagings):
                # Where no lock is to be had, as on some network file systems, it goes on without.
                stack.enter_context(alone_in(folder))
            # One rename is all or nothing by itself.
            if len(self._pending) > 1:
                for path, staging, name, _ in self._pending:
                    self._current = path
                    staging.keep_old(name)
                for staging in self._stagings.values():
                    staging.mark()
            try:
                for path, staging, name, _ in self._pending:
                    self._current = path
                    staging.place(name)
            except BaseException:
                if len(self._pending) > 1:
                    self._put_back()
                raise

    def _put_back(self) -> None:
        problems = []
        for _, staging, name, _ in reversed(self._pending):
            try:
                staging.put_back(name)
            except OSError as error:
                problems.append(f"{name} could not be put back ({error.strerror}), see {staging.keep()}")
                self._stagings.pop(staging.folder, None)
        if problems:
            raise OutputError(f"{self._current}: cannot be written, and {'; '.join(problems)}")

    def _make_folder(self, folder: Path) -> None:
        missing = []
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            self._folders.append(path)

    def _discard(self) -> None:
        for _, _, _, handle in self._pending:
            # close() flushes what is buffered, which fails again on a full disk.
            with suppress(OSError):
                handle.close()
        for staging in self._stagings.values():
            staging.remove()
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


def check_name(path: str | os.PathLike[str]) -> None:
    """OutputError for what no file and no folder can be called: nothing, a NUL in it, or half of a surrogate pair."""
    name = os.fspath(path)
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:
        encoded = b""
    if not encoded or b"\0" in encoded:
        raise OutputError(f"{name or repr(name)}: is no name of a file")


def check_writable(path: str | os.PathLike[str]) -> None:
    """OutputError if `path` could not be written now; asked before long work, so that its result is not lost.

    Leaves nothing behind, neither a file nor the folders on the way.
    """
    files = AtomicFiles()
    try:
        files.open(path)
    finally:
        files._discard()


def _check_replaceable(target: Path) -> None:
    """OSError where a rename would not fail and should: /dev/null is a file to write into, not one to replace."""
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "it is a device or a pipe, not a file")


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
