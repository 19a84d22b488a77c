"""Zip archives that may be hostile, .npz among them: bounded directories, and no byte more than was said to come."""

import io
import stat
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from fewstep.errors import reason_of

MAX_DIRECTORY_BYTES: Final = 4 << 20  # about 40,000 members
MAX_NPY_HEADER: Final = 10_000
CHUNK: Final = 1 << 20

METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # whose output is bounded chunk by chunk
ENCRYPTED: Final = 1


class BadArchiveError(Exception):
    """Why an archive cannot be read, in words; the caller knows the file's name."""


class Archive:
    """An open zip archive whose members are read once, from their beginning, and never further than they should go.

    Refused, as BadArchiveError: what is no zip archive, or damaged; a directory of more than 4 MiB; a member that is
    encrypted, compressed otherwise than by deflate, there twice, longer than it says, or unlike its checksum.
    """

    def __init__(self, path: Path) -> None:
        with _faults():
            if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for somebody to write into it
                raise BadArchiveError("is not a regular file")
            self._file = _Bounded(path)
            try:
                self._zip = zipfile.ZipFile(self._file)
            except BaseException:
                self._file.close()
                raise
        self._found = Counter(info.filename for info in self._zip.infolist())

    def __enter__(self) -> "Archive":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._zip.close()
        self._file.close()

    def __contains__(self, name: str) -> bool:
        return name in self._found

    @property
    def names(self) -> list[str]:
        """Of the members, in the order of the directory."""
        return list(self._found)

    @property
    def said_bytes(self) -> int:
        """What all members say they hold, together."""
        return sum(info.file_size for info in self._zip.infolist())

    def open(self, name: str) -> IO[bytes]:
        """A member that is there once and plain."""
        if self._found[name] > 1:
            raise BadArchiveError(f"{name} is there {self._found[name]} times")
        with _faults():
            info = self._zip.getinfo(name)
            if info.flag_bits & ENCRYPTED:
                raise BadArchiveError(f"{name} is encrypted")
            if info.compress_type not in METHODS:
                raise BadArchiveError(f"{name} is compressed in a way that is not read; allowed: stored or deflated")
            return self._zip.open(info)

    def read(self, name: str, most: int) -> bytes:
        """All of a member, if that is at most so many bytes."""
        said = self._zip.getinfo(name).file_size if name in self else 0
        if said > most:
            raise BadArchiveError(f"{name} of {said:,} bytes; allowed: at most {most:,}")
        with self.open(name) as member:
            content = bytearray(said)
            _fill(memoryview(content), member, name)
        return bytes(content)

    def array(self, name: str) -> "StoredArray":
        """The array `name` of an .npz, of which only the header has been read."""
        if name in self and f"{name}.npy" in self:  # numpy would read the first
            raise BadArchiveError(f"holds both {name} and {name}.npy, and programs differ in which they read")
        return StoredArray(name, self.open(f"{name}.npy"))


def check_packed(path: Path) -> None:
    """BadArchiveError for a zip archive whose members say more than the file has: what torch writes is stored as it is.

    A file that does not begin as an archive is left to its reader.
    """
    with _faults(), path.open("rb") as file:
        if file.read(4) != b"PK\3\4":
            return
    with Archive(path) as archive:
        size = path.stat().st_size
        if archive.said_bytes > size:
            raise BadArchiveError(f"its members say they hold {archive.said_bytes:,} bytes, and it has {size:,}")


class StoredArray:
    """An array in an archive: what its header says, before memory is taken for it, and then the array itself."""

    def __init__(self, name: str, member: IO[bytes]) -> None:
        self._name, self._member = name, member
        with _faults(f"the header of {name}: "):
            start = io.BytesIO(member.read(MAX_NPY_HEADER + 12))
            version = np.lib.format.read_magic(start)
            if version not in ((1, 0), (2, 0)):
                raise BadArchiveError(f"{name} of npy version {version}; allowed: 1.0 or 2.0")
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            try:
                shape, self._fortran, self.dtype = read(start, max_header_size=MAX_NPY_HEADER)
            except MemoryError:  # so Python's parser says that so short a text is nested too deeply
                raise BadArchiveError(f"the header of {name}: is nested too deeply") from None
        if any(size < 0 for size in shape):
            raise BadArchiveError(f"{name} has shape {list(shape)}")
        self.shape: tuple[int, ...] = tuple(map(int, shape))
        self._begun = start.read()  # of the values

    def read(self) -> npt.NDArray[Any]:
        """The values, as many as the header says; it is the caller who has found the shape and dtype bearable."""
        if self.dtype.hasobject:
            raise BadArchiveError(f"{self._name} holds Python objects, not numbers")
        with self._member, _faults():
            shape = self.shape[::-1] if self._fortran else self.shape
            values = np.empty(shape, self.dtype)
            if values.size:
                _fill(values.reshape(-1).view(np.uint8).data, self._member, self._name, self._begun)
        return values.transpose() if self._fortran else values


class _Bounded(io.FileIO):
    """A file of which nobody reads much at once: zipfile takes in a whole directory, however long it says it is."""

    def read(self, size: int | None = -1, /) -> bytes:
        whole = size is None or size < 0
        got = super().read(MAX_DIRECTORY_BYTES + 1 if whole else size)
        if (len(got) if whole else size or 0) > MAX_DIRECTORY_BYTES:
            raise BadArchiveError(f"its directory is said to have {size:,} bytes; allowed: {MAX_DIRECTORY_BYTES:,}")
        return got


def _fill(into: memoryview, member: IO[bytes], name: str, begun: bytes = b"") -> None:
    """All of `into` from a member, which must end there; reading its end compares its checksum."""
    at = 0
    with _faults():
        chunk = begun or member.read(CHUNK)
        while chunk and at + len(chunk) <= len(into):
            into[at : at + len(chunk)] = chunk
            at += len(chunk)
            chunk = member.read(CHUNK)
    if chunk:
        raise BadArchiveError(f"{name} holds more than the {len(into):,} bytes that it says")
    if at < len(into):
        raise BadArchiveError(f"{name} holds {at:,} bytes of the {len(into):,} that it says")


@contextmanager
def _faults(where: str = "") -> Iterator[None]:
    """Whatever zipfile, zlib and numpy make of hostile bytes is the archive's fault, in one line."""
    try:
        yield
    except (BadArchiveError, MemoryError):
        raise
    # They raise eight kinds of error, and another one in the next version.
    except Exception as error:
        raise BadArchiveError(where + reason_of(error)) from error
