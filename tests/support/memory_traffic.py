"""Bytes that cross from and to memory: the calls torch dispatches, through a model of a cache that writes back.

Operands are cut into pages. A page that is read or written is in the cache until others have taken its place; one that
was written goes back to memory when it leaves. So a page counts once for coming in, unless it is written whole before
it is read, and once for going out after a write.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from support.recorder import tensors_of

PAGE = 4096
CACHE = 4 << 20  # bytes: what the second and third level of any CPU of the last ten years hold for one core
WRITES_ALONE = {"copy_", "fill_", "zero_"}  # what is written there is not read first


@dataclass(frozen=True)
class Touch:
    """Bytes of one storage that a call reads or writes."""

    storage: int
    start: int
    stop: int
    writes: bool


class Recorded(TorchDispatchMode):
    """Keeps what every call touches, in order. It holds the tensors, so that no address is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.touches: list[Touch] = []
        self._held: list[Any] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        arguments = function._schema.arguments
        writes = [bool(each.alias_info and each.alias_info.is_write) for each in arguments]
        is_view = any(each.alias_info for each in arguments) and not any(writes)
        if not is_view and "empty" not in function.__name__:
            self._note(function.__name__.split(".")[0], args, writes, out)
        self._held.append((args, out))
        return out

    def _note(self, name: str, args: Any, writes: list[bool], out: Any) -> None:
        for value, written in zip(args, writes, strict=False):
            for tensor in tensors_of(value):
                if not (written and name in WRITES_ALONE):
                    self._touch(tensor, writes=False)
                if written:
                    self._touch(tensor, writes=True)
        if not any(writes):
            for tensor in tensors_of(out):
                self._touch(tensor, writes=True)

    def _touch(self, tensor: Tensor, writes: bool) -> None:
        size = tensor.element_size()
        last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
        start = tensor.storage_offset() * size
        self.touches.append(Touch(tensor.untyped_storage().data_ptr(), start, start + (last + 1) * size, writes))


@dataclass
class Cache:
    """The pages that are in, the oldest first, each with whether it is to go back."""

    pages: "OrderedDict[tuple[int, int], bool]" = field(default_factory=OrderedDict)
    crossed: dict[int, int] = field(default_factory=dict)  # pages by storage

    def touch(self, touch: Touch) -> None:
        for page in range(touch.start // PAGE, -(-touch.stop // PAGE)):
            key = (touch.storage, page)
            there = key in self.pages
            if not there and not touch.writes:
                self._cross(touch.storage)
            self.pages[key] = self.pages.pop(key, False) or touch.writes
            if len(self.pages) > CACHE // PAGE:
                (storage, _), dirty = self.pages.popitem(last=False)
                if dirty:
                    self._cross(storage)

    def flush(self) -> None:
        while self.pages:
            (storage, _), dirty = self.pages.popitem()
            if dirty:
                self._cross(storage)

    def _cross(self, storage: int) -> None:
        self.crossed[storage] = self.crossed.get(storage, 0) + 1


def through_cache(touches: Iterable[Touch], tensors: Iterable[Tensor]) -> int:
    """Bytes of the tensors' storages that cross between cache and memory; all that is touched takes up the cache."""
    cache = Cache()
    for touch in touches:
        cache.touch(touch)
    cache.flush()
    watched = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    return PAGE * sum(pages for storage, pages in cache.crossed.items() if storage in watched)


def as_operands(touches: Iterable[Touch], tensors: Iterable[Tensor]) -> int:
    """Bytes of the tensors' storages in all operands: what would cross without a cache."""
    watched = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    return sum(touch.stop - touch.start for touch in touches if touch.storage in watched)
