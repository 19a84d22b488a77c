"""Whether a network is what it was: a program was made of its weights and its parts as they were then."""

from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain
from operator import attrgetter, is_
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.modules import module as of_all

from fewstep.errors import reason_of
from fewstep.run.backends.backend import UnreadyError

SLICE: Final = 64  # bytes
MOST_HELD: Final = 4096  # values in a list or a dict that is looked into
SLICES: Final = 16  # of a tensor, from its first bytes to its last; one that is not larger is seen whole

_EVERYWHERE: Final = (of_all._global_forward_hooks, of_all._global_forward_pre_hooks)
_PLAIN: Final = (bool, int, float, complex, str, bytes, type(None))
_OF_EVERY_MODULE: Final = vars(nn.Module()).keys() - {"training"}
_HOLDERS: Final = (dict, list, set, deque)
_version: Final = attrgetter("_version")


class Weights:
    """A network as it is now, to be compared with what it is later.

    It is looked at before every run, so at as little as tells: which parts it has, of which classes, and what their
    attributes are, with what lists and dicts among them hold, as peft holds its scales; which tensors, where they lie,
    how often torch has counted a write into them, and sixteen slices of each, for a write through `.data` or by numpy
    is not counted. Not seen is such a write where it spares the slices, and what changes inside another object that is
    an attribute of a part.

    Raises:
        UnreadyError: a weight that is no plain tensor in the CPU's memory.
    """

    def __init__(self, module: nn.Module) -> None:
        self._parts = list(module.modules())
        self._hooks = [*_EVERYWHERE, *chain.from_iterable(map(_hooks_of, self._parts))]
        owners = [own for part in self._parts for own in (part._parameters, part._buffers, part._modules)]
        self._owners, self._empty = [own for own in owners if own], [own for own in owners if not own]
        self._attributes = [vars(part) for part in self._parts]
        said = [(own, name) for own in self._attributes for name in own if name not in _OF_EVERY_MODULE]
        self._speakers, self._names = [own for own, _ in said], [name for _, name in said]
        self._holders = _holders(self._said())
        found = (*self._owned(), *self._said(), *self._held())
        there = {id(each): each for each in found if isinstance(each, Tensor)}
        self._tensors = list(there.values())
        self._counted = [tensor for tensor in self._tensors if not tensor.is_inference()]
        self._slices = list(chain.from_iterable(map(_slices, self._tensors)))
        self._facts, self._things, self._values = self._look(), self._owned(), self._said()
        self._contents, self._values_held = self._read(), self._held()

    def are_current(self, contents: bool = True) -> bool:
        """Whether nothing was exchanged, set, hooked or moved since, nor, if the contents count, written into."""
        return (
            self._look() == self._facts
            and _are(self._owned(), self._things)
            and _say(self._said(), self._values)
            and _say(self._held(), self._values_held)
            and (not contents or self._read() == self._contents)
        )

    def leave_notes(self, call: Callable[[], object]) -> None:
        """Lists and dicts into which a call of the network writes are notes of its own: they are looked at no more."""
        before = [_inside(each) for each in self._holders]
        call()
        self._holders = [each for each, then in zip(self._holders, before, strict=True) if _say(_inside(each), then)]
        self._values_held = self._held()

    def _look(self) -> tuple[object, ...]:
        return (
            any(self._hooks),
            any(self._empty),
            [*map(type, self._parts)],
            [*map(len, self._attributes)],
            [*map(Tensor.data_ptr, self._tensors)],
        )

    def _owned(self) -> list[object]:
        found: list[object] = []
        for own in self._owners:
            found += own.values()
        return found

    def _said(self) -> list[object]:
        return [*map(dict.get, self._speakers, self._names)]

    def _held(self) -> list[object]:
        found: list[object] = []
        for each in self._holders:
            found += _inside(each)
        return found

    def _read(self) -> tuple[list[int], bytes]:
        return [*map(_version, self._counted)], b"".join(self._slices)


def hooked(module: nn.Module) -> bool:
    """Whether hooks run when the module, or a part of it, is called."""
    return any(chain(_EVERYWHERE, *map(_hooks_of, module.modules())))


def _hooks_of(part: nn.Module) -> tuple[dict[int, Any], ...]:
    return part._forward_hooks, part._forward_pre_hooks


def _are(now: Sequence[object], then: Sequence[object]) -> bool:
    return len(now) == len(then) and all(map(is_, now, then))


def _say(now: Sequence[object], then: Sequence[object]) -> bool:
    return len(now) == len(then) and (all(map(is_, now, then)) or all(map(_as_it_was, now, then)))


def _as_it_was(now: object, then: object) -> bool:
    return now is then or (type(now) is type(then) and isinstance(now, _PLAIN) and now == then)


def _holders(values: Sequence[object]) -> list[Any]:
    """The dicts and lists among some values, and among what those hold, each once."""
    found: dict[int, Any] = {}
    waiting = [*values]
    while waiting:
        each = waiting.pop()
        if not isinstance(each, (*_HOLDERS, tuple)) or id(each) in found or len(each) > MOST_HELD:
            continue
        found[id(each)] = each
        waiting += each.values() if isinstance(each, dict) else each
    return [each for each in found.values() if not isinstance(each, tuple)]  # of which nothing is exchanged


def _inside(holder: Any) -> list[object]:
    return [*holder, *dict.values(holder)] if isinstance(holder, dict) else [*holder]


def _slices(tensor: Tensor) -> list[memoryview]:
    """Bytes of a tensor where they lie, in the order of its memory."""
    try:
        span = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
        memory = tensor.detach().as_strided((span if tensor.numel() else 0,), (1,)).view(torch.uint8).numpy().data
    except (RuntimeError, TypeError) as error:
        raise UnreadyError(f"a weight cannot be looked at ({reason_of(error)})") from error
    if len(memory) <= SLICE * SLICES:
        return [memory]
    apart = (len(memory) - SLICE) / (SLICES - 1)
    return [memory[start : start + SLICE] for start in (round(place * apart) for place in range(SLICES))]
