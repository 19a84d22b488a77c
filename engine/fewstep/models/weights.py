"""Which file of a folder holds a network's weights: plain, a variant such as fp16, or shards listed by an index."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

from torch import Tensor

from fewstep.errors import ModelError
from fewstep.fields import Fields, read_json, shown
from fewstep.models.layouts.keys import Joins, Keys
from fewstep.models.net.config import UNetConfig
from fewstep.models.net.unet import UNet
from fewstep.models.safe_load import TensorSource, inside, open_weights
from fewstep.models.safetensors_header import MAX_TENSORS

MAX_FILES: Final = 10_000  # entries of a folder that are looked at
MAX_SHARDS: Final = 1_000


@dataclass(frozen=True)
class Weights:
    """A weight file that has not been read, and what its tensors are."""

    config: UNetConfig
    path: Path  # safetensors, a pickle, or the index of several
    keys: Callable[[UNet], Keys]
    rename: Callable[[str], str] | None = None  # a tensor's name in the file -> its name in `keys`
    unused: Callable[[str, tuple[int, ...]], bool] | None = None  # by name and shape: tensors without a part here
    joins: Joins = field(default_factory=dict)
    source: TensorSource | None = None  # the file, where it had to be opened already

    def open(self, allow_pickle: bool) -> TensorSource:
        """The tensors by name. ModelError as `safe_load` has it."""
        if self.source is not None:
            return self.source
        return Shards(self.path, allow_pickle) if self.path.suffix == ".json" else open_weights(self.path, allow_pickle)


@dataclass(frozen=True)
class Found:
    """A weight file in a folder, and which of several it is."""

    path: Path
    variant: str | None = None


def find_weights(folder: Path, place: str, stem: str, variant: str | None = None) -> Found:
    """The file `stem` in `folder / place`: .safetensors before .bin, one file before shards.

    Args:
        folder: the model's; nothing outside it is taken.
        place: "" or a folder in it, such as "unet/".
        stem: the name before its endings, such as "diffusion_pytorch_model".
        variant: such as "fp16", for what lies beside the plain file as stem.fp16.safetensors. None: the plain file, or
            the one variant where there is no plain one.

    Raises:
        ModelError: a variant that is not there, or several of which none was asked for.
    """
    name, found = chosen(_listed(folder / place), stem, variant, str(folder / place))
    return Found(inside(folder, place + name), found)


def chosen(listed: Sequence[str], stem: str, variant: str | None, where: str) -> tuple[str, str | None]:
    """As `find_weights`, of the names of a folder's files: that of the weights or of their index, and their variant."""
    every: dict[str | None, str] = {}
    for ending in ("safetensors", "bin"):
        there = _variants(listed, stem, ending)
        every |= there
        if variant in there:
            return there[variant], variant
        if variant is None and len(there) == 1:
            ((only, name),) = there.items()
            return name, only
        if variant is None and there:
            allowed = f"a variant, one of {_names(there)}"
            raise ModelError(f"{where}: holds no plain {stem}.{ending}; allowed: {allowed}")
    if variant is not None:
        raise ModelError(f"{where}: has no variant {variant!r} of {stem}; there: {_names(every)}")
    return f"{stem}.safetensors", None


def _variants(listed: Sequence[str], stem: str, ending: str) -> dict[str | None, str]:
    """The files by variant; None is the plain one."""
    kind = r"(?:\.(?P<variant>\w[\w-]*))?"
    whole = re.compile(rf"{re.escape(stem)}{kind}\.{ending}", re.ASCII)
    index = re.compile(rf"{re.escape(stem)}\.{ending}\.index{kind}\.json", re.ASCII)
    found: dict[str | None, str] = {}
    for pattern in (index, whole):  # a whole file takes the place of an index
        for name in listed:
            match = pattern.fullmatch(name)
            if match and not re.search(r"-\d+-of-\d+$", match["variant"] or ""):
                found[match["variant"]] = name
    return found


def _listed(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in islice(entries, MAX_FILES))
    except OSError:
        return []


def _names(variants: Mapping[str | None, str]) -> str:
    names = sorted(variants, key=lambda variant: variant or "")
    return ", ".join(repr(name) if name else "the plain one" for name in names) or "none"


class Shards:
    """Several weight files as one, by the index that says which tensor is in which.

    Refused: a file that is not beside the index, a tensor that is not where the index says, one that it does not list.
    """

    def __init__(self, path: Path, allow_pickle: bool = False) -> None:
        self.path = path
        ending = ".safetensors" if ".safetensors.index" in path.name else ".bin"
        places = _weight_map(path, ending)
        names = sorted(set(places.values()))
        self._files = {name: open_weights(inside(path.parent, name), allow_pickle) for name in names}
        self._places = places
        for tensor, name in places.items():
            if tensor not in self._files[name].shapes:
                raise ModelError(f"{path}: lists tensor {shown(tensor)} in {name}, which does not hold it")
        for name, file in self._files.items():
            unlisted = sorted(tensor for tensor in file.shapes if places.get(tensor) != name)
            if unlisted:
                raise ModelError(f"{path}: does not list tensor {shown(unlisted[0])} in {name}, which holds it")
        self.shapes: Mapping[str, tuple[int, ...]] = {
            tensor: self._files[name].shapes[tensor] for tensor, name in places.items()
        }

    def read(self, name: str) -> Tensor:
        """The tensor, on the CPU, in the file's dtype."""
        return self._files[self._places[name]].read(name)


def _weight_map(path: Path, ending: str) -> dict[str, str]:
    """{tensor: file}, each file a name beside the index."""
    read = Fields(read_json(path), str(path)).child("weight_map")
    if len(read.data) > MAX_TENSORS:
        raise ModelError(f"{read.where}: lists {len(read.data):,} tensors; allowed: at most {MAX_TENSORS:,}")
    places = {tensor: read.text(tensor, max_length=255) for tensor in read.data}
    for tensor, name in places.items():
        if os.path.basename(name) != name or "\\" in name or not name.endswith(ending):
            raise ModelError(f"{read.where}: {shown(tensor)}: got {shown(name)}; allowed: a {ending} beside the index")
    count = len(set(places.values()))
    if count > MAX_SHARDS:
        raise ModelError(f"{read.where}: names {count:,} files; allowed: at most {MAX_SHARDS:,}")
    return places
