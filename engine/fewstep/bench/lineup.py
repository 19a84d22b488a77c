"""Who takes part: the engine on each backend and the others, in each dtype, or the reason why one does not."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from os import environ

import torch

from fewstep.bench.contenders import (
    BARE,
    BY_CALLS,
    COMPILE,
    DIFFUSERS,
    DTYPES,
    EAGER,
    ENGINE,
    KINDS,
    RACERS,
    Contender,
    Racer,
)
from fewstep.bench.subjects import Subject
from fewstep.checks import named
from fewstep.errors import ArgumentError
from fewstep.run.backends import BACKENDS
from fewstep.run.backends.names import ENVIRONMENT

NOT_ASKED = "not asked for"
BESIDE = (DIFFUSERS, COMPILE, BARE)  # who is raced beside the engine and the reference unless said
OTHERS = tuple(kind for kind in KINDS if kind not in (ENGINE, EAGER))


@dataclass(frozen=True)
class Lineup:
    """All who might take part, in the order of a table, and the network in float32 that their images are judged by."""

    exact: Subject
    racers: Sequence[Racer]

    def __getitem__(self, contender: Contender) -> Racer:
        """That of a contender."""
        return next(racer for racer in self.racers if racer.contender == contender)


def default_backends(device: str) -> tuple[str, ...]:
    """What FEWSTEP_BACKEND says; else torch, and OpenVINO on a CPU where it is installed."""
    said = environ.get(ENVIRONMENT)
    if said and said != "auto":
        return (said,)
    return ("torch", "openvino") if device == "cpu" and find_spec("openvino") else ("torch",)


def lineup(
    subject: Subject,
    backends: Sequence[str] | None = None,
    dtypes: Sequence[str] = ("float32",),
    beside: Sequence[str] = BESIDE,
    narrow: Sequence[str] = (),
    batch: int = 1,
) -> Lineup:
    """The engine on each backend, the eager reference, and the baselines, each in every dtype.

    Args:
        subject: the network.
        backends: names in `BACKENDS` that are measured; `default_backends` unless given.
        dtypes: "float32", "bfloat16" or both.
        beside: the baselines, names in `OTHERS`.
        narrow: those of them that take part at one batch size alone.
        batch: that size.

    Raises:
        ArgumentError: another backend, dtype or baseline.
    """
    asked = default_backends(subject.engine.device.type) if backends is None else backends
    _check("backends", asked, tuple(BACKENDS))
    _check("dtype", dtypes, tuple(DTYPES))
    _check("beside", beside, OTHERS)
    plain = {dtype: subject.on("torch", DTYPES[dtype]) for dtype in dict.fromkeys(dtypes)}
    racers = [
        _engine(Contender(ENGINE, backend, dtype), plain[dtype], asked) for backend in BACKENDS for dtype in plain
    ]
    on_gpu = subject.engine.device.type == "cuda"
    for kind in (EAGER, *OTHERS):
        if kind == BY_CALLS and not on_gpu and kind not in beside:
            continue  # an engine on a CPU is by calls anyway
        racers += [_other(Contender(kind, dtype=dtype), plain[dtype], beside) for dtype in plain]
    for racer in racers:
        if racer.contender.kind in narrow:
            racer.batch = batch
    return Lineup(subject, racers)


def _check(argument: str, names: Sequence[str], allowed: tuple[str, ...]) -> None:
    for name in names:
        if name not in allowed:
            raise ArgumentError(argument, name, named(allowed, name))


def _engine(contender: Contender, plain: Subject, asked: Sequence[str]) -> Racer:
    backend, device = contender.backend, plain.engine.device.type
    why = ""
    if backend not in asked:
        why = NOT_ASKED
    elif backend != "torch" and device != "cpu":
        why = "runs on a CPU"
    elif backend == "openvino" and find_spec("openvino") is None:
        why = "not installed: pip install 'fewstep[cpu]'"
    if why or backend == "torch":
        return RACERS[ENGINE](contender, plain, why)
    return RACERS[ENGINE](contender, plain.on(backend, plain.engine.dtype))


def _other(contender: Contender, plain: Subject, beside: Sequence[str]) -> Racer:
    kind = contender.kind
    if kind not in (EAGER, BY_CALLS, *beside):
        return RACERS[EAGER](contender, plain, NOT_ASKED)
    return RACERS[kind](contender, plain)


def device_of(known: Lineup) -> torch.device:
    """Where the race runs."""
    return known.exact.engine.device
