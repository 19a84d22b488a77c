"""A race: parity of every case of one network, then rounds in which all contenders of a case take turns."""

import random
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch

from fewstep.bench import ceilings, parity
from fewstep.bench.advice import advice
from fewstep.bench.ceilings import Rates
from fewstep.bench.clock import Stopwatch, Timing, clock_of, timed_loop
from fewstep.bench.contenders import EAGER, Case, Contender, Racer, plan_of
from fewstep.bench.figures import ceilings_in, describe_model, works
from fewstep.bench.lineup import BESIDE, Lineup, device_of, lineup
from fewstep.bench.machine import describe_machine, load
from fewstep.bench.parity import Agreement, ParityError
from fewstep.bench.results import MEASURED, Reading, Report, finite, rows_of
from fewstep.bench.subjects import Subject, own_subject
from fewstep.errors import PlanWarning

Advance = Callable[[int, int], None]  # (done, total)
Runs = dict[Contender, Callable[[int], object]]  # one run, by seed
WARM_UP = 1  # rounds that are not counted; parity has run everything before them already
WATCHED = 3  # further runs of each contender with a clock within, where that changes what a run takes
LEAST = 2  # rounds that count, however long they take
SETTLED = 0.01  # seconds: for 6 ms after their work torch's threads wait busily, on cores that OpenVINO's then lack
USUAL = {"vp": ("ddim", "ddpm"), "ve": ("consistency",)}  # samplers that are measured unless said, by kind of schedule


@dataclass(frozen=True)
class Settings:
    """What is measured, and how often."""

    steps: Sequence[int] = (1, 2, 4, 8)
    batches: Sequence[int] = (1, 4)
    samplers: Sequence[str] | None = None  # None: those that suit the model
    repeats: int = 7  # rounds that count
    seconds: float = float("inf")  # a case: no further round after so long, but LEAST of them
    tolerances: Mapping[str, float] = field(default_factory=lambda: parity.TOLERANCES)  # of each dtype
    backends: Sequence[str] | None = None  # of the engine; None: torch, and OpenVINO on a CPU where it is installed
    dtypes: Sequence[str] = ("float32",)  # that networks compute in: float32, bfloat16 or both
    beside: Sequence[str] = BESIDE  # the baselines
    narrow: Sequence[str] = ()  # baselines that take minutes: at the smallest batch size alone, with no cold start
    cold: bool = True  # also cold start and peak memory, in processes of their own


def cases_of(subject: Subject, settings: Settings) -> list[Case]:
    """Every sampler, batch size and number of steps.

    Raises:
        ArgumentError: a sampler or a number of steps that this network cannot be run with.
    """
    model = subject.engine.model
    usual = USUAL.get(model.schedule.kind, ()) if model.prediction in ("eps", "x_0", "v", "consistency") else ()
    samplers = list(settings.samplers or usual or [model.defaults["sampler"]])
    cases = [
        Case(sampler, steps, batch) for sampler in samplers for batch in settings.batches for steps in settings.steps
    ]
    for case in cases:
        plan_of(subject, case)
    return cases


def lineup_of(subject: Subject, settings: Settings) -> Lineup:
    """Who takes part in a race with these settings."""
    return lineup(subject, settings.backends, settings.dtypes, settings.beside, settings.narrow, min(settings.batches))


def race(name: str, subject: Subject, settings: Settings, advance: Advance | None = None) -> list[Reading]:
    """The readings of one run, in this process, with the ceilings that were measured before and after its rounds.

    Raises:
        ParityError: an engine's images are not the reference's; then nothing has been timed.
        ArgumentError: a sampler, a number of steps, a backend or a baseline that cannot be run.
    """
    cases = cases_of(subject, settings)
    known = lineup_of(subject, settings)
    rounds = settings.repeats + WARM_UP
    ticks = iter(range(1, len(cases) * (1 + rounds) + 1))

    def tick() -> None:
        if advance is not None:
            advance(next(ticks), len(cases) * (1 + rounds))

    agreed: dict[Case, dict[Contender, Agreement]] = {}
    with warnings.catch_warnings():
        # Nobody looks at the pictures, and a call takes as long at a noise level that a student was not trained for.
        warnings.simplefilter("ignore", PlanWarning)
        for case in cases:
            agreed[case] = parity.check(known, case, settings.tolerances)
            tick()
        return _readings(name, known, agreed, settings, tick)


