"""An engine's network as a backend executes it: checked against the module, and the module where that is better."""

import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

import torch
from torch import Tensor, nn

from fewstep.callers import outside
from fewstep.errors import BackendWarning, reason_of
from fewstep.run.backends.auto import Auto
from fewstep.run.backends.backend import Backend, Program, UnreadyError
from fewstep.run.backends.call import Call, Kind, prediction_of
from fewstep.run.backends.choice import keep_choice, known_choice, measured_choice
from fewstep.run.backends.kept import Kept
from fewstep.run.backends.parity import BOUNDS, distance
from fewstep.run.backends.weights import Weights, hooked

RESTLESS: Final = "the network changes its own attributes or buffers when it is called"
MOST_KINDS: Final = 16  # that have a program at once
MOST_BYTES: Final = 2**32  # of weights in all of them: each may hold its own copy; two are kept however large


@dataclass
class Ready:
    """How one kind of call is executed, and what was found out about it."""

    backend: str
    program: Program | None  # None: the module itself
    about: dict[str, object] = field(default_factory=dict)
    calls: int = 0
    last: int = 0  # which call of the network its last one was
    checked: Tensor | None = None  # the program's answer to the first call, until it is handed out


class Network:
    """A module, called as the module is; executed by a backend, kind of call by kind of call.

    The first call of each kind makes a program ready and compares its answer with the module's. Where there is no
    program, or it differs by more than its bound, the module runs, and a `BackendWarning` says why, once; not where
    torch was meant. So it does where a program fails later. What the module itself raises, or answers that is no
    prediction, its caller gets.

    Args:
        module: the network.
        backend: what executes it; None for the module itself.
        dtype: of the network, which the bound goes by.
        only_if_faster: time both at the first call of a kind, keep the program only where it is ahead, and make none
            that does not pay: see `Auto`.
        kept: what earlier processes have made and measured of this network; nothing unless given.
        otherwise: torch's way to execute it, for the calls that the backend does not; the module itself unless given.
    """

    def __init__(
        self,
        module: nn.Module,
        backend: Backend | None,
        dtype: torch.dtype,
        only_if_faster: bool,
        kept: Kept | None = None,
        otherwise: "Network | None" = None,
    ) -> None:
        self.otherwise = otherwise
        self.module, self.backend, self.kept = module, backend, kept
        self.auto = Auto(kept) if only_if_faster else None
        self.bound = BOUNDS.get(dtype, 0.0)
        self.used = "torch"  # what executed the last call
        self.making = 0.0  # seconds that were spent on making calls ready
        self.changes = 0  # how often programs were forgotten, since the network was no longer what they are of
        self._ready: dict[Kind, Ready] = {}
        self._weights: Weights | None = None
        self._aside: dict[int, dict[Kind, Ready]] = {}  # by torch's threads, where a thread of the caller's has others
        self._threads = self._thread = 0
        self._told: set[str] = set()
        self._spent = 0.0  # of `making`, until the last change
        self._restless = False  # the network changes itself, which is no reason to look at it anew in every run
        self._clock = 0

    def expect(self, calls: int | None) -> None:
        """So many calls are all that come; None where more may."""
        if self.auto is not None:
            self.auto.ahead = calls

    def look(self) -> None:
        """Some steps begin: what was made of a network that has changed since is forgotten."""
        if self.otherwise is not None:
            self.otherwise.look()
        if self.backend is None or self._weights is None or self._restless:
            return
        threads, here = torch.get_num_threads(), threading.get_ident()
        elsewhere, self._thread = here != self._thread, here
        changed = not self._weights.are_current(self.backend.copies)
        if not changed and threads != self._threads and elsewhere:
            # Two threads of the caller's that torch gives different numbers take turns: each finds its programs again.
            self._aside, self._ready = {self._threads: self._ready}, self._aside.get(threads, {})
            self._threads = threads
        elif changed or threads != self._threads:
            if self.auto is not None:
                held = [(ready.calls, ready.about) for ready in self._ready.values() if ready.program is not None]
                self.auto.judge(self._clock, held, self.making - self._spent)
            self._spent = self.making
            self._ready.clear()
            self._aside.clear()
            self._weights = None
            self.backend.forget()
            self.changes += 1

    def __call__(self, x: Tensor, t: Tensor, **arguments: Tensor) -> Any:
        """What module(x, t, **arguments) answers. A program's answer holds until the next call."""
        if self.backend is None or torch.is_autocast_enabled("cpu"):  # which casts inside the module alone
            return self.module(x, t, **arguments)
        inputs = (x, t, *arguments.values())
        kind = _kind(inputs, arguments)
        ready = self._ready.get(kind)
        if ready is None:
            return self._first(self.backend, kind, inputs, tuple(arguments))
        self._clock += 1
        ready.calls, ready.last, self.used = ready.calls + 1, self._clock, ready.backend
        if ready.program is not None:
            try:
                return ready.program(inputs)
            except Exception as error:  # a library's own, of any class
                self._ready[kind] = self._module_instead(self.backend, _in_words(error), ready.about)
                self.used = "torch"
        return (self.otherwise or self.module)(x, t, **arguments)

    def stats(self) -> dict[str, object]:
        """What executes each kind of call, how far it is from the module, and what it cost to make ready."""
        kinds = [
            {"x": list(kind[0][1]), "backend": ready.backend, "count": ready.calls, **ready.about}
            for kind, ready in list(self._ready.items())
        ]
        asked = "torch" if self.backend is None else "auto" if self.auto is not None else self.backend.name
        return {"name": self.used, "asked": asked, "changes": self.changes, "calls": kinds}

    def _first(
        self, backend: Backend, kind: Kind, inputs: Sequence[Tensor], names: tuple[str, ...], known: Any = None
    ) -> Any:
        """The answer to the first call of a kind, after which it is ready; `known` is the module's, where it has been
        called already."""

        def module() -> Any:
            x, t, *rest = _clones(inputs)
            return self.module(x, t, **dict(zip(names, rest, strict=True)))

        if self._weights is None:
            self._threads, self._thread = torch.get_num_threads(), threading.get_ident()
            try:
                self._weights = Weights(self.module)
            except UnreadyError as why:
                self._ready[kind] = self._module_instead(backend, str(why))
        self._clock += 1
        started = time.perf_counter()
        answer = module() if known is None else known
        answered = time.perf_counter()
        if self._weights is None or (self.auto is not None and self.auto.waits(self._clock)):
            self.used = "torch"
            return self._by_torch(kind, inputs, names, answer)
        expected = prediction_of(answer)
        if not isinstance(expected, Tensor) or expected.shape[:1] != inputs[0].shape[:1]:
            return answer  # whoever called refuses it
        if not expected.isfinite().any():
            return answer  # it shows nothing, so the next call is a first one
        call = Call.of(inputs, names)
        size = sum(each.numel() for each in self.module.parameters())
        taken = None if self.auto is None else self.auto.by_torch(call, module, answered - started, size)
        if taken is None:
            ready = self._made_ready(backend, call, module, inputs, expected, called=known is None)
        else:  # torch does
            ready = Ready("torch", None, taken)
        self._keep(kind, ready)
        self.used, self.making = ready.backend, self.making + time.perf_counter() - answered
        if ready.program is None:
            return self._by_torch(kind, inputs, names, answer)
        checked, ready.checked = ready.checked, None
        return ready.program(inputs) if checked is None else checked

    def _by_torch(self, kind: Kind, inputs: Sequence[Tensor], names: tuple[str, ...], known: Any) -> Any:
        """The answer in torch's way to a call of which the module's answer is known."""
        torchs = self.otherwise
        if torchs is None or torchs.backend is None:
            return known
        if kind in torchs._ready:
            x, t, *rest = inputs
            return torchs(x, t, **dict(zip(names, rest, strict=True)))
        made = torchs.making
        answer = torchs._first(torchs.backend, kind, inputs, names, known)
        self.making += torchs.making - made
        return answer

    def _made_ready(
        self,
        backend: Backend,
        call: Call,
        module: Callable[[], Any],
        inputs: Sequence[Tensor],
        expected: Tensor,
        called: bool,
    ) -> Ready:
        try:
            self._check_still(module, called)
            program, answer = self._made(backend, call, inputs)
            error = distance(answer, expected, inputs[0])
            if not error <= self.bound and self.kept is not None and self.kept.drop(call):
                backend.forget()
                program, answer = self._made(backend, call, inputs)
                error = distance(answer, expected, inputs[0])
        except UnreadyError as unready:
            return self._module_instead(backend, str(unready))
        except Exception as failure:  # a library's own, of any class
            return self._module_instead(backend, _in_words(failure))
        about: dict[str, object] = {**program.about, "error": error, "bound": self.bound}
        if answer.dtype != expected.dtype:
            return self._module_instead(backend, f"it answers in {answer.dtype}, torch in {expected.dtype}", about)
        if not error <= self.bound:
            why = f"its answer differs from torch's by {error:.1e}, more than {self.bound:.0e}"
            return self._module_instead(backend, why, about)
        taken = backend.name
        if self.auto is not None:
            known = known_choice(self.kept, call)
            about = {**(known or self._raced(backend, program, inputs, call.names)), **about}
            taken = str(about["taken"])
        keep_choice(self.kept, call, {"taken": taken, **about})
        if taken != backend.name:
            return Ready(taken, None, about)
        return Ready(taken, program, about, checked=answer if self.auto is None else None)

    def _raced(
        self, backend: Backend, program: Program, inputs: Sequence[Tensor], names: tuple[str, ...]
    ) -> dict[str, Any]:
        """A program beside torch's way of the same call, each timed."""
        torchs = self.otherwise or self.module

        def by_torch() -> Any:
            x, t, *rest = _clones(inputs)
            return torchs(x, t, **dict(zip(names, rest, strict=True)))

        found = measured_choice(backend.name, lambda: program(_clones(inputs)), by_torch)
        if self.otherwise is not None and found["taken"] != "torch":
            self.otherwise._ready.pop(_kind(inputs, names), None)  # what was packed for the race alone
        return found

    def _made(self, backend: Backend, call: Call, inputs: Sequence[Tensor]) -> tuple[Program, Tensor]:
        """A program, and its answer."""
        with torch.inference_mode(False), torch.no_grad():  # in which nothing can be exported
            program = backend.make(self.module, call, _clones(inputs))
        return program, program(_clones(inputs))

    def _check_still(self, module: Callable[[], Any], called: bool) -> None:
        """UnreadyError for a network that is more than what it answers: what hooks do, or it notes of itself.

        `called`: it was, since its weights were looked at.
        """
        if self._restless:
            raise UnreadyError(RESTLESS)
        if hooked(self.module):
            raise UnreadyError("hooks are registered on the network, which torch alone runs")
        if self._weights is None or (called and self._weights.are_current()):
            return
        self._weights = Weights(self.module)  # what a first call makes and keeps is no change
        self._weights.leave_notes(module)
        if not self._weights.are_current():
            self._restless = True
            self._aside.clear()
            for ready in self._ready.values():
                ready.backend, ready.program = "torch", None
            raise UnreadyError(RESTLESS)

    def _keep(self, kind: Kind, ready: Ready) -> None:
        ready.calls, ready.last = 1, self._clock
        self._ready[kind] = ready
        held = [kept for kept in self._ready.items() if kept[1].program is not None]
        size = sum(tensor.nbytes for tensor in chain(self.module.parameters(), self.module.buffers()))
        most = max(2, min(MOST_KINDS, MOST_BYTES // max(size, 1)))
        for oldest, _ in sorted(held, key=lambda each: each[1].last)[:-most]:
            del self._ready[oldest]

    def _module_instead(self, backend: Backend, why: str, about: Mapping[str, object] | None = None) -> Ready:
        if backend.name != "torch" and why not in self._told:
            self._told.add(why)
            warnings.warn(f"{backend.name}: {why}; torch runs the network", BackendWarning, stacklevel=outside())
        return Ready("torch", None, {**(about or {}), "why": why})


def _kind(inputs: Sequence[Tensor], names: Iterable[str]) -> Kind:
    """Of a call with x, t and what has names."""
    return tuple((name, each.shape, each.dtype) for name, each in zip(("", "", *names), inputs, strict=True))


def _clones(inputs: Sequence[Tensor]) -> list[Tensor]:
    """For a network that writes into what it is given."""
    return [each.clone() for each in inputs]


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {reason_of(error)}"
