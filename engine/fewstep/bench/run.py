"""A run of the benchmark: parity of every case, then rounds in which all contenders of a case take turns."""

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from fewstep.bench import parity
from fewstep.bench.clock import Stopwatch, Timing, clock_of, timed_loop
from fewstep.bench.cold import cold_starts
from fewstep.bench.contenders import (
    BARE,
    CONTENDERS,
    DIFFUSERS,
    EAGER,
    ENGINE,
    Case,
    bare_run,
    diffusers_run,
    eager_run,
    engine_run,
    lacks_diffusers,
)
from fewstep.bench.loops import SAMPLERS_OF, check_sampler
from fewstep.bench.machine import describe_machine
from fewstep.bench.report import Report, Row, measured_row, missing_row
from fewstep.bench.subject import Subject
from fewstep.errors import PlanWarning

Advance = Callable[[int, int], None]  # (done, total)
Runs = dict[str, Callable[[int], object]]  # contender -> one run, by seed
WARM_UP = 1  # rounds that are not counted; parity has run everything before them already


@dataclass(frozen=True)
class Settings:
    """What is measured, and how often."""

    steps: Sequence[int] = (1, 2, 4, 8)
    batches: Sequence[int] = (1, 4)
    samplers: Sequence[str] | None = None  # None: those that have a reference on the model's schedule
    repeats: int = 7
    tolerance: float = parity.TOLERANCE
    cold: bool = True  # also cold start and peak memory, in processes of their own


def run(subject: Subject, settings: Settings, advance: Advance | None = None) -> Report:
    """Measure.

    Raises:
        ParityError: contenders disagree; then nothing has been timed.
        ArgumentError: a sampler or a number of steps that cannot be run.
    """
    machine = describe_machine(subject.engine.device)  # first, for the load before the run
    cases = _cases(subject, settings)
    rounds = settings.repeats + WARM_UP
    ticks = iter(range(1, len(cases) * (1 + rounds) + 1))

    def tick() -> None:
        if advance is not None:
            advance(next(ticks), len(cases) * (1 + rounds))

    agreed = {}
    with warnings.catch_warnings():
        # Nobody looks at the pictures, and a call takes as long at a noise level that a student was not trained for.
        warnings.simplefilter("ignore", PlanWarning)
        for case in cases:
            agreed[case] = parity.check(subject, case, settings.tolerance)
            tick()
        timings = _take_turns(subject, cases, rounds, tick)
    rows = [row for case in cases for row in _rows(subject, case, timings[case], agreed[case])]
    starts = cold_starts(subject, max(settings.batches)) if settings.cold else []
    return Report.of(subject, machine, settings.repeats, settings.tolerance, rows, starts)


def _cases(subject: Subject, settings: Settings) -> list[Case]:
    schedule = subject.engine.model.schedule
    samplers = list(settings.samplers or SAMPLERS_OF.get(schedule.kind, {}) or ["ddim"])
    for sampler in samplers:
        check_sampler(sampler, schedule, subject.engine.model.prediction)
    return [
        Case(sampler, steps, batch) for sampler in samplers for batch in settings.batches for steps in settings.steps
    ]


def _take_turns(
    subject: Subject, cases: Sequence[Case], rounds: int, tick: Callable[[], None]
) -> dict[Case, dict[str, list[Timing]]]:
    """The counted timings of every contender of every case, in the order of the rounds."""
    runs = {case: _runs(subject, case) for case in cases}
    timings: dict[Case, dict[str, list[Timing]]] = {case: {name: [] for name in runs[case]} for case in cases}
    networks: list[nn.Module] = [subject.engine.module]
    if subject.unet_2d is not None:
        networks.append(subject.unet_2d)
    with (
        Stopwatch(networks, clock_of(subject.engine.device)) as watch,
        timed_loop(subject.engine, watch),
    ):
        for turn, case, name in _order(runs, rounds):
            timing = watch.time(partial(runs[case][name], turn))
            if turn >= WARM_UP:
                timings[case][name].append(timing)
            if name == BARE:
                tick()
    return timings


def _order(runs: dict[Case, Runs], rounds: int) -> Iterator[tuple[int, Case, str]]:
    """Each round goes through the cases, and each case through its contenders, in a new order."""
    order = random.Random(0)
    for turn in range(rounds):
        for case in order.sample(list(runs), len(runs)):
            for name in order.sample(list(runs[case]), len(runs[case])):
                yield turn, case, name


def _runs(subject: Subject, case: Case) -> Runs:
    runs: Runs = {ENGINE: engine_run(subject, case), EAGER: eager_run(subject, case)}
    if not lacks_diffusers(subject, case):
        runs[DIFFUSERS] = diffusers_run(subject, case)
    runs[BARE] = bare_run(subject, case)
    return runs


def _rows(subject: Subject, case: Case, timings: dict[str, list[Timing]], agreed: dict[str, float]) -> list[Row]:
    return [
        measured_row(case, name, timings[name], timings[EAGER], agreed.get(name))
        if name in timings
        else missing_row(case, name, lacks_diffusers(subject, case))
        for name in CONTENDERS
    ]
