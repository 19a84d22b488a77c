"""One sentence: what to switch on, and what that gains, read from the rows; honest where nothing gains."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fewstep.bench.contenders import (
    COMPILE,
    EAGER,
    ENGINE,
    FREEZING,
    MAX_AUTOTUNE,
    REDUCE_OVERHEAD,
    REGIONAL,
)
from fewstep.bench.results import MEASURED, Row

COMPILED: Final = (COMPILE, REGIONAL, FREEZING, REDUCE_OVERHEAD, MAX_AUTOTUNE)
STEPS: Final = 4  # of the case that stands for all, where it is there
EXACT: Final = "float32"


@dataclass(frozen=True)
class Choice:
    """The engine that is fastest over all cases of a network, in the case that stands for them."""

    row: Row
    eager: Row  # as `_reference`
    cells: Sequence[Row]  # of that case
    gains: bool  # beyond its interval

    @property
    def ahead(self) -> float:
        """How many times as fast as the eager reference it is."""
        return _median(self.eager) / _median(self.row)


def advice(rows: Sequence[Row]) -> str:
    """What to switch on for the networks of a report; "" where nothing was measured.

    An engine that is wrong in one case is not advised in any. How many times as fast is by the medians of a case: the
    smallest batch in 4 steps where that was measured.
    """
    choices = {
        name: _choice([row for row in rows if row.model == name]) for name in dict.fromkeys(r.model for r in rows)
    }
    found = {name: choice for name, choice in choices.items() if choice is not None}
    if not found:
        return ""
    if len(found) == 1:
        (choice,) = found.values()
        return _alone(choice)
    gaining = [f"{_switch(choice.row)} for {name} ({_gain(choice)})" for name, choice in found.items() if choice.gains]
    idle = [name for name, choice in found.items() if not choice.gains]
    parts = [f"use {_listed(gaining)}"] if gaining else []
    parts += [f"for {_listed(idle)} nothing gains beyond its interval"] if idle else []
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _alone(choice: Choice) -> str:
    case = _case(choice.row)
    if not choice.gains:
        against = f"the engine takes {1 / choice.ahead:.2f} times the eager reference's time at {case}"
        return f"Nothing to switch on gains beyond its interval: at best {against}{_faster(choice)}."
    return f"Use {_switch(choice.row)}: {_gain(choice)}."


def _gain(choice: Choice) -> str:
    said = f"{choice.ahead:.2f} times as fast as the eager reference"
    compiled = _fastest(choice.cells, COMPILED)
    if compiled is not None:
        said += f" and {_median(compiled) / _median(choice.row):.2f} times torch.compile"
    within = "" if choice.row.difference is None else f"; images within {choice.row.difference:.0e}"
    return f"{said} at {_case(choice.row)}{within}{_faster(choice)}"


def _faster(choice: Choice) -> str:
    """Who of the others is faster still; the network's calls alone make no images."""
    rows = [row for row in choice.cells if row.kind != ENGINE and row.difference is not None]
    best = min(rows, key=_median, default=None)
    if best is None or _median(best) >= 0.98 * _median(choice.row):
        return ""
    return f"; {best.contender} is faster still, {_median(choice.row) / _median(best):.2f} times as fast as that"


def _choice(rows: Sequence[Row]) -> Choice | None:
    wrong = {row.contender for row in rows if row.status.startswith("wrong")}
    engines = list(
        dict.fromkeys(r.contender for r in rows if r.kind == ENGINE and _there(r) and r.contender not in wrong)
    )
    cases: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        if _there(row):
            cases.setdefault((row.size, row.sampler, row.steps, row.batch), []).append(row)
    speeds = {name: [s for cell in cases.values() if (s := _speed(cell, name)) is not None] for name in engines}
    most = max((len(each) for each in speeds.values()), default=0)
    whole = {name: math.fsum(map(math.log, each)) for name, each in speeds.items() if each and len(each) == most}
    if not whole:
        return None
    best = max(whole, key=lambda name: whole[name])
    shown = [cell for cell in cases.values() if _speed(cell, best) is not None]
    cell = min(shown, key=lambda each: (each[0].batch, each[0].steps != STEPS, each[0].steps))
    row = next(each for each in cell if each.contender == best)
    eager = next(each for each in (_reference(cell, row),) if each is not None)
    own = _eager(cell, row.dtype) or eager
    slowest = (row.ratio_high or math.inf) * _median(own) / _median(eager)
    return Choice(row, eager, cell, slowest < 1)


def _speed(cell: Sequence[Row], contender: str) -> float | None:
    row = _of(cell, contender)
    eager = None if row is None else _reference(cell, row)
    return None if row is None or eager is None else _median(eager) / _median(row)


def _reference(cell: Sequence[Row], row: Row) -> Row | None:
    """The eager reference in float32; in the row's dtype where that alone was measured."""
    return _eager(cell, EXACT) or _eager(cell, row.dtype)


def _of(cell: Sequence[Row], contender: str) -> Row | None:
    return next((row for row in cell if row.contender == contender), None)


def _eager(cell: Sequence[Row], dtype: str) -> Row | None:
    return next((row for row in cell if row.kind == EAGER and row.dtype == dtype), None)


def _fastest(cell: Sequence[Row], kinds: Sequence[str]) -> Row | None:
    return min((row for row in cell if row.kind in kinds), key=_median, default=None)


def _there(row: Row) -> bool:
    return row.status == MEASURED and bool(row.median_ms)


def _median(row: Row) -> float:
    return math.nan if row.median_ms is None else row.median_ms


def _switch(row: Row) -> str:
    """As it is typed in Python, and in words."""
    return f"backend='{row.backend}'" + f" in {row.dtype}" * (row.dtype != EXACT)


def _case(row: Row) -> str:
    return f"batch {row.batch}, {row.steps} step{'s' * (row.steps != 1)}"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
