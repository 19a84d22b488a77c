"""A matrix is run: race by race, run by run, each cell kept once it is there, so that a further call goes on."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fewstep.bench.advice import advice
from fewstep.bench.cells import FOLDER, Cell, Cells, Record, key_of
from fewstep.bench.cold import ColdStart
from fewstep.bench.cold import with_cold as cold_columns
from fewstep.bench.contenders import EAGER, ENGINE, KINDS, Contender
from fewstep.bench.duration import COLD, expected, spoken
from fewstep.bench.machine import describe_machine
from fewstep.bench.matrix import Race
from fewstep.bench.process import ABOUT, BEGUN, CELL, CHILD, ENDED, FAILED, STARTS, TICK, Message, messages
from fewstep.bench.race import Advance, ceilings_in
from fewstep.bench.results import Reading, Report, Row, rows_of
from fewstep.bench.subjects import NETWORKS
from fewstep.run.backends import BACKENDS

PATIENCE = 900.0  # seconds that a cell may take, with all that is made ready for it
PARTS = 100  # of a cell, for the bar

Told = Callable[[str], None]


@dataclass(frozen=True)
class Turn:
    """A race in one run: the cells that are still to be measured."""

    race: Race
    run: int
    key: str
    cells: Sequence[Cell]
    cold: bool
    again: bool = False  # they have failed before


@dataclass
class Runs:
    """A matrix and its folder.

    Args:
        races: what is measured.
        runs: how many independent runs there are of each cell.
        folder: the cells are in `folder`/cells.
        device: where it runs.
        threads: of torch, in every process.
        seconds: no race is begun after so many, and none goes on beyond them.
        patience: seconds that one cell may take.
        command: the process of a race, behind the interpreter.
    """

    races: Sequence[Race]
    runs: int
    folder: Path
    device: str = "cpu"
    threads: int | None = None
    seconds: float = float("inf")
    patience: float = PATIENCE
    command: Sequence[str] = CHILD
    machine: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.machine = describe_machine(torch.device(self.device))
        if self.threads is not None:
            self.machine = {**self.machine, "threads": self.threads}
        self.cells = Cells(self.folder / FOLDER)
        self.keys = [key_of(self.machine, race.about()) for race in self.races]
        self.ended = time.monotonic() + self.seconds
        self.kept = 0  # by this call

    @property
    def total(self) -> int:
        """Cells of all runs."""
        return self.runs * sum(len(race.cases) for race in self.races)

    def done(self) -> int:
        """Those of them that are measured."""
        return sum(record is not None and not record.failed for record in self.records())

    def left(self) -> int:
        """Cells that a further call would measure, those that failed not among them."""
        return sum(len(turn.cells) for turn in self.turns() if not turn.again)

    def records(self) -> Iterator[Record | None]:
        """Of each cell and run."""
        for race, key in zip(self.races, self.keys, strict=True):
            for cell in race.cells:
                for run in range(1, self.runs + 1):
                    yield self.cells.record(cell, run, key)

    def plan(self) -> str:
        """What will be done, in one line: "6 races x 3 runs, 54 cells, about 12 minutes"."""
        turns = self.turns()
        missing = sum(len(turn.cells) for turn in turns)
        there = self.total - missing - self.runs * sum(len(race.cases) for race in self.races if race.lacks)
        words = f"{_several(len(self.races), 'race')} x {_several(self.runs, 'run')}, {_several(self.total, 'cell')}"
        words += f", {there} of them there already" if there else ""
        if missing and not self.device.startswith("cuda"):
            seconds = sum(self._expected(turn, cell) for turn in turns for cell in turn.cells)
            words += f", about {spoken(seconds + COLD * sum(turn.cold for turn in turns))}"
        return words

    def _expected(self, turn: Turn, cell: Cell) -> float:
        """Seconds that a cell takes: as long as in another run, if there is one."""
        known = [self.cells.record(cell, run, turn.key) for run in range(1, self.runs + 1)]
        took = [record.seconds for record in known if record is not None]
        network = NETWORKS.get(str(turn.race.source.get("name")))
        return min(took) if took else expected(turn.race, cell.case, 0.1 if network is None else network.gib, turn.run)

    def turns(self) -> list[Turn]:
        """What is to be done: run 1 of all races, then run 2; what has failed before comes last."""
        fresh, failed = list[Turn](), list[Turn]()
        for run in range(1, self.runs + 1):
            for race, key in zip(self.races, self.keys, strict=True):
                if race.lacks:
                    continue
                records = {cell: self.cells.record(cell, run, key) for cell in race.cells}
                cold = run == 1 and race.cold and self.cells.cold(race.model, key) is None
                if new := [cell for cell, record in records.items() if record is None]:
                    fresh.append(Turn(race, run, key, new, cold))
                if again := [cell for cell, record in records.items() if record is not None and record.failed]:
                    failed.append(Turn(race, run, key, again, cold and not new, again=True))
        return fresh + failed

    def go(self, advance: Advance | None = None, tell: Told = lambda text: None) -> None:
        """Measure what is missing; a KeyboardInterrupt leaves the cells that are done.

        Args:
            advance: is given how much of all cells is done, in hundredths of a cell, and how much there is.
            tell: is given a line about each race that begins.
        """
        turns = self.turns()
        bar = _Bar(self.total * PARTS, sum(len(turn.cells) for turn in turns) * PARTS, advance)
        for turn in turns:
            if time.monotonic() >= self.ended:
                return
            tell(f"run {turn.run} of {self.runs}: {turn.race.model}, {_several(len(turn.cells), 'cell')}")
            self._turn(turn, bar, tell)

    def _turn(self, turn: Turn, bar: "_Bar", tell: Told) -> None:
        """Every cell of it, in one process, and in a new one after each cell that ends its process."""
        left, cold = list(turn.cells), turn.cold
        while left:
            before = len(left)
            for cell, why in self._process(turn, list(left), cold, bar):
                left.remove(cell)
                if why:
                    tell(f"{cell}: {why}")
            if len(left) == before:  # the time of this call was over
                return
            cold = False

    def _process(self, turn: Turn, cells: Sequence[Cell], cold: bool, bar: "_Bar") -> Iterator[tuple[Cell, str]]:
        """One process: each cell that it ended, with why it failed."""
        task = turn.race.task([cell.case for cell in cells], self.device, self.threads, cold)
        about: Message = {}
        at, began, told = cells[0], time.monotonic(), set[Cell]()

        def keep(cell: Cell, readings: Sequence[Reading] = (), failed: str = "") -> tuple[Cell, str]:
            took = time.monotonic() - began
            known = {name: about.get(name, {}) for name in ("machine", "model")}
            self.cells.keep(Record(cell, turn.run, turn.key, took, readings, failed, **known))
            told.add(cell)
            self.kept += 1
            bar.cell()
            return cell, failed

        for message in messages(task, self.patience, self.command, self.ended):
            kind = message["kind"]
            if kind == ABOUT:
                about = message
            elif kind == BEGUN:
                at = cells[message["index"]]
            elif kind == TICK:
                bar.part(message["done"] / message["total"])
            elif kind == CELL:
                yield keep(cells[message["index"]], [Reading.from_dict(each) for each in message["readings"]])
                began = time.monotonic()
            elif kind == FAILED:
                yield keep(cells[message["index"]], failed=message["why"])
                began = time.monotonic()
            elif kind == STARTS:
                self.cells.keep_cold(turn.race.model, turn.key, message["starts"])
            elif kind == ENDED and at not in told and not (message["late"] and self.kept):
                # A cell that has had all the time of a call would have all of the next as well.
                yield keep(at, failed=f"failed: {message['why'] or 'it said nothing of this cell'}")

    def report(self) -> Report:
        """What is there of all runs. Cells without a measurement have rows that say why."""
        known = list(zip(self.races, self.keys, strict=True))
        rows, contenders = list[Row](), contenders_of(self.races)
        models: dict[str, Mapping[str, object]] = {}
        cold: list[Mapping[str, object]] = []
        machine, first_cells = dict(self.machine), list[Record]()
        for race, key in known:
            for cell in race.cells:
                records = [self.cells.record(cell, run, key) for run in range(1, self.runs + 1)]
                measured = [record for record in records if record is not None and record.readings]
                for record in measured:
                    told = {"title": race.title} if race.title else {}
                    models.setdefault(race.model, {**record.model, **told})
                first_cells += measured if cell == race.cells[0] else []
                readings = [_whole(record.readings, cell, contenders) for record in measured]
                rows += rows_of(readings or [_absent(race, cell, records, contenders)])
            starts = (self.cells.cold(race.model, key) if race.cold else None) or []
            cold += [{"model": race.model, **each} for each in starts]
            rows = with_cold(rows, race.model, starts)
        for race in self.races:
            models.setdefault(race.model, {"title": race.title or race.model})
        first = self.races[0].settings
        settings: dict[str, object] = {
            "repeats": first.repeats,
            "seconds": first.seconds if math.isfinite(first.seconds) else None,
            "tolerances": dict(first.tolerances),
            "runs": self.runs,
            "caches": "what inductor and OpenVINO compiled is shared between runs",
        }
        limits = ceilings_in(*(record.readings for record in first_cells))
        return Report(machine, settings, models, contenders, rows, cold, limits, advice(rows))


def with_cold(rows: Sequence[Row], model: str, starts: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The rows, those of a network with the columns of its contenders' cold starts."""
    found = [ColdStart(**each) for each in starts]
    return [each for row in rows for each in (cold_columns([row], found) if row.model == model else [row])]


