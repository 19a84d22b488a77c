"""An engine's network as a backend executes it: checked against the module, and the module where that is better."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from fewstep.errors import BackendWarning
from fewstep.run.backends.backend import Backend, Program, UnreadyError
from fewstep.run.backends.call import Call, Kind
from fewstep.run.backends.weights import Weights

BOUNDS: Final = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # |program - module| / |module|, each over all values
ROUNDS: Final = 5  # of each, where "auto" measures which is faster


@dataclass
class Ready:
    """How one kind of call is executed, and what was found out about it."""

    backend: str
    program: Program | None  # None: the module itself
    about: dict[str, object] = field(default_factory=dict)


class Network:
    """A module, called as the module is; executed by a backend, kind of call by kind of call.

    The first call of each kind makes a program ready and compares its answer with the module's. Where there is no
    program, or it differs by more than its bound, the module runs, and a `BackendWarning` says why, once.

    Args:
        module: the network.
        backend: what executes it; None for the module itself.
        only_if_faster: time both at the first call of a kind, and keep the program only where it is ahead.
        dtype: of the network, which the bound goes by.
    """

    def __init__(self, module: nn.Module, backend: Backend | None, dtype: torch.dtype, only_if_faster: bool) -> None:
        self.module, self.backend, self.only_if_faster = module, backend, only_if_faster
        self.bound = BOUNDS.get(dtype, 0.0)
        self.used = "torch"  # what executed the last call
        self._ready: dict[Kind, Ready] = {}
        self._weights: Weights | None = None
        self._told: set[str] = set()

    def opened(self) -> None:
        """A run begins: what was made from weights that have changed since is forgotten."""
        if self._weights is not None and not self._weights.are_current():
            self._ready.clear()
            self._weights = None
            if self.backend is not None:
                self.backend.forget()

    def __call__(self, x: Tensor, t: Tensor, **arguments: Tensor) -> Any:
        """What module(x, t, **arguments) answers."""
        if self.backend is None:
            return self.module(x, t, **arguments)
        inputs = (x, t, *arguments.values())
        names = ("", "", *arguments)
        kind = tuple((name, each.shape, each.dtype) for name, each in zip(names, inputs, strict=True))
        ready = self._ready.get(kind)
        if ready is None:
            ready = self._ready[kind] = self._made_ready(self.backend, inputs, tuple(arguments))
        self.used = ready.backend
        return self.module(x, t, **arguments) if ready.program is None else ready.program(inputs)

    def stats(self) -> dict[str, object]:
        """What executes each kind of call, how far it is from the module, and what it cost to make ready."""
        kinds = [
            {"x": list(kind[0][1]), "backend": ready.backend, **ready.about} for kind, ready in self._ready.items()
        ]
        return {"name": self.used, "asked": "torch" if self.backend is None else self.backend.name, "calls": kinds}

    def _made_ready(self, backend: Backend, inputs: Sequence[Tensor], names: Sequence[str]) -> Ready:
        if self._weights is None:
            self._weights = Weights(self.module)
        try:
            program = backend.make(self.module, Call.of(inputs, names), inputs)
            answer = program(inputs)
        except UnreadyError as why:
            return self._module_instead(backend, str(why))
        module = self._bare(inputs, names)
        expected = module()
        error = _relative(answer, expected)
        about = {**program.about, "error": error, "bound": self.bound}
        if not error <= self.bound:  # NaN is beyond every bound
            return self._module_instead(
                backend, f"its answer differs from torch's by {error:.1e}, more than {self.bound:.0e}", about
            )
        if self.only_if_faster:
            theirs, ours = _seconds(lambda: program(inputs)), _seconds(module)
            about |= {"milliseconds": 1e3 * theirs, "torch_milliseconds": 1e3 * ours}
            if theirs >= ours:
                return Ready("torch", None, about)
        return Ready(backend.name, program, about)

    def _bare(self, inputs: Sequence[Tensor], names: Sequence[str]) -> Callable[[], Tensor]:
        x, t, *rest = inputs
        arguments = dict(zip(names, rest, strict=True))

        def call() -> Tensor:
            answer = self.module(x, t, **arguments)
            taken: Tensor = answer[0] if isinstance(answer, tuple) else getattr(answer, "sample", answer)
            return taken

        return call

    def _module_instead(self, backend: Backend, why: str, about: Mapping[str, object] | None = None) -> Ready:
        if why not in self._told:
            self._told.add(why)
            warnings.warn(f"{backend.name}: {why}; torch runs the network", BackendWarning, stacklevel=2)
        return Ready("torch", None, {**(about or {}), "why": why})


def _relative(answer: Tensor, expected: Tensor) -> float:
    """|answer - expected| / |expected|, each over all values; infinite for another shape."""
    if answer.shape != expected.shape:
        return float("inf")
    wide = expected.double()
    return float((answer.double() - wide).norm() / wide.norm().clamp_min(1e-30))


def _seconds(call: Callable[[], object]) -> float:
    """The median of some calls."""
    found = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return sorted(found)[ROUNDS // 2]
