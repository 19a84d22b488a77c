"""Zip archives that lie: what is checked is what is read, and no more of it than it says."""

import io
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewstep import archives
from fewstep.archives import Archive, BadArchiveError

VALUES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def npy(array: "np.ndarray[Any, Any]", version: tuple[int, int] = (1, 0)) -> bytes:
    page = io.BytesIO()
    np.lib.format.write_array(page, array, version)
    return page.getvalue()


def headed(shape: object, descr: str = "|u1", values: bytes = b"", more: str = "") -> bytes:
    """An .npy whose header says what it likes."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, {more}}}\n".encode()
    return b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text + values


def archive(path: Path, *members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a name that is there twice
                file.writestr(name, content)
    return path


def values(path: Path, name: str = "a") -> "np.ndarray[Any, Any]":
    with Archive(path) as file:
        return file.array(name).read()


@pytest.mark.parametrize(
    "array",
    [
        VALUES,
        np.asfortranarray(VALUES),
        VALUES.astype(">i8"),
        VALUES.astype("<u2")[0, 0, 0],
        VALUES[:0],
        np.arange(300_000, dtype=np.int32),
    ],
    ids=["as it is", "column by column", "big-endian", "a number", "nothing", "more than a chunk"],
)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def test_arrays_come_back(tmp_path: Path, array: "np.ndarray[Any, Any]", method: int) -> None:
    path = archive(tmp_path / "own.npz", ("a.npy", npy(array)), ("b.npy", npy(VALUES, (2, 0))), method=method)
    found = values(path)
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)
    assert np.array_equal(values(path, "b"), VALUES)


def with_bit(path: Path, signature: bytes, offset: int, value: int) -> Path:
    """A byte of a header of the archive set to another."""
    data = bytearray(path.read_bytes())
    data[data.index(signature) + offset] = value
    path.write_bytes(data)
    return path


def broken_stream(path: Path) -> Path:
    data = path.read_bytes()
    packed = zlib.compressobj(wbits=-15)
    stream = packed.compress(npy(VALUES)) + packed.flush()
    assert stream in data
    path.write_bytes(data.replace(stream, stream[:20] + bytes(len(stream) - 20)))
    return path


GOOD = ("a.npy", npy(VALUES))
BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "shadowed": (lambda p: archive(p, GOOD, ("a", npy(VALUES + 1))), r"holds both a and a\.npy"),
    "twice there": (lambda p: archive(p, GOOD, ("a.npy", npy(VALUES + 1))), r"a\.npy is there 2 times"),
    "twice by a NUL": (lambda p: archive(p, GOOD, ("a.npy\0b", npy(VALUES))), r"a\.npy is there 2 times"),
    "encrypted": (lambda p: with_bit(archive(p, GOOD), b"PK\x01\x02", 8, 1), r"a\.npy is encrypted"),
    "bzip2": (lambda p: archive(p, GOOD, method=zipfile.ZIP_BZIP2), "compressed in a way that is not read"),
    "lzma": (lambda p: archive(p, GOOD, method=zipfile.ZIP_LZMA), "compressed in a way that is not read"),
    "another checksum": (lambda p: with_bit(archive(p, GOOD), b"PK\x01\x02", 16, 7), "Bad CRC-32"),
    "a broken stream": (lambda p: broken_stream(archive(p, GOOD)), "Error -3|Bad CRC|holds"),
    "more than it says": (lambda p: archive(p, ("a.npy", headed((2,), values=b"123"))), "more than the 2 bytes"),
    "less than it says": (lambda p: archive(p, ("a.npy", headed((4,), values=b"123"))), "3 bytes of the 4"),
    "below zero": (lambda p: archive(p, ("a.npy", headed((-2, 3)))), r"has shape \[-2, 3\]"),
    "past 64 bits": (lambda p: archive(p, ("a.npy", headed((2**40, 2**40)))), "too big|Maximum allowed"),
    "no shape": (lambda p: archive(p, ("a.npy", headed("8"))), "shape is not valid"),
    "objects": (lambda p: archive(p, ("a.npy", headed((1,), "|O", b"."))), "holds Python objects"),
    "npy 3.0": (lambda p: archive(p, ("a.npy", npy(VALUES, (3, 0)))), r"npy version \(3, 0\)"),
    "a long header": (lambda p: archive(p, ("a.npy", headed((1,), more=" " * 20_000))), "reading array header"),
    "a deep header": (lambda p: archive(p, ("a.npy", headed((1,), more="(" * 9000))), "the header of a: "),
    "a header of signs": (lambda p: archive(p, ("a.npy", headed((1,), more="-" * 9000))), "nested too deeply"),
    "no such array": (lambda p: archive(p, ("b.npy", npy(VALUES))), "no item named"),
    "no archive": (lambda p: p.with_name(p.name) if p.write_bytes(b"x") else p, "not a zip file"),
    "nothing": (lambda p: p, "No such file"),
    "a folder": (lambda p: p.mkdir() or p, "is not a regular file"),
    "a pipe": (lambda p: os.mkfifo(p) or p, "is not a regular file"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_wrong_is_said_in_a_line(tmp_path: Path, kind: str) -> None:
    make, reason = BAD[kind]
    path = make(tmp_path / "own.npz")
    with pytest.raises(BadArchiveError, match=reason) as caught:
        values(path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_bomb_is_left_where_its_header_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path / "bomb.npz", ("a.npy", headed((5,), values=bytes(50 << 20))))
    asked: list[int] = []
    read = zipfile.ZipExtFile.read

    def counted(self: zipfile.ZipExtFile, n: int | None = -1) -> bytes:
        asked.append(len(found := read(self, -1 if n is None else n)))
        return found

    monkeypatch.setattr(zipfile.ZipExtFile, "read", counted)
    with pytest.raises(BadArchiveError, match="holds more than the 5 bytes"):
        values(path)
    assert sum(asked) <= archives.CHUNK + archives.MAX_NPY_HEADER + 12


def test_a_directory_that_is_too_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path / "many.npz", *((f"{i}.npy", b"") for i in range(2000)))
    Archive(path).__exit__(None, None, None)
    monkeypatch.setattr(archives, "MAX_DIRECTORY_BYTES", 70_000)
    with pytest.raises(BadArchiveError, match="its directory is said to have"):
        Archive(path)


def test_a_member_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    path = archive(tmp_path / "own.zip", ("a", b"content"))
    with Archive(path) as file:
        assert file.read("a", 7) == b"content"
        with pytest.raises(BadArchiveError, match="a of 7 bytes; allowed: at most 6"):
            file.read("a", 6)
        assert file.said_bytes == 7
