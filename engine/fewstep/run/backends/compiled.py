"""torch.compile on a CPU: the network as one compiled graph for each kind of call."""

import time
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any, Final

import torch
from torch import Tensor, nn

from fewstep.errors import reason_of
from fewstep.run.backends.backend import UnreadyError
from fewstep.run.backends.call import Call, prediction_of
from fewstep.run.backends.export import ALONE
from fewstep.run.backends.saying import say

MOST: Final = 3  # compilations of one kind of call: torch.compile does it anew where more differs than a value


class Compiled:
    """The backend "compile".

    A program reads the weights where they lie, so it sees what is written into them. It is one graph: where torch
    would leave the graph for Python, or compile it again and again, the network is not compiled.

    Args:
        compiler: a backend of torch.compile.
    """

    name, copies = "compile", False

    def __init__(self, compiler: str = "inductor") -> None:
        self.compiler = compiler

    def make(self, module: nn.Module, call: Call, inputs: Sequence[Tensor]) -> "CompiledProgram":
        """A program for a kind of call, for its shapes alone."""
        started = time.perf_counter()
        say("torch.compile: compiling", module, f", for {call}")
        try:
            from torch._dynamo.backends.registry import lookup_backend  # a second or two that only this backend takes

            compile_graph = Bounded(lookup_backend(self.compiler))
            compiled = torch.compile(_call_of(module, call.names), backend=compile_graph, fullgraph=True, dynamic=False)
            with ALONE:
                compiled(*inputs)
                compiled(*inputs)
        except Exception as error:  # of the tracer, of the compiler, or for want of one for C++
            raise UnreadyError(f"torch.compile: {type(error).__name__}: {reason_of(error)}") from error
        if compile_graph.calls > 1:
            raise UnreadyError("torch.compile: it would compile the network at every call, since that changes itself")
        return CompiledProgram(compiled, {"compile_seconds": time.perf_counter() - started})

    def forget(self) -> None:
        """It keeps nothing."""


class Bounded:
    """A compiler of graphs that is asked a few times only."""

    def __init__(self, compiler: Callable[..., Any]) -> None:
        self.compiler, self.calls = compiler, 0

    def __call__(self, graph: Any, inputs: Any, **options: Any) -> Any:
        """The compiled graph."""
        self.calls += 1
        if self.calls > MOST:
            raise UnreadyError(f"torch.compile: compiled {MOST} times for one kind of call")
        return self.compiler(graph, inputs, **options)


class CompiledProgram:
    """A compiled call."""

    def __init__(self, compiled: Callable[..., Tensor], about: Mapping[str, object]) -> None:
        self.about, self._compiled = about, compiled

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """The network's answer."""
        return self._compiled(*inputs)


def _call_of(module: nn.Module, names: tuple[str, ...]) -> Callable[..., Tensor]:
    """The module's call as a function whose code is its own: torch bounds how often one piece of code is compiled."""

    def call(x: Tensor, t: Tensor, *rest: Tensor) -> Tensor:
        prediction: Tensor = prediction_of(module(x, t, **dict(zip(names, rest, strict=True))))
        return prediction

    return FunctionType(call.__code__.replace(), call.__globals__, call.__name__, None, call.__closure__)
