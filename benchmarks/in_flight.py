"""Samples in flight against static batching and against batches of equal steps, under the same traffic on a CPU.

    export PYTHONPATH=engine:kernels
    python benchmarks/in_flight.py --out FOLDER          under six minutes on two quiet cores
    python benchmarks/in_flight.py --dry-run             a model of nothing, a few seconds

Requests for one image each, of 1 to 8 steps of the digits' teacher with equal chances, come as a Poisson process. The
teacher was trained for no few steps: its pictures of so few are poor, and what is measured is the time. Rates are in
parts of what steps of --slots lanes could draw.

    contender                what it is
    in flight                fewstep.serve.Batcher: a sample joins and leaves at any step
    equal steps N x T ms     dynamic batching as Triton does it: a queue for each number of steps, batches of N at most
                             by Engine.sample, whose oldest waits T ms for more
    static N x T ms          one queue, batches of N that wait T ms to fill and run to the end of the longest

All draw with one engine and the same threads, one at a time, in a new order each round. In a round each has the same
arrivals. First every contender draws the same images, which may differ by one of 255. Shown are, of each rate, medians
over the rounds, with the least and the most: p99 and median of the time from arrival to image, and samples in a step.
One that leaves requests undone at a rate, five seconds after the last came, is not tried at higher ones.

Then the students of 1, 2, 4 and 8 steps serve requests that say a deadline in place of steps, at 80 % of the load.

Written to --out: in_flight.json and in_flight.png. The exit code is 1 where images differ.
"""

import argparse
import io
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from in_flight_contenders import NAME, Contender, InFlight, Visit, contenders_of
from torch import Tensor, nn

from fewstep import Classes, Engine, Model, schedules
from fewstep.bench.machine import describe_machine
from fewstep.files import AtomicFiles
from fewstep.serve import Family
from fewstep.serve.batching.costs import Costs
from fewstep.serve.family import Member

STEPS = range(1, 9)
WARM = 60.0  # seconds that the first images of a contender may take, since they may open a session
DRAIN = 5.0  # seconds after the last arrival until what is undone stays so
LATENCY, THROUGHPUT = 0.6, 1.3  # of the best other's p99 at most, or of its throughput at least
DEADLINES = (12, 24, 48, 96)  # that requests have, in steps of one lane alone
STUDENTS = (1, 2, 4, 8)


@dataclass
class Run:
    """What a contender did with a trace."""

    contender: str
    share: float
    rate: float
    count: int
    undone: int
    p50: float
    p99: float
    samples: float  # in a step

    @property
    def is_stable(self) -> bool:
        return self.undone == 0


def traffic(rate: float, seconds: float, seed: int) -> list[Visit]:
    """Arrivals of a Poisson process, each with steps of equal chances."""
    drawn, at, found = random.Random(seed), 0.0, list[Visit]()
    while (at := at + drawn.expovariate(rate)) < seconds:
        found.append(Visit(at, drawn.choice(STEPS), drawn.randrange(2**32), drawn.randrange(10)))
    return found


