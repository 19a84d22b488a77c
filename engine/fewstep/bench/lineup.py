"""Who takes part: the engine on each backend and the others, in each dtype, or the reason why one does not."""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from os import environ

from fewstep.bench.contenders import (
    BARE,
    DIFFUSERS,
    DTYPES,
    EAGER,
    ENGINE,
    Case,
    Contender,
    engine_run,
    lacks_diffusers,
)
from fewstep.bench.subjects import Subject
from fewstep.checks import named
from fewstep.errors import ArgumentError, BackendWarning
from fewstep.run.backends import BACKENDS
from fewstep.run.backends.names import ENVIRONMENT

NOT_ASKED = "not asked for"


@dataclass
class Entrant:
    """A contender and what it runs.

    Attributes:
        contender: who it is.
        subject: the network in its dtype, the engine on its backend.
        lacks: why it takes no part; "" if it does.
        ready: seconds that the first image at a batch size took beyond those after it, by batch size.
    """

    contender: Contender
    subject: Subject
    lacks: str = ""
    ready: dict[int, float] = field(default_factory=dict)

    def absent(self, case: Case) -> str:
        """Why it takes no part in a case; "" if it does."""
        return self.lacks or (lacks_diffusers(self.subject, case) if self.contender.kind == DIFFUSERS else "")

    def make_ready(self, case: Case) -> None:
        """Make an engine ready for a batch size, once, and see who runs its network; absent if it is another."""
        if self.lacks or self.contender.kind != ENGINE or case.batch in self.ready:
            return
        run, seconds = engine_run(self.subject, case), []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BackendWarning)  # its row says the same
            for seed in range(2):
                started = time.perf_counter()
                run(seed)
                seconds.append(time.perf_counter() - started)
        self.ready[case.batch] = max(0.0, seconds[0] - seconds[1])
        stats = self.subject.engine.stats()["backend"]
        if stats["name"] != self.contender.backend:
            reasons = [str(call["why"]) for call in stats["calls"] if "why" in call]
            self.lacks = reasons[-1] if reasons else f"{stats['name']} runs the network in its place"


@dataclass(frozen=True)
class Lineup:
    """All who might take part, in the order of a table, and the network in float32 that their images are judged by."""

    exact: Subject
    entrants: Sequence[Entrant]

    def __getitem__(self, contender: Contender) -> Entrant:
        """That of a contender."""
        return next(entrant for entrant in self.entrants if entrant.contender == contender)


def default_backends(device: str) -> tuple[str, ...]:
    """What FEWSTEP_BACKEND says; else torch, and OpenVINO on a CPU where it is installed."""
    said = environ.get(ENVIRONMENT)
    if said and said != "auto":
        return (said,)
    return ("torch", "openvino") if device == "cpu" and find_spec("openvino") else ("torch",)


def lineup(subject: Subject, backends: Sequence[str] | None = None, dtypes: Sequence[str] = ("float32",)) -> Lineup:
    """The engine on each backend, and the others, each in every dtype.

    Args:
        subject: the network.
        backends: names in `BACKENDS` that are measured; `default_backends` unless given.
        dtypes: "float32", "bfloat16" or both.

    Raises:
        ArgumentError: another backend or dtype.
    """
    asked = default_backends(subject.engine.device.type) if backends is None else backends
    for name in asked:
        if name not in BACKENDS:
            raise ArgumentError("backends", name, named(tuple(BACKENDS), name))
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise ArgumentError("dtype", dtype, " or ".join(DTYPES))
    plain = {dtype: subject.on("torch", DTYPES[dtype]) for dtype in dict.fromkeys(dtypes)}
    entrants = [
        _engine(Contender(ENGINE, backend, dtype), plain[dtype], asked) for backend in BACKENDS for dtype in plain
    ]
    others = [Contender(kind, dtype=dtype) for kind in (EAGER, DIFFUSERS, BARE) for dtype in plain]
    return Lineup(subject, [*entrants, *(Entrant(each, plain[each.dtype]) for each in others)])


def _engine(contender: Contender, plain: Subject, asked: Sequence[str]) -> Entrant:
    backend, device = contender.backend, plain.engine.device.type
    why = ""
    if backend not in asked:
        why = NOT_ASKED
    elif backend != "torch" and device != "cpu":
        why = "runs on a CPU"
    elif backend == "openvino" and find_spec("openvino") is None:
        why = "not installed: pip install 'fewstep[cpu]'"
    if why or backend == "torch":
        return Entrant(contender, plain, why)
    return Entrant(contender, plain.on(backend, plain.engine.dtype))
