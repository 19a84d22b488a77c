"""Which cells a matrix has: networks of record times their sizes and cases, as races of a process each.

A race is one network with one set of weights: digits have a student for each number of steps, so a race for each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fewstep.bench.cells import Cell
from fewstep.bench.contenders import Case
from fewstep.bench.process import Task
from fewstep.bench.race import Settings


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
        names = ("repeats", "seconds", "tolerances", "backends", "dtypes", "beside")
        return {"source": dict(self.source), **{name: told[name] for name in names}}
