"""A run of the benchmark: parity of every case, then rounds in which all contenders of a case take turns."""

import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial

from fewstep.bench import parity
from fewstep.bench.clock import Stopwatch, Timing, clock_of, timed_loop
from fewstep.bench.cold import cold_starts
from fewstep.bench.contenders import (
    BARE,
    DIFFUSERS,
    EAGER,
    ENGINE,
    Case,
    Contender,
    bare_run,
    diffusers_run,
    eager_run,
    engine_run,
)
from fewstep.bench.lineup import Lineup, lineup
from fewstep.bench.loops import SAMPLERS_OF, check_sampler
from fewstep.bench.machine import describe_machine
from fewstep.bench.report import Report, Row, measured_row, missing_row
from fewstep.bench.subjects import Subject
from fewstep.errors import PlanWarning

Advance = Callable[[int, int], None]  # (done, total)
Runs = dict[Contender, Callable[[int], object]]  # one run, by seed
RUNS = {ENGINE: engine_run, EAGER: eager_run, DIFFUSERS: diffusers_run, BARE: bare_run}
WARM_UP = 1  # rounds that are not counted; parity has run everything before them already
SETTLED = 0.01  # seconds: for 6 ms after their work torch's threads wait busily, on cores that OpenVINO's then lack


@dataclass(frozen=True)
class Settings:
    """What is measured, and how often."""

    steps: Sequence[int] = (1, 2, 4, 8)
    batches: Sequence[int] = (1, 4)
    samplers: Sequence[str] | None = None  # None: those that have a reference on the model's schedule
    repeats: int = 7
    tolerances: Mapping[str, float] = field(default_factory=lambda: parity.TOLERANCES)  # of each dtype
    backends: Sequence[str] | None = None  # of the engine; None: torch, and OpenVINO on a CPU where it is installed
    dtypes: Sequence[str] = ("float32",)  # that networks compute in: float32, bfloat16 or both
    cold: bool = True  # also cold start and peak memory, in processes of their own


def run(subject: Subject, settings: Settings, advance: Advance | None = None) -> Report:
    """Measure.

    Raises:
        ParityError: contenders disagree; then nothing has been timed.
        ArgumentError: a sampler or a number of steps that cannot be run.
    """
    machine = describe_machine(subject.engine.device)  # first, for the load before the run
    cases = _cases(subject, settings)
    known = lineup(subject, settings.backends, settings.dtypes)
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
            agreed[case] = parity.check(known, case, settings.tolerances)
            tick()
        timings = _take_turns(known, cases, rounds, tick)
    rows = [row for case in cases for row in _rows(known, case, timings[case], agreed[case])]
    starts = cold_starts(known, max(settings.batches)) if settings.cold else []
    about = {"repeats": settings.repeats, "tolerances": dict(settings.tolerances)}
    return Report.of(subject, machine, about, [each.contender for each in known.entrants], rows, starts)


def _cases(subject: Subject, settings: Settings) -> list[Case]:
    schedule = subject.engine.model.schedule
    samplers = list(settings.samplers or SAMPLERS_OF.get(schedule.kind, {}) or ["ddim"])
    for sampler in samplers:
        check_sampler(sampler, schedule, subject.engine.model.prediction)
    return [
        Case(sampler, steps, batch) for sampler in samplers for batch in settings.batches for steps in settings.steps
    ]


def _take_turns(
    known: Lineup, cases: Sequence[Case], rounds: int, tick: Callable[[], None]
) -> dict[Case, dict[Contender, list[Timing]]]:
    """The counted timings of every contender of every case, in the order of the rounds."""
    runs = {case: _runs(known, case) for case in cases}
    timings: dict[Case, dict[Contender, list[Timing]]] = {case: {each: [] for each in runs[case]} for case in cases}
    running = [entrant for entrant in known.entrants if not entrant.lacks]
    # An engine's own calls are counted by `timed_loop`: a program answers them, or its module.
    on_torch = [entrant.subject for entrant in running if entrant.contender.backend == "torch"]
    networks = {id(module): module for each in on_torch for module in (each.module, each.theirs) if module is not None}
    engines = {id(entrant.subject.engine): entrant.subject.engine for entrant in running}
    with Stopwatch(list(networks.values()), clock_of(known.exact.engine.device)) as watch, ExitStack() as timed:
        for engine in engines.values():
            timed.enter_context(timed_loop(engine, watch))
        last = None
        for turn, case, contender in _order(runs, rounds):
            if last not in (None, (turn, case)):
                tick()
            last = turn, case
            time.sleep(SETTLED)
            timing = watch.time(partial(runs[case][contender], turn))
            if turn >= WARM_UP:
                timings[case][contender].append(timing)
        tick()
    return timings


def _order(runs: Mapping[Case, Runs], rounds: int) -> Iterator[tuple[int, Case, Contender]]:
    """Each round goes through the cases, and each case through its contenders, in a new order."""
    order = random.Random(0)
    for turn in range(rounds):
        for case in order.sample(list(runs), len(runs)):
            for contender in order.sample(list(runs[case]), len(runs[case])):
                yield turn, case, contender


def _runs(known: Lineup, case: Case) -> Runs:
    return {
        entrant.contender: RUNS[entrant.contender.kind](entrant.subject, case)
        for entrant in known.entrants
        if not entrant.absent(case)
    }


def _rows(
    known: Lineup, case: Case, timings: Mapping[Contender, list[Timing]], agreed: Mapping[Contender, float]
) -> list[Row]:
    rows = []
    for entrant in known.entrants:
        contender = entrant.contender
        if contender in timings:
            reference = timings[Contender(EAGER, dtype=contender.dtype)]
            found = measured_row(case, contender, timings[contender], reference, agreed.get(contender))
            rows.append(replace(found, ready_seconds=entrant.ready.get(case.batch)))
        else:
            rows.append(missing_row(case, contender, entrant.absent(case)))
    return rows