def _absent(race: Race, cell: Cell, records: Sequence[Record | None], contenders: Sequence[Contender]) -> list[Reading]:
    """A reading for each contender, with why there is none."""
    said = next((record.failed for record in records if record is not None and record.failed), "")
    why = race.lacks or said or "not measured yet"
    return [Reading(cell.model, cell.case, each, why) for each in contenders]


def _whole(readings: Sequence[Reading], cell: Cell, contenders: Sequence[Contender]) -> list[Reading]:
    """Those of all contenders that the report knows, in its order: one race may lack a baseline that another has."""
    found = {each.contender: each for each in readings}
    return [found.get(each) or Reading(cell.model, cell.case, each, "not asked for") for each in contenders]


def contenders_of(races: Sequence[Race]) -> list[Contender]:
    """All that might take part, in the order of `lineup`."""
    dtypes = list(dict.fromkeys(dtype for race in races for dtype in race.settings.dtypes))
    engines = [Contender(ENGINE, backend, dtype) for backend in BACKENDS for dtype in dtypes]
    others = [kind for kind in KINDS if kind not in (ENGINE, EAGER)]
    return engines + [Contender(kind, dtype=dtype) for kind in (EAGER, *others) for dtype in dtypes]


class _Bar:
    """How much is done of all cells, those of earlier calls among it."""

    def __init__(self, total: int, missing: int, advance: Advance | None) -> None:
        self.total, self.done, self.advance = total, total - missing, advance
        self.part(0.0)

    def part(self, share: float) -> None:
        """So much of the cell that is measured now."""
        if self.advance is not None:
            self.advance(self.done + int(share * PARTS), self.total)

    def cell(self) -> None:
        """One more."""
        self.done += PARTS
        self.part(0.0)


def _several(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"
