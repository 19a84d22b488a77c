"""Reading model files that may be hostile: all is checked against bounds before memory is taken for it.

Every problem is a ModelError of one line: the file, then the reason.
"""

import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fewstep.archives import check_packed
from fewstep.errors import ModelError
from fewstep.fields import Fields, file_size, parse_json, shown, unreadable
from fewstep.memory import why_not
from fewstep.mistaken import HEAD, mistaken
from fewstep.models.hub import blobs_of
from fewstep.models.layouts.keys import Joins, Keys

MAX_HEADER_BYTES: Final = 8 << 20  # as JSON in memory twenty times that
MAX_PICKLE_BYTES: Final = 32 << 30
MAX_TENSORS: Final = 20_000
MAX_DIMENSION: Final = 1 << 32
MAX_DEPTH: Final = 8  # of dicts in the dicts of a pickle

DTYPE_BYTES: Final = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
DTYPES: Final = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

NO_JOINS: Final[Joins] = MappingProxyType({})

T = TypeVar("T")


class TensorSource(Protocol):
    """A file whose tensors are known by shape before they are read by name."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]

    def read(self, name: str) -> Tensor:
        """The tensor, on the CPU, in the file's dtype."""


def inside(folder: Path, name: str) -> Path:
    """`folder / name`, refused if it is, or leads through links to, anything outside `folder`.

    A snapshot in the cache of the Hugging Face hub may lead to the files of its own repository, see `hub`.
    """
    path = folder / name
    target = Path(os.path.realpath(path))
    if target.is_relative_to(os.path.realpath(folder)):
        return path
    blobs = blobs_of(folder)
    if blobs is None or target.parent != blobs or not _is_beneath(path, folder):
        raise ModelError(f"{path}: leads out of the model folder; allowed: files inside {folder}")
    return path


def _is_beneath(path: Path, folder: Path) -> bool:
    """Whether the path as it is written stays in the folder, wherever links lead."""
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))


class SafetensorsFile:
    """A safetensors file whose header has been checked; tensors are read one at a time.

    Refused: a header longer than the file or than 8 MiB, too many tensors, dtypes other than floats of 2, 4 or
    8 bytes, sizes that disagree with shapes, tensors that overlap or leave holes, a file that ends too early.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shapes: Mapping[str, tuple[int, ...]] = _checked_header(path)
        try:
            self._file = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: {error}") from error

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the header says beside the tensors."""
        return self._file.metadata() or {}

    def read(self, name: str) -> Tensor:
        """The tensor, on the CPU, in the file's dtype."""
        try:
            tensor: Tensor = self._file.get_tensor(name)
        except SafetensorError as error:
            raise ModelError(f"{self.path}: {error}") from error
        return tensor


