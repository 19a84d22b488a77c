"""Reading model files that may be hostile: all is checked against bounds before memory is taken for it.

Every problem is a ModelError of one line: the file, then the reason.
"""

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fewstep.archives import check_packed
from fewstep.errors import ModelError, some_of
from fewstep.fields import file_size, shown, unreadable
from fewstep.memory import why_not
from fewstep.mistaken import HEAD, mistaken
from fewstep.models.hub import blobs_of
from fewstep.models.layouts.foreign import what_it_is
from fewstep.models.layouts.keys import Joins, Keys
from fewstep.models.safetensors_header import DTYPE_BYTES, MAX_TENSORS, OTHER_BYTES, checked_header

MAX_PICKLE_BYTES: Final = 32 << 30
MAX_DEPTH: Final = 8  # of dicts in the dicts of a pickle

NAMED: Final = 5  # tensors that a message lists
BESIDE: Final = 2  # and such as it lists in the second place
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

    Attributes:
        others: name -> dtype of the tensors that are no such floats, where the file may have any.
        metadata: the texts of the header.
    """

    def __init__(self, path: Path, others: bool = False) -> None:
        self.path = path
        header = checked_header(path, DTYPE_BYTES | (OTHER_BYTES if others else {}))
        self.shapes: Mapping[str, tuple[int, ...]] = header.shapes
        self.others: Mapping[str, str] = header.others
        self.metadata: Mapping[str, str] = header.metadata
        try:
            self._file = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: {error}") from error

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


def open_weights(path: Path, allow_pickle: bool = False, others: bool = False) -> TensorSource:
    """A weight file: .safetensors, or, where the caller allows pickles, .pt, .pth, .bin and .ckpt.

    Pickles go through `torch.load(weights_only=True)`, which builds nothing but tensors. `others`: the file may hold
    tensors that are no floats, which are passed over.
    """
    if path.suffix == ".safetensors":
        return SafetensorsFile(path, others)
    if path.suffix not in (".pt", ".pth", ".bin", ".ckpt"):
        raise ModelError(f"{path}: is of no known kind; allowed: .safetensors, .pt, .pth, .bin, .ckpt")
    if not allow_pickle and (what := _no_pickle(path)):
        raise ModelError(f"{path}: is not weights: it is {what}")
    if not allow_pickle:
        raise ModelError(f"{path}: is a pickle, which may run code when read; allowed: .safetensors, or allow_pickle")
    return _read_pickle(path, others)


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
    missing = [piece.name for piece in pieces if piece.name not in source.shapes]
    unknown = sorted(source.shapes.keys() - {piece.name for piece in pieces})
    if missing:
        beside = f"; {_named(unknown, 'no place', BESIDE)}" if unknown else ""
        if what := what_it_is(unknown):
            beside += f", as {what} has them"
        raise ModelError(f"{source.path}: {_named(missing, 'missing')}{beside}")
    unlike = [piece for piece in pieces if not piece.fits(source.shapes[piece.name])]
    if unlike:
        first, more = unlike[0], f"; {len(unlike) - 1:,} more do not fit" if len(unlike) > 1 else ""
        sizes = f"{list(source.shapes[first.name])}; the config says {list(first.shape)}"
        raise ModelError(f"{source.path}: tensor {shown(first.name)} has shape {sizes}{more}")
    if unknown:
        raise ModelError(f"{source.path}: {_named(unknown, 'no place')}")


def _named(names: Sequence[str], what: str, most: int = NAMED) -> str:
    """Which tensors are missing or have no place: the first of them, and how many there are."""
    verbs = {"missing": ("is missing", "are missing"), "no place": ("has no place", "have no place")}[what]
    where = " in the model of the config" if what == "no place" else ""
    if len(names) == 1:
        return f"tensor {shown(names[0])} {verbs[0]}{where}"
    return f"{len(names):,} tensors {verbs[1]}{where}: {some_of([shown(name) for name in names], most)}"


def _read_pickle(path: Path, others: bool) -> TensorDict:
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
    if others:
        tensors = {name: value for name, value in tensors.items() if _is_plain(value)}
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
