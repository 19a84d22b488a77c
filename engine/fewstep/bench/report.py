"""What a run found: rows of numbers, and how they are kept."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.bench.clock import Timing
from fewstep.bench.cold import ColdStart
from fewstep.bench.contenders import ENGINE, Case, Contender
from fewstep.bench.subjects import Subject
from fewstep.files import AtomicFiles
from fewstep.models.net.unet import count_parameters

FORMAT = 1
MEASURED = "measured"
TARGET = ("cifar10-ddpm", 4, 300.0)  # preset, batch, microseconds a step that the loop may add
FILES = ("bench.json", "bench.csv", "bench.png")


@dataclass(frozen=True)
class Row:
    """One contender in one case. Times of a run are of the whole batch, in ms; shares of a step in microseconds."""

    sampler: str
    steps: int
    batch: int
    contender: str
    status: str  # "measured", or why not
    backend: str = "torch"  # that executes the network
    dtype: str = "float32"  # that it computes in
    difference: float | None = None  # from the images of the eager loop in float32; see `parity.differences`
    ready_seconds: float | None = None  # that the first image at this batch size takes beyond those after it
    repeats: int = 0
    min_ms: float | None = None
    median_ms: float | None = None
    p90_ms: float | None = None
    ms_per_image: float | None = None  # of the median
    ms_per_step: float | None = None  # of the median, one step of the whole batch
    ratio: float | None = None  # time over the eager loop's in the same dtype and round, median; below 1 is faster
    outside_us: float | None = None  # (whole run - network) / steps, median
    loop_min_us: float | None = None  # (sampling loop - network) / steps, of the same runs
    loop_median_us: float | None = None
    loop_p90_us: float | None = None
    setup_us: float | None = None  # whole run - sampling loop, median; once a request


def measured_row(
    case: Case, contender: Contender, timings: Sequence[Timing], reference: Sequence[Timing], difference: float | None
) -> Row:
    """The row of a contender's timings, which are in the order of the reference's."""
    wall = np.array([timing.wall for timing in timings])
    network = np.array([timing.network for timing in timings])
    loop = np.array([timing.loop for timing in timings])
    low, median, high = np.percentile(1e3 * wall, (0, 50, 90)).tolist()
    row = Row(
        sampler=case.sampler,
        steps=case.steps,
        batch=case.batch,
        contender=contender.name,
        status=MEASURED,
        backend=contender.backend,
        dtype=contender.dtype,
        difference=difference,
        repeats=len(timings),
        min_ms=low,
        median_ms=median,
        p90_ms=high,
        ms_per_image=median / case.batch,
        ms_per_step=median / case.steps,
        ratio=float(np.median(wall / [timing.wall for timing in reference])),
    )
    if any(timing.calls != case.steps for timing in timings):
        return row  # a replayed graph hides its network from the clock
    row = replace(row, outside_us=float(np.median(1e6 * (wall - network) / case.steps)))
    if not loop.all():
        return row
    low, median, high = np.percentile(1e6 * (loop - network) / case.steps, (0, 50, 90)).tolist()
    setup = float(np.median(1e6 * (wall - loop)))
    return replace(row, loop_min_us=low, loop_median_us=median, loop_p90_us=high, setup_us=setup)


def missing_row(case: Case, contender: Contender, why: str) -> Row:
    """The row of a contender that takes no part."""
    return Row(case.sampler, case.steps, case.batch, contender.name, why, contender.backend, contender.dtype)


@dataclass(frozen=True)
class Report:
    """All that a run found, and on what."""

    model: Mapping[str, object]
    machine: Mapping[str, object]
    settings: Mapping[str, object]
    contenders: Sequence[Contender]
    rows: Sequence[Row]
    cold: Sequence[ColdStart]

    @classmethod
    def of(
        cls,
        subject: Subject,
        machine: Mapping[str, object],
        settings: Mapping[str, object],
        contenders: Sequence[Contender],
        rows: Sequence[Row],
        cold: Sequence[ColdStart],
    ) -> "Report":
        """The report of a subject's rows."""
        engine = subject.engine
        model = {
            "name": engine.model.name,
            "title": subject.title,
            "parameters": count_parameters(engine.module),
            "shape": list(engine.model.shape),
            "prediction": engine.model.prediction,
            "schedule": engine.model.schedule.name,
            "dtype": ", ".join(dict.fromkeys(each.dtype for each in contenders)),
        }
        return cls(model, machine, settings, contenders, rows, cold)

    @property
    def engine(self) -> Contender:
        """The first engine that was measured."""
        measured = {row.contender for row in self.rows if row.status == MEASURED}
        return next(each for each in self.contenders if each.kind == ENGINE and each.name in measured)

    @property
    def cases(self) -> list[Case]:
        """In the order in which they were asked for."""
        return list(dict.fromkeys(Case(row.sampler, row.steps, row.batch) for row in self.rows))

    def row(self, case: Case, contender: Contender) -> Row:
        """The row of a contender in a case."""
        wanted = (case.sampler, case.steps, case.batch, contender.name)
        return next(row for row in self.rows if (row.sampler, row.steps, row.batch, row.contender) == wanted)

    def target_us(self, case: Case) -> float | None:
        """What the loop may add a step in this case, or None where nothing has been promised."""
        name, batch, microseconds = TARGET
        return microseconds if (self.model["name"], case.batch) == (name, batch) else None

    def to_dict(self) -> dict[str, Any]:
        """As --json prints it and bench.json holds it."""
        return {
            "format": FORMAT,
            "model": dict(self.model),
            "machine": dict(self.machine),
            "settings": dict(self.settings),
            "contenders": {each.name: each.about for each in self.contenders},
            "rows": [asdict(row) | {"target_us": self.target_us(_case_of(row))} for row in self.rows],
            "cold": [asdict(start) for start in self.cold],
        }

    def to_csv(self) -> str:
        """The rows, each with what it was measured on."""
        text = io.StringIO()
        about = ("model", "cpu", "device", "threads", "torch", "diffusers", "fewstep")
        values = [self.model["title"], *(self.machine[name] for name in about[1:])]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*(field.name for field in fields(Row)), *about])
        for row in self.rows:
            cells = ("" if v is None else f"{v:.6g}" if isinstance(v, float) else v for v in asdict(row).values())
            writer.writerow([*cells, *values])
        return text.getvalue()

    def save(self, folder: Path, picture: bytes | None = None) -> list[Path]:
        """Write bench.json, bench.csv and, if given, bench.png: all or none. OutputError if that fails."""
        contents = [json.dumps(self.to_dict(), indent=1).encode() + b"\n", self.to_csv().encode(), picture]
        written = []
        with AtomicFiles() as files:
            for name, content in zip(FILES, contents, strict=True):
                if content is not None:
                    files.open(folder / name).write(content)
                    written.append(folder / name)
        return written


def _case_of(row: Row) -> Case:
    return Case(row.sampler, row.steps, row.batch)