class Images:
    """Takes images as they come, and knows when all that were awaited are there."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._left = 0
        self._begin = time.perf_counter()

    def take(self, visit: Visit, image: Any) -> None:
        """One is there."""
        visit.done, visit.image = time.perf_counter() - self._begin, image
        with self._changed:
            self._left -= 1
            self._changed.notify()

    def play(self, contender: Contender, visits: Sequence[Visit], seconds: float) -> None:
        """Hand a trace over as it comes, and wait for what is undone then so many seconds at most."""
        self._left = len(visits)
        self._begin = contender.begin = time.perf_counter()
        for visit in visits:
            time.sleep(max(0.0, self._begin + visit.at - time.perf_counter()))
            contender.submit(visit)
        refused = sum(visit.refused for visit in visits)
        with self._changed:
            self._changed.wait_for(lambda: self._left <= refused, seconds)


def play(contender: Contender, visits: Sequence[Visit]) -> tuple[int, int]:
    """Serve a trace, after a few images that do not count; steps, and samples in them, summed."""
    images = Images()
    contender.start(images.take)
    try:
        images.play(contender, [Visit(0.0, 1, place, 0) for place in range(3)], WARM)
        before = contender.rows()
        images.play(contender, visits, DRAIN)
        after = contender.rows()
    finally:
        contender.stop()
    return after[0] - before[0], after[1] - before[1]


def run(contender: Contender, share: float, rate: float, seconds: float, seed: int) -> Run:
    """A contender at a rate."""
    visits = traffic(rate, seconds, seed)
    steps, samples = play(contender, visits)
    waits = [float("inf") if visit.done is None else visit.done - visit.at for visit in visits]
    p50, p99 = np.quantile(waits, [0.5, 0.99], method="higher")
    undone = sum(visit.done is None for visit in visits)
    return Run(contender.name, share, rate, len(visits), undone, float(p50), float(p99), samples / max(1, steps))


def alike(contenders: Sequence[Contender]) -> str | None:
    """Whether all draw the same images; which does not."""
    drawn = {}
    for contender in contenders:
        visits = [Visit(0.0, 1 + place % 8, 100 + place, place % 10) for place in range(12)]
        play(contender, visits)
        if any(visit.image is None for visit in visits):
            return f"{contender.name} has not drawn all of {len(visits)} images"
        drawn[contender.name] = np.stack([visit.image for visit in visits]).astype(int)
    first = next(iter(drawn.values()))
    apart = {name: int(abs(images - first).max()) for name, images in drawn.items()}
    print(f"images differ by {max(apart.values())} of 255 at most")
    return next((f"{name} draws other images, by {by} of 255" for name, by in apart.items() if by > 1), None)


def bar(done: int, of: int, what: str) -> None:
    """One line of progress, on a terminal."""
    if sys.stderr.isatty():
        filled = 24 * done // max(1, of)
        print(f"\r[{'#' * filled:<24}] {done}/{of} {what:<32}", end="" if done < of else "\n", file=sys.stderr)


def races(contenders: Sequence[Contender], capacity: float, options: argparse.Namespace) -> Iterator[Run]:
    """Every contender at every rate in every round, in a new order, until the time is up."""
    end, fallen = options.began + options.budget_seconds, dict[str, float]()
    total, done = options.rounds * len(options.rates) * len(contenders), 0
    for turn in range(options.rounds):
        for share in options.rates:
            for contender in random.Random(turn).sample(contenders, len(contenders)):
                done += 1
                bar(done, total, f"{contender.name} at {share:.0%}")
                if fallen.get(contender.name, 2.0) < share or time.perf_counter() > end:
                    continue
                # Of a run that was cut short by the clock nothing would be known.
                found = run(contender, share, share * capacity, options.seconds, 1000 * turn + int(100 * share))
                if not found.is_stable:
                    fallen[contender.name] = min(share, fallen.get(contender.name, 2.0))
                yield found


@dataclass(frozen=True)
class Row:
    """A contender at a rate, over the rounds."""

    contender: str
    share: float
    rate: float
    requests: int
    undone: int
    p50_ms: float
    p99_ms: float
    p99_low: float
    p99_high: float
    samples: float


def rows_of(runs: Sequence[Run]) -> list[Row]:
    """Medians, in the order of the rates."""
    found = []
    for share, name in dict.fromkeys((run.share, run.contender) for run in sorted(runs, key=lambda run: run.share)):
        same = [run for run in runs if (run.share, run.contender) == (share, name)]
        p99 = [1e3 * run.p99 for run in same]
        counts = sum(run.count for run in same), sum(run.undone for run in same)
        p50 = 1e3 * median(run.p50 for run in same)
        samples = median(run.samples for run in same)
        found.append(Row(name, share, same[0].rate, *counts, p50, median(p99), min(p99), max(p99), samples))
    return found


def kind(name: str) -> str:
    """Of a contender, whatever its settings."""
    return " ".join(word for word in name.split() if word.isalpha() and word not in ("x", "ms"))


def rate_within(rows: Sequence[Row], p99_ms: float) -> float:
    """The highest rate at which a contender's p99 is no more than so much, on a line between its rates; 0 for none."""
    best, before = 0.0, None
    for row in rows:
        if row.p99_ms <= p99_ms:
            best = row.rate
        elif before is not None and before.p99_ms <= p99_ms and np.isfinite(row.p99_ms):
            best = before.rate + (row.rate - before.rate) * (p99_ms - before.p99_ms) / (row.p99_ms - before.p99_ms)
        before = row
    return best