class TensorDict:
    """Tensors already in memory; `path` is where they came from."""

    def __init__(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        self.path, self._tensors = path, tensors
        self.shapes: Mapping[str, tuple[int, ...]] = {name: tuple(t.shape) for name, t in tensors.items()}

    def read(self, name: str) -> Tensor:
        """The tensor."""
        return self._tensors[name]


class Renamed:
    """A source under other names."""

    def __init__(self, source: TensorSource, rename: Callable[[str], str]) -> None:
        self.path, self._source = source.path, source
        self._names = {rename(name): name for name in source.shapes}
        if len(self._names) < len(source.shapes):
            raise ModelError(f"{source.path}: holds a tensor under its old and its new name")
        self.shapes: Mapping[str, tuple[int, ...]] = {new: source.shapes[old] for new, old in self._names.items()}

    def read(self, name: str) -> Tensor:
        """The tensor that is now called `name`."""
        return self._source.read(self._names[name])


class Without:
    """A source less the tensors that a network has no use for, such as what steered its training."""

    def __init__(self, source: TensorSource, unused: Callable[[str, tuple[int, ...]], bool]) -> None:
        self.path, self._source = source.path, source
        self.shapes: Mapping[str, tuple[int, ...]] = {
            name: shape for name, shape in source.shapes.items() if not unused(name, shape)
        }

    def read(self, name: str) -> Tensor:
        """The tensor, on the CPU, in the file's dtype."""
        return self._source.read(name)


def open_weights(path: Path, allow_pickle: bool = False) -> TensorSource:
    """A weight file: .safetensors, or, where the caller allows pickles, .pt, .pth, .bin and .ckpt.

    Pickles go through `torch.load(weights_only=True)`, which builds nothing but tensors.
    """
    if path.suffix == ".safetensors":
        return SafetensorsFile(path)
    if path.suffix not in (".pt", ".pth", ".bin", ".ckpt"):
        raise ModelError(f"{path}: is of no known kind; allowed: .safetensors, .pt, .pth, .bin, .ckpt")
    if not allow_pickle and (what := _no_pickle(path)):
        raise ModelError(f"{path}: is not weights: it is {what}")
    if not allow_pickle:
        raise ModelError(f"{path}: is a pickle, which may run code when read; allowed: .safetensors, or allow_pickle")
    return _read_pickle(path)


def fill(
    module: nn.Module,  # on the meta device
    source: TensorSource,
    keys: Keys,
    dtype: torch.dtype = torch.float32,
    keep_float32: frozenset[str] = frozenset(),  # parameters that stay float32 whatever the dtype
    joins: Joins = NO_JOINS,
) -> None:
    """Give a module all its parameters from a file, each found there in its shape and finite in its dtype.

    A file that lacks a tensor, or has one that the module has no place for, raises ModelError.
    """
    _check_names(source, keys)
    needed = sum(math.prod(piece.shape) for pieces in keys.values() for piece in pieces) * dtype.itemsize
    if (why := why_not(needed, f"the model in {str(dtype).removeprefix('torch.')}")) is not None:
        raise ModelError(f"{source.path}: does not fit into memory; {why}")
    state = {}
    for parameter, pieces in keys.items():
        target = torch.float32 if parameter in keep_float32 else dtype
        rows = []
        for piece in pieces:
            rows.append(piece.ordered(source.read(piece.name)).to(target))
            if not rows[-1].isfinite().all():
                kind = str(target).removeprefix("torch.")
                raise ModelError(f"{source.path}: tensor {shown(piece.name)} holds NaN or infinity as {kind}")
        # cat copies, also a single piece, so that no parameter lives in the file's memory map.
        state[parameter] = joins.get(parameter, torch.cat)(rows)
    module.load_state_dict(state, assign=True)


def _check_names(source: TensorSource, keys: Keys) -> None:
    pieces = [piece for group in keys.values() for piece in group]
    for piece in pieces:
        if piece.name not in source.shapes:
            raise ModelError(f"{source.path}: tensor {shown(piece.name)} is missing")
        shape = source.shapes[piece.name]
        if not piece.fits(shape):
            sizes = f"{list(shape)}; the config says {list(piece.shape)}"
            raise ModelError(f"{source.path}: tensor {shown(piece.name)} has shape {sizes}")
    unknown = sorted(source.shapes.keys() - {piece.name for piece in pieces})
    if unknown:
        raise ModelError(f"{source.path}: tensor {shown(unknown[0])} has no place in the model of the config")


def _checked_header(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes by name, once every rule of the format and every bound holds."""
    header, data_bytes = _read_header(path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ModelError(f"{path}: header: __metadata__: got {shown(metadata)}; allowed: an object of texts")
    if len(header) > MAX_TENSORS:
        raise ModelError(f"{path}: header lists {len(header):,} tensors; allowed: at most {MAX_TENSORS:,}")
    shapes: dict[str, tuple[int, ...]] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        shapes[name], begin, end = _entry(entry, f"{path}: tensor {shown(name)}", data_bytes)
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
    return shapes


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


def _entry(entry: Any, where: str, data_bytes: int) -> tuple[tuple[int, ...], int, int]:
    read = Fields(entry, where)
    dtype = read.choice("dtype", tuple(DTYPE_BYTES))
    shape = read.integers("shape", 0, MAX_DIMENSION)
    offsets = read.integers("data_offsets", 0, 1 << 62)
    read.finish()
    if len(shape) > 8:
        raise read.error("shape", f"got {shown(list(shape))}; allowed: at most eight dimensions")
    if len(offsets) != 2:
        raise read.error("data_offsets", f"got {shown(list(offsets))}; allowed: a begin and an end")
    begin, end = offsets
    expected = math.prod(shape) * DTYPE_BYTES[dtype]
    if end - begin != expected:
        raise read.error("data_offsets", f"span {end - begin:,} bytes; its shape and dtype take {expected:,}")
    if end > data_bytes:
        raise ModelError(f"{where}: ends {end - data_bytes:,} bytes past the end of the file, which is truncated")
    return shape, begin, end


def _read_pickle(path: Path) -> TensorDict:
    size = file_size(path)
    if size > MAX_PICKLE_BYTES:
        raise ModelError(f"{path}: is {size:,} bytes; allowed: at most {MAX_PICKLE_BYTES:,}")
    try:
        check_packed(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    # Whatever a broken or hostile pickle makes the reader raise, the file is what is wrong.
    except Exception as error:
        raise ModelError(f"{path}: cannot be read as weights: {_why_not(path, error)}") from error
    if not isinstance(state, dict) or len(state) > MAX_TENSORS:
        raise ModelError(f"{path}: got {type(state).__name__}; allowed: a dict of at most {MAX_TENSORS:,} tensors")
    if any(isinstance(value, Mapping) for value in state.values()):
        return TensorDict(path, _nested(state, path))
    # An epoch or a learning rate beside the weights is no part of them, as it is none in a part of its own.
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)} or state
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not _is_plain(tensor):
            raise ModelError(f"{path}: tensor {shown(name)} is not a dense tensor of floats")
    return TensorDict(path, tensors)


def _no_pickle(path: Path) -> str | None:
    """What a file is that has a pickle's name and does not begin as one."""
    file_size(path)  # a pipe would be waited for
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise unreadable(path, error) from error
    return None if head.startswith((b"PK", b"\x80")) else mistaken(head)


def _why_not(path: Path, error: Exception) -> str:
    """Why torch did not read a pickle. Its own words advise to read it with all that it may run."""
    if what := _no_pickle(path):
        return f"it is {what}"
    if found := re.search(r"GLOBAL (\S{1,100})", str(error)):
        return f"it holds more than tensors, a {found[1]}; allowed: a state_dict() by itself"
    first_line = str(error).strip().split("\n", 1)[0]
    return first_line or type(error).__name__


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and value.dtype in DTYPES


def _nested(state: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint of several parts, such as {"model": {...}, "step": 3}: names joined by dots."""
    found: dict[str, Tensor] = {}
    parts: list[tuple[str, Mapping[Any, Any], int]] = [("", state, 0)]
    seen = 0
    while parts:
        prefix, part, depth = parts.pop()
        for name, value in part.items():
            seen += 1
            if seen > 4 * MAX_TENSORS:
                raise ModelError(f"{path}: holds over {seen - 1:,} entries; allowed: fewer, such as the weights alone")
            if isinstance(value, Mapping) and depth < MAX_DEPTH:
                parts.append((f"{prefix}{name}.", value, depth + 1))
            elif _is_plain(value):
                found[f"{prefix}{name}"] = value
    return found
