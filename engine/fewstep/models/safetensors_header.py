"""The header of a safetensors file that may be hostile: every rule of the format, and bounds for what it may say."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fewstep.errors import ModelError
from fewstep.fields import Fields, file_size, parse_json, shown, unreadable
from fewstep.mistaken import HEAD, mistaken

MAX_HEADER_BYTES: Final = 8 << 20  # as JSON in memory twenty times that
MAX_TENSORS: Final = 20_000
MAX_DIMENSION: Final = 1 << 32

DTYPE_BYTES: Final = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
# What else a file may hold beside a network's weights, such as the positions of a text encoder.
OTHER_BYTES: Final = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1} | {
    "F8_E4M3": 1,
    "F8_E5M2": 1,
}


@dataclass(frozen=True)
class Header:
    """What a header says: shapes of the floats by name, dtypes of what is none, and its texts."""

    shapes: dict[str, tuple[int, ...]]
    others: dict[str, str]
    metadata: dict[str, str]


def checked_header(path: Path, dtypes: Mapping[str, int]) -> Header:
    """The header of a file, once every rule of the format and every bound holds; `dtypes` are those it may have."""
    header, data_bytes = _read_header(path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ModelError(f"{path}: header: __metadata__: got {shown(metadata)}; allowed: an object of texts")
    if len(header) > MAX_TENSORS:
        raise ModelError(f"{path}: header lists {len(header):,} tensors; allowed: at most {MAX_TENSORS:,}")
    shapes: dict[str, tuple[int, ...]] = {}
    others: dict[str, str] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        shape, dtype, begin, end = _entry(entry, f"{path}: tensor {shown(name)}", data_bytes, dtypes)
        if dtype in DTYPE_BYTES:
            shapes[name] = shape
        else:
            others[name] = dtype
        spans.append((begin, end, name))
    position, previous = 0, ""
    for begin, end, name in sorted(spans):
        if begin < position:
            raise ModelError(f"{path}: tensor {shown(name)} overlaps {shown(previous)}")
        if begin > position:
            raise ModelError(f"{path}: a hole of {begin - position:,} bytes before tensor {shown(name)}")
        position, previous = end, name
    if position < data_bytes:
        raise ModelError(f"{path}: a hole of {data_bytes - position:,} bytes after the last tensor")
    return Header(shapes, others, metadata)


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header's object, and how many bytes of tensors follow it."""
    size = file_size(path)
    if size < 8:
        raise ModelError(f"{path}: truncated: {size} bytes, less than a header's length")
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
            # A header is JSON; one that happens to be as long as these first letters say begins with a brace.
            if head[8:9] != b"{" and (what := mistaken(head)):
                raise ModelError(f"{path}: is not a safetensors file, as it has no header in JSON: it is {what}")
            file.seek(8)
            length = int.from_bytes(head[:8], "little")
            if length > min(size - 8, MAX_HEADER_BYTES):
                limit = f"the file's {size - 8:,} and {MAX_HEADER_BYTES:,}"
                raise ModelError(f"{path}: header of {length:,} bytes; allowed: at most {limit}")
            data = file.read(length)
    except OSError as error:
        raise unreadable(path, error) from error
    return parse_json(data, f"{path}: header"), size - 8 - length


def _entry(entry: Any, where: str, data_bytes: int, dtypes: Mapping[str, int]) -> tuple[tuple[int, ...], str, int, int]:
    read = Fields(entry, where)
    dtype = read.choice("dtype", tuple(dtypes))
    shape = read.integers("shape", 0, MAX_DIMENSION)
    offsets = read.integers("data_offsets", 0, 1 << 62)
    read.finish()
    if len(shape) > 8:
        raise read.error("shape", f"got {shown(list(shape))}; allowed: at most eight dimensions")
    if len(offsets) != 2:
        raise read.error("data_offsets", f"got {shown(list(offsets))}; allowed: a begin and an end")
    begin, end = offsets
    expected = math.prod(shape) * dtypes[dtype]
    if end - begin != expected:
        raise read.error("data_offsets", f"span {end - begin:,} bytes; its shape and dtype take {expected:,}")
    if end > data_bytes:
        raise ModelError(f"{where}: ends {end - data_bytes:,} bytes past the end of the file, which is truncated")
    return shape, dtype, begin, end
