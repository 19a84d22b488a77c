"""A capture without a GPU: record the calls torch dispatches, replay them on the same memory.

A replay does what a CUDA graph does: the same calls with the same numbers on the same addresses, whatever the host has
done since. So it fails where a graph would be wrong, and refuses at capture what a graph could not hold:

    a read of a value on the host (.item(), a Python bool of a tensor)
    a tensor made from host data inside the work (its value would be frozen)
    a Python number or an outside tensor that is not the same when the work runs again
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

HOST_READS = {"_local_scalar_dense", "equal", "is_nonzero", "nonzero"}
HOST_DATA = {"lift_fresh", "lift_fresh_copy", "scalar_tensor"}


class CaptureError(RuntimeError):
    """The work is not something a graph can hold."""


def tensors_of(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


@dataclass
class Call:
    """One dispatched call."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: list[Tensor]

    @property
    def name(self) -> str:
        return str(self.function)

    def inputs(self) -> list[Tensor]:
        return tensors_of((self.args, self.kwargs))

    def numbers(self) -> list[Any]:
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if not isinstance(leaf, Tensor)]

    def again(self) -> None:
        """Do it again, into the memory the results had."""
        held = {result.untyped_storage().data_ptr() for result in self.inputs()}
        fresh = tensors_of(self.function(*self.args, **self.kwargs))
        for before, now in zip(self.results, fresh, strict=True):
            if before.untyped_storage().data_ptr() not in held:
                before.copy_(now)


class Recording(TorchDispatchMode):
    """Keeps every call, and with it every tensor: the memory pool."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.__name__.split(".")[0]
        if name in HOST_READS:
            raise CaptureError(f"{function} reads a value on the host")
        if name in HOST_DATA:
            raise CaptureError(f"{function} freezes host data into the graph")
        out = function(*args, **(kwargs or {}))
        self.calls.append(Call(function, args, kwargs or {}, tensors_of(out)))
        return out

    def outside(self) -> list[list[int]]:
        """Addresses each call reads that nothing in the recording made."""
        made: set[int] = set()
        found = []
        for call in self.calls:
            found.append([t.untyped_storage().data_ptr() for t in call.inputs() if id(t) not in made])
            made.update(id(result) for result in call.results)
        return found


@dataclass
class RecordedGraph:
    """What a capture returns."""

    calls: list[Call]
    bytes: int
    replays: int = 0
    released: bool = False

    @torch.no_grad()
    def replay(self) -> None:
        if self.released:
            raise CaptureError("a released graph was replayed")
        self.replays += 1
        for call in self.calls:
            call.again()

    def release(self) -> None:
        self.released = True
        self.calls = []


@dataclass
class RecorderCapturer:
    """Stands in for CudaCapturer. `bytes_each` is what a graph claims to hold, `speed_up` what timing it shows."""

    bytes_each: int = 100
    speed_up: float = 2.0
    graphs: list[RecordedGraph] = field(default_factory=list)

    def capture(self, work: Callable[[], None]) -> RecordedGraph:
        work()
        first, second = Recording(), Recording()
        with first:
            work()
        with second:
            work()
        compare(first, second)
        graph = RecordedGraph(first.calls, self.bytes_each)
        self.graphs.append(graph)
        return graph

    def seconds(self, work: Callable[[], None]) -> float:
        replayed = isinstance(getattr(work, "__self__", None), RecordedGraph)
        return 1.0 / self.speed_up if replayed else 1.0


def compare(first: Recording, second: Recording) -> None:
    """Raise where the same work, run twice, made other calls, passed other numbers, or read other outside memory."""
    names: Sequence[list[str]] = [[call.name for call in recording.calls] for recording in (first, second)]
    if names[0] != names[1]:
        raise CaptureError("the work makes other calls when it runs again")
    for one, two in zip(first.calls, second.calls, strict=True):
        if one.numbers() != two.numbers():
            raise CaptureError(f"{one.name} is passed a number by value that changes: {one.numbers()}, {two.numbers()}")
    for one, before, after in zip(first.calls, first.outside(), second.outside(), strict=True):
        if before != after:
            raise CaptureError(f"{one.name} reads a tensor at a new address")