def verdict(rows: Sequence[Row]) -> dict[str, Any]:
    """In flight beside the best of all others: p99 at the same rate, and the rate at the same p99, of each rate."""
    ours = [row for row in rows if row.contender == "in flight"]
    found = []
    for mine in ours:
        others = [row for row in rows if row.share == mine.share and row.contender != "in flight"]
        if not others:
            continue
        best = min(others, key=lambda row: row.p99_ms)
        rate = rate_within(ours, best.p99_ms)
        theirs = max(
            rate_within([row for row in rows if row.contender == name], best.p99_ms)
            for name in {row.contender for row in rows} - {"in flight"}
        )
        throughput = rate / theirs if theirs else float("inf")
        found.append(
            {"share": mine.share, "best": best.contender, "p99": mine.p99_ms / best.p99_ms, "rate": throughput}
        )
    kept = [each for each in found if each["p99"] <= LATENCY or each["rate"] >= THROUGHPUT]
    return {"rates": found, "kept": bool(found) and len(kept) == len(found)}


def deadlines(family: Family, costs: Costs, options: argparse.Namespace) -> dict[str, Any]:
    """Requests with deadlines in place of steps, at 80 % of what the students could draw, all of them alike."""
    students = [member for member in family.members if member.steps]
    each = sum(max(s.steps) * costs.step_seconds(s.name, options.slots) for s in students) / len(students)
    alone = max(costs.step_seconds(student.name, 1) for student in students)
    rate, drawn = 0.8 * options.slots / each, random.Random(5)
    visits = traffic(rate, 2 * options.seconds, 7)
    for visit in visits:
        visit.steps, visit.deadline = None, alone * drawn.choice(DEADLINES)
    steps, samples = play(InFlight(family, options.slots, costs), visits)
    inside = [v for v in visits if v.done is not None and v.deadline is not None and v.done <= v.at + v.deadline]
    return {
        "rate": rate,
        "requests": len(visits),
        "deadlines_ms": [round(1e3 * alone * count) for count in DEADLINES],
        "inside": len(inside) / max(1, len(visits)),
        "refused": sum(visit.refused for visit in visits),
        "steps_given": {str(count): n for count, n in sorted(Counter(visit.given for visit in inside).items())},
        "samples": samples / max(1, steps),
    }