def cell(
    name: str,
    known: Lineup,
    case: Case,
    settings: Settings,
    advance: Advance | None = None,
    before: Mapping[str, Rates] | None = None,
) -> list[Reading]:
    """The readings of one case in this process: parity, then its rounds.

    Where an engine's images are not the reference's, every contender's reading says so, and none has a time. `before`
    are the ceilings that were measured behind the cell before it; without, they are measured now.
    """
    total = 1 + settings.repeats + WARM_UP
    ticks = iter(range(1, total + 1))

    def tick() -> None:
        if advance is not None:
            advance(next(ticks), total)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlanWarning)  # as in `race`
        try:
            agreed = parity.check(known, case, settings.tolerances)
        except ParityError as error:
            return [
                Reading(name, case, each.contender, each.absent(case) or f"wrong: {error}") for each in known.racers
            ]
        tick()
        return _readings(name, known, {case: agreed}, settings, tick, before)


def _readings(
    name: str,
    known: Lineup,
    agreed: Mapping[Case, Mapping[Contender, Agreement]],
    settings: Settings,
    tick: Callable[[], None],
    before: Mapping[str, Rates] | None = None,
) -> list[Reading]:
    """The rounds of cases whose images agree, between two measurements of the ceilings."""
    device, cases, work = device_of(known), list(agreed), works(known)
    before = before or ceilings.rates(device, settings.dtypes)
    timings = take_turns(known, cases, agreed, settings, tick)
    inside = look_inside(known, cases, agreed) if distorts(device) else {case: {} for case in cases}
    limits = ceilings.ceilings_of(before, ceilings.rates(device, settings.dtypes))
    readings = []
    for case in cases:
        for racer in known.racers:
            dtype = racer.contender.dtype
            seen = inside[case].get(racer.contender, Inside())
            stands_on = {**work[dtype].call(case.batch), "ceiling": limits[dtype], **seen.figures}
            found = reading_of(name, racer, case, timings[case], agreed[case].get(racer.contender), stands_on)
            readings.append(replace(found, watched=seen.watched))
    return readings


def run(what: object, settings: Settings | None = None, advance: Advance | None = None, **said: Any) -> Report:
    """One race in this process as a report, its advice included.

        print(fewstep.bench.run(engine, Settings(steps=(1, 4), batches=(1,))).advice)
        fewstep.bench.run(module, shape=(3, 32, 32), schedule="linear")

    Args:
        what: a `Subject`, an `Engine`, a `Model`, or a module.
        settings: what is measured and how often; cold starts are left out where no other process can make `what`.
        advance: is given how much is done, and how much there is.
        said: of a module, what it does not say itself: see `own_subject`.

    Raises:
        ParityError, ArgumentError: as `race`, and as `own_subject`.
    """
    from fewstep.bench.cold import cold_starts, with_cold

    settings = Settings() if settings is None else settings
    subject = own_subject(what, max_batch=max(settings.batches), **said)
    machine = describe_machine(subject.engine.device)  # first, for the load before the run
    name = subject.engine.model.name or "model"
    readings = race(name, subject, settings, advance)
    contenders = list(dict.fromkeys(each.contender for each in readings))
    taking_part = [each for each in contenders if any(r.status == MEASURED for r in readings if r.contender == each)]
    cold = settings.cold and bool(subject.source)
    starts = cold_starts(subject, taking_part, max(settings.batches)) if cold else []
    about = {"repeats": settings.repeats, "tolerances": dict(settings.tolerances), "runs": 1}
    rows = with_cold(rows_of([readings]), starts)
    return Report(
        machine | {"load_after": load()},
        about,
        {name: describe_model(subject)},
        contenders,
        rows,
        [{"model": name, **asdict(each)} for each in starts],
        ceilings_in(readings),
        advice(rows),
    )


def take_turns(
    known: Lineup,
    cases: Sequence[Case],
    agreed: Mapping[Case, Mapping[Contender, Agreement]],
    settings: Settings,
    tick: Callable[[], None],
) -> dict[Case, dict[Contender, list[Timing]]]:
    """The counted timings of every contender of every case, in the order of the rounds.

    Each round goes through the cases, and each case through its contenders, in a new order; a case whose seconds are
    over takes no part in further rounds. Where a clock within a run would distort it, there is none in it.
    """
    runs = {case: _runs(known, case, agreed[case]) for case in cases}
    timings: dict[Case, dict[Contender, list[Timing]]] = {case: {each: [] for each in runs[case]} for case in cases}
    spent = dict.fromkeys(cases, 0.0)
    order = random.Random(0)
    with ExitStack() as stack:
        device = device_of(known)
        apart = distorts(device)
        watch = Stopwatch([], clock_of(device), time.perf_counter) if apart else _watched(known, stack)
        for turn in range(settings.repeats + WARM_UP):
            for case in order.sample(cases, len(cases)):
                if turn < WARM_UP + LEAST or spent[case] < settings.seconds:
                    started = time.perf_counter()
                    for contender in order.sample(list(runs[case]), len(runs[case])):
                        time.sleep(SETTLED)
                        timing = watch.time(partial(runs[case][contender], turn))
                        if turn >= WARM_UP:
                            timings[case][contender].append(timing)
                    spent[case] += time.perf_counter() - started
                tick()
    return timings


