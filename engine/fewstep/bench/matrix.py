"""Which cells a matrix has: networks of record times their sizes and cases, as races of a process each.

A race is one network with one set of weights: digits have a student for each number of steps, so a race for each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fewstep.bench.cells import Cell
from fewstep.bench.contenders import (
    BARE,
    BY_HAND,
    CHANNELS_LAST,
    COMPILE,
    DIFFUSERS,
    DTYPES,
    FREEZING,
    MAX_AUTOTUNE,
    ONNXRUNTIME,
    REDUCE_OVERHEAD,
    REGIONAL,
    Case,
)
from fewstep.bench.lineup import OTHERS, default_backends
from fewstep.bench.process import Task
from fewstep.bench.race import Settings, cases_of
from fewstep.bench.subjects import NETWORKS, TINY, Network, Subject
from fewstep.checks import named, only
from fewstep.errors import ArgumentError
from fewstep.run.backends import BACKENDS
from fewstep.samplers import SAMPLERS


@dataclass(frozen=True)
class Share:
    """What of a network the default matrix has.

    Attributes:
        steps: model calls; None for those of record.
        beside: the baselines.
        cold: whether it has cold starts.
    """

    steps: Sequence[int] | None = None
    beside: Sequence[str] = (DIFFUSERS, COMPILE)
    cold: bool = False


# To compile a network, and its cold starts, take minutes on two cores: the default matrix has few, `--full` all.
RECORD = {
    "digits": Share(cold=True),
    "cifar10-ddpm": Share(steps=(1, 4)),
    "terrain": Share(beside=(DIFFUSERS,)),
}
RECORD_NARROW = (COMPILE,)
ON_CPU = (DIFFUSERS, CHANNELS_LAST, COMPILE, REGIONAL, FREEZING, BY_HAND, ONNXRUNTIME, BARE)
ON_CUDA = (DIFFUSERS, CHANNELS_LAST, COMPILE, REGIONAL, REDUCE_OVERHEAD, MAX_AUTOTUNE, BARE)
RUNS = 3  # independent ones: the fewest of which an interval says something
SECONDS = 3.0  # of a case in a run of the default matrix
LARGE = 1.0  # GiB of weights from which a network takes hours on a CPU in all its cases
COPIES = 2  # of the weights that a race holds at least: ours and the same in diffusers' module


@dataclass(frozen=True)
class Asked:
    """What is wanted otherwise than it is of record; None leaves that."""

    networks: Sequence[str] | None = None
    steps: Sequence[int] | None = None
    batches: Sequence[int] | None = None
    samplers: Sequence[str] | None = None
    backends: Sequence[str] | None = None
    dtypes: Sequence[str] | None = None
    beside: Sequence[str] | None = None
    seconds: float | None = None
    repeats: int | None = None
    cold: bool = True


@dataclass(frozen=True)
class Race:
    """One network with one set of weights, and its cells.

    Attributes:
        model: the name in its rows.
        title: what the report says of it; "" leaves that to the process that opens it.
        lacks: why it cannot be run here; "" if it may.
    """

    model: str
    source: Mapping[str, Any]
    cases: Sequence[Case]
    settings: Settings
    title: str = ""
    cold: bool = True
    lacks: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cells(self) -> list[Cell]:
        """Of each case."""
        return [Cell(self.model, case) for case in self.cases]

    def task(self, cases: Sequence[Case], device: str, threads: int | None, cold: bool) -> Task:
        """What a process is asked for: some of its cases."""
        return Task(self.source, self.model, cases, self.settings, device, threads, cold, self.figures)

    def about(self) -> dict[str, Any]:
        """What its measurements are about beside a cell, a machine and the code."""
        told = vars(self.settings)
        names = ("repeats", "seconds", "tolerances", "backends", "dtypes", "beside", "narrow")
        return {"source": dict(self.source), **{name: told[name] for name in names}}


def record(asked: Asked, device: str = "cpu") -> list[Race]:
    """The default matrix: digits, CIFAR-10's U-Net and terrain at batch 1 and 4; see `RECORD`.

    Raises:
        ArgumentError: a network, backend, dtype, baseline or sampler that is not there.
    """
    races = []
    for network in _networks(asked.networks or tuple(RECORD)):
        share = RECORD.get(network.name, Share())
        settings = _settings(asked, ("float32",), share.beside, SECONDS, device)
        settings = replace(settings, narrow=RECORD_NARROW, cold=settings.cold and share.cold)
        samplers = asked.samplers or network.samplers[:1]
        own = replace(asked, samplers=samplers, steps=asked.steps or share.steps)
        races += _races(network, None, own, settings, device)
    return races


def everything(asked: Asked, device: str = "cpu") -> list[Race]:
    """All networks at all sizes that fit, in float32 and bfloat16, beside all baselines that the device has.

    On a CPU a network of more than `LARGE` GiB is measured at its smallest size, one sample at a time, in 1 and 4
    steps. max-autotune, which takes minutes a shape, is measured at the smallest batch size alone.

    Raises:
        ArgumentError: a network that is not in NETWORKS.
    """
    cuda = device.startswith("cuda")
    settings = _settings(asked, ("float32", "bfloat16"), ON_CUDA if cuda else ON_CPU, 2 * SECONDS, device)
    settings = replace(settings, narrow=(MAX_AUTOTUNE,))
    races: list[Race] = []
    for network in _networks(asked.networks or list(NETWORKS)):
        if network.name.partition("/")[0] in NETWORKS and "/" in network.name and asked.networks is None:
            continue  # a member of a box, which the box opens
        large = network.gib >= LARGE and not cuda
        for size in network.sizes[-1:] if large else network.sizes:
            own = asked
            if large:
                own = replace(asked, steps=asked.steps or (1, 4), batches=asked.batches or (1,))
            races += _races(network, size, own, settings, device)
    return races


def one(name: str, subject: Subject, settings: Settings, own: Mapping[str, Any] | None, device: str) -> list[Race]:
    """One network that was opened, with all cases of some settings; one of NETWORKS with students for its steps.

    Raises:
        ArgumentError: a sampler or a number of steps that it cannot be run with.
    """
    network = NETWORKS.get(name)
    backends = settings.backends or default_backends(device.partition(":")[0])
    settings = replace(settings, backends=tuple(backends))
    cases = cases_of(subject, settings)
    if network is not None and network.by_steps:
        samplers = list(dict.fromkeys(case.sampler for case in cases))
        asked = Asked(steps=settings.steps, batches=settings.batches, samplers=samplers)
        return _races(network, None, asked, settings, device)
    source = {"name": name} | ({"own": dict(own)} if own else {})
    return [Race(subject.engine.model.name or name, source, cases, settings, cold=settings.cold)]


def _networks(names: Sequence[str]) -> list[Network]:
    known = NETWORKS | TINY
    for name in names:
        if name not in known:
            raise ArgumentError("network", name, named(NETWORKS, name))
    return [known[name] for name in names]


def _settings(asked: Asked, dtypes: Sequence[str], beside: Sequence[str], seconds: float, device: str) -> Settings:
    only("backends", asked.backends or (), BACKENDS)
    only("dtype", asked.dtypes or (), DTYPES)
    only("beside", asked.beside or (), OTHERS)
    only("sampler", asked.samplers or (), SAMPLERS)
    backends = default_backends(device.partition(":")[0]) if asked.backends is None else asked.backends
    if asked.backends is None and len(dtypes) > 1 and not device.startswith("cuda"):
        backends = tuple(BACKENDS)
    return Settings(
        backends=tuple(backends),
        dtypes=tuple(asked.dtypes or dtypes),
        beside=tuple(beside if asked.beside is None else asked.beside),
        repeats=asked.repeats or Settings.repeats,
        seconds=asked.seconds or seconds,
        cold=asked.cold,
    )


def _races(network: Network, size: int | None, asked: Asked, settings: Settings, device: str) -> list[Race]:
    """One for each set of weights."""
    steps = list(asked.steps or network.steps)
    batches, samplers = asked.batches or network.batches, asked.samplers or network.samplers
    settings = replace(settings, batches=tuple(batches))
    other = size is not None and size != network.sizes[0]
    races = []
    for student in steps if network.by_steps else [None]:
        source: dict[str, Any] = {"name": network.name}
        source |= {"size": size} if other else {}
        source |= {} if student is None else {"steps": student}
        cases = [
            Case(sampler, count, batch)
            for sampler in samplers
            for batch in batches
            for count in (steps if student is None else [student])
        ]
        races.append(
            Race(
                f"{network.name}@{size}" if other else network.name,
                source,
                cases,
                settings,
                network.title if network.by_steps else "",
                cold=settings.cold and student in (None, steps[0]),
                lacks=network.lacks_memory(device, COPIES),
                figures={"size": size} if other else {},
            )
        )
    return races
