"""Two results side by side: whether the ratios of one lie where the other says that they do."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fewstep.bench.contenders import EAGER
from fewstep.bench.results import MEASURED, Report, Row
from fewstep.bench.statistics import agree
from fewstep.errors import ArgumentError

NAME = "bench.json"


@dataclass(frozen=True)
class Pair:
    """A contender in a case, in both results, measured in each."""

    first: Row
    second: Row

    @property
    def agrees(self) -> bool:
        """Whether the 95 % intervals of the two ratios have a number in common."""
        return agree(*((low(row), high(row)) for row in (self.first, self.second)))


@dataclass(frozen=True)
class Comparison:
    """All pairs, and how many rows have a time in one of the results alone."""

    pairs: Sequence[Pair]
    alone: tuple[int, int]

    @property
    def apart(self) -> list[Pair]:
        """Those that do not agree."""
        return [pair for pair in self.pairs if not pair.agrees]

    @property
    def share(self) -> float:
        """Of pairs that agree, from 0 to 1."""
        return 1 - len(self.apart) / len(self.pairs) if self.pairs else 0.0

    def to_dict(self) -> dict[str, object]:
        """As --json prints it."""
        apart = [
            {
                **dict(zip(KEY, key_of(pair.first), strict=True)),
                **{name: [row.ratio, low(row), high(row)] for name, row in vars(pair).items()},
            }
            for pair in self.apart
        ]
        return {"pairs": len(self.pairs), "share": self.share, "alone": list(self.alone), "apart": apart}


KEY = ("model", "size", "sampler", "steps", "batch", "contender")


def compare(first: Report, second: Report) -> Comparison:
    """The rows that both have measured; the eager reference, whose ratio is 1 by definition, is no row here."""
    found = [{key_of(row): row for row in report.rows if _counts(row)} for report in (first, second)]
    pairs = [Pair(row, found[1][key]) for key, row in found[0].items() if key in found[1]]
    return Comparison(pairs, (len(found[0]) - len(pairs), len(found[1]) - len(pairs)))


def load(path: Path) -> Report:
    """A bench.json, or that of a folder.

    Raises:
        ArgumentError: there is none, or it is of another format.
    """
    place = path / NAME if path.is_dir() else path
    try:
        return Report.load(place)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArgumentError("compare", path, f"a {NAME} that fewstep bench --out wrote, or its folder") from error


def key_of(row: Row) -> tuple[object, ...]:
    """What makes two rows the same one."""
    return tuple(getattr(row, name) for name in KEY)


def low(row: Row) -> float:
    """The lower end of its interval."""
    return float("nan") if row.ratio_low is None else row.ratio_low


def high(row: Row) -> float:
    """The upper end of it."""
    return float("nan") if row.ratio_high is None else row.ratio_high


def _counts(row: Row) -> bool:
    return row.status == MEASURED and row.kind != EAGER and row.ratio is not None