class Sleeper(nn.Module):
    """A network that only takes time: what a dry run walks."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        time.sleep(5e-4 + 1e-4 * len(x))
        return x * self.scale


def sleeper(steps: int | None = None) -> Engine:
    """An engine of it, trained for so many steps."""
    trained = None if steps is None else {"sampler": "ddim", "steps": [steps]}
    options: dict[str, Any] = {"schedule": schedules.linear(), "shape": (1, 4, 4), "conditions": Classes(10, null=10)}
    model = Model(Sleeper(), defaults={"sampler": "ddim", "steps": steps or 8}, trained=trained, **options)
    return Engine(model, device="cpu", backend="torch", max_batch=64)


def opened(options: argparse.Namespace) -> tuple[Engine, Family]:
    """The teacher, and the family of the students."""
    if options.dry_run:
        students = [Member(f"{NAME}/{steps}-step", sleeper(steps), (steps,)) for steps in STUDENTS]
        return sleeper(), Family(NAME, students)
    how: dict[str, Any] = {"device": "cpu", "backend": options.backend, "max_batch": 64}
    return Engine.from_pretrained("digits/teacher", **how), Family.open(NAME, "digits", **how)


def table(rows: Sequence[Row]) -> Iterator[str]:
    """For people."""
    columns = f"{'p50 ms':>9}{'p99 ms':>9}  {'least to most':<15}{'samples/step':>14}"
    yield f"{'load':>5}{'rate':>7}  {'contender':<24}{columns}"
    for row in rows:
        spread = f"{row.p99_low:.0f} to {row.p99_high:.0f}"
        undone = f"  {row.undone} of {row.requests} undone" if row.undone else ""
        yield (
            f"{row.share:>5.0%}{row.rate:>7.1f}  {row.contender:<24}{row.p50_ms:>9.1f}{row.p99_ms:>9.1f}  {spread:<15}"
            f"{row.samples:>14.1f}{undone}"
        )


def picture(rows: Sequence[Row], machine: str) -> bytes:
    """p99 over the rate: in flight, and the best setting of each other at each rate; the others as dots."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for place, name in enumerate(dict.fromkeys(kind(row.contender) for row in rows)):
        of_kind = [row for row in rows if kind(row.contender) == name and np.isfinite(row.p99_ms)]
        best = {
            share: min((r for r in of_kind if r.share == share), key=lambda r: r.p99_ms)
            for share in dict.fromkeys(row.share for row in of_kind)
        }
        axes.plot([r.rate for r in best.values()], [r.p99_ms for r in best.values()], color=f"C{place}", label=name)
        axes.plot([r.rate for r in of_kind], [r.p99_ms for r in of_kind], "o", color=f"C{place}", alpha=0.4)
    axes.set(xlabel="images asked for in a second", ylabel="p99 from arrival to image, ms", yscale="log", title=machine)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=120)
    return held.getvalue()


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="folder for in_flight.json and in_flight.png")
    parser.add_argument("--dry-run", action="store_true", help="a model that only sleeps, for a moment")
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[0.35, 0.5, 0.65, 0.8], help="in parts of the capacity"
    )
    parser.add_argument("--delays", type=float, nargs="+", default=[0.0, 0.02, 0.08], help="of equal steps, in seconds")
    parser.add_argument("--time-outs", type=float, nargs="+", default=[0.02, 0.1], help="of static batches, in seconds")
    parser.add_argument("--slots", type=int, default=16, help="samples that run together at most")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0, help="of arrivals in each run")
    parser.add_argument("--budget-seconds", type=float, default=320.0, help="after which no race begins")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of torch and the backend")
    parser.add_argument("--backend", default="auto", help="what executes the network")
    options = parser.parse_args(argv)
    if options.dry_run:
        options.rates, options.delays, options.time_outs = options.rates[:2], options.delays[:1], options.time_outs[:1]
        options.rounds, options.seconds, options.slots = 1, 0.3, min(options.slots, 4)
    options.rates = sorted(options.rates)
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; the exit code."""
    options = parsed(argv)
    options.began = time.perf_counter()
    torch.set_num_threads(options.threads)
    teacher, family = opened(options)
    costs = Costs()
    members = [Member(f"{NAME}/teacher", teacher, ()), *(each for each in family.members if each.steps)]
    for place, member in enumerate(members):
        bar(place, len(members), f"{member.name} measured")
        costs.calibrate(member, options.slots)
    each = sum(STEPS) / len(STEPS) * costs.step_seconds(f"{NAME}/teacher", options.slots)
    capacity = options.slots / each
    for count in range(1, options.slots + 1):  # a program for each size of a batch, before anything is timed
        bar(count, options.slots, "batches made ready")
        teacher.sample(count, labels=[0] * count, steps=1, seeds=0, output="uint8")
    machine = describe_machine(torch.device("cpu")) | {"threads": options.threads, "backend": teacher.backend}
    print(json.dumps(machine, default=str))
    steps = {lanes: f"{1e3 * seconds:.2f}" for lanes, seconds in costs.table()[f"{NAME}/teacher"].items()}
    print(f"ms of a step by lanes: {steps}; so {capacity:.1f} images a second of 1 to 8 steps at the most")
    contenders = contenders_of(teacher, options.slots, costs, options.delays, options.time_outs)
    wrong = alike(contenders)
    if wrong is not None:
        print(f"WRONG: {wrong}")
        return 1
    rows = rows_of(list(races(contenders, capacity, options)))
    print(*table(rows), sep="\n")
    found = verdict(rows)
    for at in found["rates"]:
        print(f"at {at['share']:.0%}: {at['p99']:.2f}x the p99 of {at['best']}, {at['rate']:.2f}x the rate at its p99")
    promise = f"at most {LATENCY}x the p99, or at least {THROUGHPUT}x the throughput, of the best other at every rate"
    print(f"{'PROVEN' if found['kept'] else 'MISSED'}: {promise}")
    due = deadlines(family, costs, options)
    kept = "PROVEN" if due["inside"] >= 0.99 else "MISSED"
    print(
        f"{kept}: {due['inside']:.2%} of {due['requests']} requests inside their deadlines of {due['deadlines_ms']} ms "
        f"at 80 % load ({due['rate']:.1f} a second); refused {due['refused']}; steps given {due['steps_given']}; "
        f"{due['samples']:.1f} samples a step"
    )
    if options.out is not None:
        report = {"machine": machine, "capacity": capacity, "step_seconds": costs.table(), "verdict": found}
        report |= {"rows": [vars(row) for row in rows], "deadlines": due, "dry_run": options.dry_run}
        with AtomicFiles() as files:
            files.open(options.out / "in_flight.json").write(json.dumps(report, indent=1, default=str).encode() + b"\n")
            files.open(options.out / "in_flight.png").write(picture(rows, str(machine.get("cpu", ""))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
