"""What an evaluation found: rows of numbers, and how they are kept."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from fewstep.errors import ArgumentError, ModelError
from fewstep.evaluate.bound import Bound, headline
from fewstep.evaluate.likeness import Likeness
from fewstep.evaluate.scores import Scores
from fewstep.fields import read_json
from fewstep.files import AtomicFiles

FORMAT: Final = 1
RESULT_FILE, PLOT_FILE, BOUND_FILE = "evaluate.json", "quality.png", "bound.png"


@dataclass(frozen=True)
class Row:
    """One number of steps."""

    sampler: str
    steps: int
    scores: Scores
    ms_per_image: float  # of a whole run, in batches of the settings' size
    seconds: float  # for all samples
    likeness: Likeness | None = None  # to a teacher, where there is one

    def to_dict(self) -> dict[str, Any]:
        """As JSON stores it: the scores beside the rest."""
        own = {"sampler": self.sampler, "steps": self.steps}
        times = {"ms_per_image": self.ms_per_image, "seconds": self.seconds}
        return own | asdict(self.scores) | times | ({} if self.likeness is None else self.likeness.to_dict())


@dataclass(frozen=True)
class Report:
    """All that an evaluation found, and on what."""

    model: Mapping[str, object]
    machine: Mapping[str, object]
    settings: Mapping[str, object]
    floor: Scores
    rows: Sequence[Row]
    bounds: Sequence[Bound] = ()
    sheets: Mapping[str, bytes] = field(default_factory=dict)  # file name -> PNG
    data: Mapping[str, Any] = field(default_factory=dict)  # the real images
    teacher: tuple[str, Row] | None = None  # its name, and what it scores
    notes: Sequence[str] = ()  # which scores there cannot be, and why

    def to_dict(self) -> dict[str, Any]:
        """As --json prints it and evaluate.json holds it."""
        return {
            "format": FORMAT,
            "model": dict(self.model),
            "machine": dict(self.machine),
            "settings": dict(self.settings),
            "data": dict(self.data),
            "real": asdict(self.floor),
            "rows": [self._row(row) for row in self.rows],
            "teacher": None if self.teacher is None else {"name": self.teacher[0]} | self._row(self.teacher[1]),
            "bits_per_dimension": [bound.to_dict() for bound in self.bounds],
            "bits_per_dimension_quoted": headline(self.bounds).variance if self.bounds else None,
            "notes": list(self.notes),
        }

    def _row(self, row: Row) -> dict[str, Any]:
        return row.to_dict() | {"frechet_ratio": ratio(row.scores.frechet, self.floor.frechet)}

    def save(self, folder: Path, pictures: Mapping[str, bytes]) -> list[Path]:
        """Write evaluate.json, the pictures and a sheet for each number of steps: all or none.

        Raises OutputError if that fails.
        """
        contents = {RESULT_FILE: json.dumps(self.to_dict(), indent=1).encode() + b"\n", **pictures, **self.sheets}
        with AtomicFiles() as files:
            for name, content in contents.items():
                files.open(folder / name).write(content)
        return [folder / name for name in contents]


@dataclass(frozen=True)
class Curve:
    """Scores over steps, of this model or of an earlier result: what a plot draws."""

    name: str
    rows: Sequence[Mapping[str, Any]]  # as `Row.to_dict` makes them
    marker: str = "o"

    @classmethod
    def of(cls, report: Report) -> "Curve":
        """The curve of a report."""
        return cls(str(report.model["name"]), [row.to_dict() for row in report.rows])

    @classmethod
    def read(cls, path: Path, settings: Mapping[str, object]) -> "Curve":
        """The curve in an evaluate.json, to be drawn beside results of these settings.

        Raises:
            ModelError: a file that is no such result.
            ArgumentError: a result of another classifier or number of samples, which cannot be compared.
        """
        data = read_json(path)
        try:
            rows = [
                {
                    "steps": int(row["steps"]),
                    **{name: _number(row[name]) for name in DRAWN},
                    LIKENESS: _number(row.get(LIKENESS)),
                }
                for row in data["rows"]
            ]
            curve = cls(str(data["model"]["name"])[:60], rows)
            found = {name: data["settings"][name] for name in COMPARABLE}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{path}: is no result of fewstep evaluate") from error
        wanted = {name: settings[name] for name in COMPARABLE}
        if found != wanted:
            raise ArgumentError("beside", f"{path} with {_words(found)}", f"results with {_words(wanted)}")
        return curve


COMPARABLE: Final = ("n", "classifier")  # settings without which two results say different things
DRAWN: Final = ("ms_per_image", "frechet", "accuracy", "precision", "recall")
LIKENESS: Final = "psnr_median"  # drawn too, of students beside a teacher


def _words(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def sheet_name(steps: int) -> str:
    """The file of the sheet at a number of steps."""
    return f"samples-{steps}.png"


def pair_name(steps: int) -> str:
    """The file of the sheet with the teacher's samples above the student's."""
    return f"teacher-student-{steps}.png"


def ratio(value: float | None, floor: float | None) -> float | None:
    """value / floor; None where either is missing, or the floor is 0: real images that are all the same."""
    return None if value is None or not floor else value / floor


def _number(value: object) -> float | None:
    return None if value is None else float(value)  # type: ignore[arg-type]