def distorts(device: torch.device) -> bool:
    """Whether a clock within a run changes what it takes: on a GPU each reading waits for the device."""
    return device.type == "cuda"


@dataclass(frozen=True)
class Inside:
    """What further rounds say of a contender: runs under the watch, and columns of `results.Row`."""

    watched: Sequence[Timing] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)


def look_inside(
    known: Lineup, cases: Sequence[Case], agreed: Mapping[Case, Mapping[Contender, Agreement]]
) -> dict[Case, dict[Contender, Inside]]:
    """Further rounds once all is timed: the memory of a run, then a few runs with a clock on networks and loops."""
    runs = {case: _runs(known, case, agreed[case]) for case in cases}
    memory = {(case, who): _run_bytes(known, one) for case, each in runs.items() for who, one in each.items()}
    found: dict[Case, dict[Contender, Inside]] = {case: {} for case in cases}
    with ExitStack() as stack:
        watch = _watched(known, stack)
        for case, each in runs.items():
            for who, one in each.items():
                watched = [watch.time(partial(one, turn)) for turn in range(WATCHED)]
                found[case][who] = Inside(watched, memory[case, who])
    return found


def _run_bytes(known: Lineup, run: Callable[[int], object]) -> dict[str, int]:
    device = device_of(known)
    if device.type != "cuda":
        return {}
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run(0)
    torch.cuda.synchronize(device)
    return {"run_bytes": torch.cuda.max_memory_allocated(device) - before}


def _watched(known: Lineup, stack: ExitStack) -> Stopwatch:
    """A clock on the networks of all who run; `timed_loop` counts the calls of an engine, whoever answers them."""
    running = [racer for racer in known.racers if not racer.lacks]
    networks = {id(module): module for racer in running for module in racer.networks}
    engines = {id(racer.subject.engine): racer.subject.engine for racer in running if racer.contender.ours}
    watch = stack.enter_context(Stopwatch(list(networks.values()), clock_of(device_of(known))))
    for engine in engines.values():
        stack.enter_context(timed_loop(engine, watch))
    return watch


def _runs(known: Lineup, case: Case, agreed: Mapping[Contender, Agreement]) -> Runs:
    """Who may be timed: who takes part, whose images are right, and whose dtype has a reference to be held against."""
    right = [
        racer
        for racer in known.racers
        if not racer.absent(case) and (racer.contender not in agreed or agreed[racer.contender].holds)
    ]
    dtypes = {racer.contender.dtype for racer in right if racer.contender.kind == EAGER}
    return {racer.contender: racer.run(case) for racer in right if racer.contender.dtype in dtypes}


def reading_of(
    model: str,
    racer: Racer,
    case: Case,
    timings: Mapping[Contender, Sequence[Timing]],
    agreement: Agreement | None,
    stands_on: Mapping[str, Any],
) -> Reading:
    """Of a contender in a case: its timings, or why it has none; `stands_on` is what `floor.columns` reads."""
    contender, judged = racer.contender, {} if agreement is None else finite(asdict(agreement))
    if contender in timings:
        reference = timings[Contender(EAGER, dtype=contender.dtype)]
        figures: dict[str, Any] = {"ready_seconds": racer.ready.get(case.batch), **racer.figures(), **stands_on}
        return Reading(model, case, contender, MEASURED, timings[contender], reference, judged, figures)
    why = racer.absent(case)
    if not why and agreement is not None and not agreement.holds:
        why = f"wrong: {agreement.wrong(contender, case)}"
    why = why or f"the eager reference in {contender.dtype} is wrong, and there is nothing to hold this against"
    return Reading(model, case, contender, why, agreement=judged)


__all__ = ["ParityError", "Settings", "cases_of", "ceilings_in", "cell", "describe_model", "race", "run", "take_turns"]
