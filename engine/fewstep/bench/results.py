"""What was found: readings of one run, rows over all runs, and the report that holds them."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.bench.clock import Timing
from fewstep.bench.contenders import ENGINE, Case, Contender
from fewstep.bench.floor import columns as floor_columns
from fewstep.bench.statistics import nearest_rank, ratio_interval
from fewstep.errors import FewstepError
from fewstep.files import AtomicFiles

FORMAT = 2
MEASURED = "measured"
TARGET = ("cifar10-ddpm", 4, 300.0)  # network, batch, microseconds a step that the loop may add
FILES = ("bench.json", "bench.csv", "bench.md", "bench.html")


@dataclass(frozen=True)
class Reading:
    """One contender in one case, in one run: a process of its own or this one.

    Attributes:
        status: "measured", or why there is no time.
        timings: of each round, the reference's own in the same rounds beside them; none where it was not timed.
        agreement: how far its images are from the reference's: difference, allowed, max_abs, psnr and bitwise.
        figures: what else was found, by the name of its column: ready_seconds, graph_bytes, ...; and what columns
            stand on: "flops" and "bytes" of a call, "ceiling" (see `floor.columns`).
    """

    model: str
    case: Case
    contender: Contender
    status: str
    timings: Sequence[Timing] = ()
    reference: Sequence[Timing] = ()
    agreement: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    watched: Sequence[Timing] = ()

    def to_dict(self) -> dict[str, Any]:
        """As a cell's file holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Reading":
        """What `to_dict` gave."""
        made: dict[str, Any] = dict(data) | {"case": Case(**data["case"]), "contender": Contender(**data["contender"])}
        rounds = ("timings", "reference", "watched")
        return cls(**made | {name: [Timing(**each) for each in data.get(name, ())] for name in rounds})


@dataclass(frozen=True)
class Row:
    """One contender in one case, over all runs. Times are of a whole batch, in ms; shares of a step in microseconds."""

    model: str
    sampler: str
    steps: int
    batch: int
    contender: str
    status: str  # "measured", or why not
    kind: str = ENGINE
    backend: str = "torch"  # that executes the network
    dtype: str = "float32"  # that it computes in
    size: int | None = None  # pixels or latents a side, where the network was opened at another than its own
    difference: float | None = None  # from the images of the reference in float32; see `parity.Agreement`
    allowed: float | None = None
    max_abs: float | None = None
    psnr: float | None = None  # dB; None for equal images, whose max_abs is 0: JSON has no infinity
    bitwise: bool | None = None  # the same bits for the same request, where that is promised
    load_s: float | None = None  # cold start, in a process of its own: weights into memory
    compile_s: float | None = None  # to compile or convert
    capture_s: float | None = None  # to capture a graph
    ready_seconds: float | None = None  # that the first image at this batch size takes beyond those after it
    runs: int = 0  # independent processes
    repeats: int = 0  # timed samples, of all runs
    min_ms: float | None = None
    median_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None  # by nearest rank: below 100 samples the largest
    max_ms: float | None = None
    mean_ms: float | None = None
    ms_per_image: float | None = None  # of the median
    ms_per_step: float | None = None  # of the median, one step of the whole batch
    images_per_s: float | None = None  # of the median
    calls: int | None = None  # of the network in a run, as seen from the host: a replayed graph makes none
    ratio: float | None = None  # time over the reference's in the same dtype and round; below 1 is faster
    ratio_low: float | None = None  # the 95 % interval of it: see `statistics.ratio_interval`
    ratio_high: float | None = None
    outside_us: float | None = None  # (whole run - network) / steps, median
    loop_min_us: float | None = None  # (sampling loop - network) / steps, of the same runs
    loop_median_us: float | None = None
    loop_p90_us: float | None = None
    setup_us: float | None = None  # whole run - sampling loop, median; once a request
    host_us_request: float | None = None  # on a GPU: until a run has returned, without waiting for the device, median
    host_us_step: float | None = None  # the same over the steps
    graph_bytes: int | None = None  # of the pool of captured graphs
    peak_bytes: int | None = None  # the most memory a process of its own had: of the GPU, or on a CPU of the process
    run_bytes: int | None = None  # of the GPU, that a run takes for a while beyond what was allocated before it
    tflops: float | None = None  # 1e12 operations a second of the network's calls, at the median
    tflops_share: float | None = None  # of the ceiling that was measured in the same run
    gb_s: float | None = None  # 1e9 bytes a second, of the fewest that the calls can move
    gb_s_share: float | None = None
    floor_ms: float | None = None  # the least a run can take at those ceilings
    of_floor: float | None = None  # median over floor
    seconds: Sequence[Sequence[float]] = ()  # every sample, by run


def rows_of(readings: Sequence[Sequence[Reading]]) -> list[Row]:
    """A row for each contender and case, from the readings of each run, in the order of the first run that has it."""
    found: dict[tuple[str, Case, Contender], list[Reading]] = {}
    for run in readings:
        for reading in run:
            found.setdefault((reading.model, reading.case, reading.contender), []).append(reading)
    return [row_of(each) for each in found.values()]


def row_of(readings: Sequence[Reading]) -> Row:
    """The row of one contender in one case, from its reading in each run."""
    first = readings[0]
    measured = [each for each in readings if each.status == MEASURED]
    wrong = next((each.status for each in readings if each.status.startswith("wrong")), "")
    columns: dict[str, Any] = {
        "model": first.model,
        **asdict(first.case),
        **asdict(first.contender),
        "contender": first.contender.name,
        "status": wrong or (MEASURED if measured else first.status),
    }
    columns |= _worst([dict(each.agreement) | dict(each.figures) for each in readings])
    if wrong or not measured:
        return Row(**columns)
    return Row(**columns | _times(first.case, measured))


def _worst(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What each run says of itself, as columns: the worst of all runs.

    That is the largest number, such as the seconds to make ready of the run that found the caches empty; but of psnr
    the least, and of bitwise whether it held in all.
    """
    found: dict[str, list[Any]] = {}
    for run in runs:
        for name, value in run.items():
            if name in COLUMNS and value is not None:
                found.setdefault(name, []).append(value)
    return {name: (min if name in ("psnr", "bitwise") else max)(values) for name, values in found.items()}


def _times(case: Case, measured: Sequence[Reading]) -> dict[str, Any]:
    seconds = [[timing.wall for timing in each.timings] for each in measured]
    every = [1e3 * wall for run in seconds for wall in run]
    low, median, p90, most = np.percentile(every, (0, 50, 90, 100)).tolist()
    pairs = [zip(each.timings, each.reference, strict=True) for each in measured]
    ratio, ratio_low, ratio_high = ratio_interval([[mine.wall / other.wall for mine, other in each] for each in pairs])
    found = {
        "runs": len(measured),
        "repeats": len(every),
        "min_ms": low,
        "median_ms": median,
        "p90_ms": p90,
        "p99_ms": nearest_rank(every, 99),
        "max_ms": most,
        "mean_ms": float(np.mean(every)),
        "ms_per_image": median / case.batch,
        "ms_per_step": median / case.steps,
        "images_per_s": 1e3 * case.batch / median,
        "calls": (measured[0].watched or measured[0].timings)[0].calls,
        "ratio": ratio,
        "ratio_low": ratio_low,
        "ratio_high": ratio_high,
        "seconds": seconds,
    }
    floors = [_floor(case, each) for each in measured]
    found |= {name: float(np.median([run[name] for run in floors])) for name in floors[0]}
    host = [1e6 * timing.host for each in measured for timing in each.timings if timing.host is not None]
    if host:
        found |= {"host_us_request": float(np.median(host)), "host_us_step": float(np.median(host)) / case.steps}
    return found | _shares(case, [timing for each in measured for timing in each.watched or each.timings])


def _floor(case: Case, reading: Reading) -> dict[str, float]:
    """Of one run: each is held against the ceilings of its own process."""
    return floor_columns(case, float(np.median([timing.wall for timing in reading.timings])), reading.figures)


def _shares(case: Case, timings: Sequence[Timing]) -> dict[str, float]:
    if any(timing.calls != case.steps for timing in timings):
        return {}  # a replayed graph hides its network from the clock
    wall, network, loop = (
        np.array([getattr(timing, name) for timing in timings]) for name in ("wall", "network", "loop")
    )
    found = {"outside_us": float(np.median(1e6 * (wall - network) / case.steps))}
    if not loop.all():
        return found
    low, median, high = np.percentile(1e6 * (loop - network) / case.steps, (0, 50, 90)).tolist()
    setup = float(np.median(1e6 * (wall - loop)))
    return found | {"loop_min_us": low, "loop_median_us": median, "loop_p90_us": high, "setup_us": setup}


def finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with None for what JSON has no number for: infinities and NaN."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }


COLUMNS = tuple(each.name for each in fields(Row))


@dataclass(frozen=True)
class Report:
    """All that was found, and on what.

    Attributes:
        machine: as `describe_machine`.
        settings: what was asked for.
        models: by name: title, weights, parameters, shape, prediction, schedule, flops and bytes of a call.
        contenders: all that might have taken part, in the order of a table.
        rows: of every cell.
        cold: cold starts.
        ceilings: by dtype, the rates that were measured beside the rows.
        advice: one sentence: what to switch on, and what it gains.
        when: the day, as 2026-12-31.
    """

    machine: Mapping[str, object]
    settings: Mapping[str, object]
    models: Mapping[str, Mapping[str, object]]
    contenders: Sequence[Contender]
    rows: Sequence[Row]
    cold: Sequence[Mapping[str, object]] = ()
    ceilings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    advice: str = ""
    when: str = field(default_factory=lambda: date.today().isoformat())

    @property
    def engine(self) -> Contender:
        """The first engine that was measured; the first of all where none was."""
        measured = {row.contender for row in self.rows if row.status == MEASURED}
        engines = [each for each in self.contenders if each.kind == ENGINE]
        return next((each for each in engines if each.name in measured), engines[0])

    @property
    def cells(self) -> list[tuple[str, Case]]:
        """Networks and cases, in the order in which they were asked for."""
        return list(dict.fromkeys((row.model, Case(row.sampler, row.steps, row.batch)) for row in self.rows))

    @property
    def cases(self) -> list[Case]:
        """Those of the first network."""
        return [case for model, case in self.cells if model == self.rows[0].model]

    def row(self, case: Case, contender: Contender, model: str | None = None) -> Row:
        """The row of a contender in a case; of the first network unless another is named."""
        wanted = (self.rows[0].model if model is None else model, case.sampler, case.steps, case.batch, contender.name)
        return next(row for row in self.rows if (row.model, row.sampler, row.steps, row.batch, row.contender) == wanted)

    def target_us(self, case: Case, model: str | None = None) -> float | None:
        """What the loop may add a step in this case, or None where nothing has been promised."""
        name, batch, microseconds = TARGET
        return microseconds if (self.rows[0].model if model is None else model, case.batch) == (name, batch) else None

    def to_dict(self) -> dict[str, Any]:
        """As --json prints it and bench.json holds it."""
        return {
            "format": FORMAT,
            "date": self.when,
            "machine": dict(self.machine),
            "settings": dict(self.settings),
            "models": {name: dict(about) for name, about in self.models.items()},
            "ceilings": {dtype: dict(rates) for dtype, rates in self.ceilings.items()},
            "contenders": {each.name: {**asdict(each), "about": each.about} for each in self.contenders},
            "rows": [asdict(row) | {"target_us": self.target_us(case_of(row), row.model)} for row in self.rows],
            "cold": [dict(start) for start in self.cold],
            "advice": self.advice,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Report":
        """What `to_dict` gave."""
        contenders = [
            Contender(**{name: about[name] for name in ("kind", "backend", "dtype")})
            for about in data["contenders"].values()
        ]
        rows = [Row(**{name: value for name, value in row.items() if name in COLUMNS}) for row in data["rows"]]
        about = {name: data[name] for name in ("machine", "settings", "models", "cold", "ceilings", "advice")}
        return cls(contenders=contenders, rows=rows, when=data["date"], **about)

    @classmethod
    def load(cls, path: Path) -> "Report":
        """A bench.json; FewstepError for one of another format."""
        data = json.loads(path.read_text())
        found = data.get("format") if isinstance(data, dict) else None
        if found != FORMAT:
            raise FewstepError(f"{path}: is a benchmark of format {found}, and {FORMAT} is read: measure it again")
        return cls.from_dict(data)

    def to_csv(self) -> str:
        """The rows, each with what it was measured on; without the single samples, which bench.json has."""
        text = io.StringIO()
        about = ("cpu", "device", "threads", "torch", "diffusers", "fewstep")
        values = [self.machine[name] for name in about]
        names = [name for name in COLUMNS if name != "seconds"]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*names, "title", *about])
        for row in self.rows:
            cells = (getattr(row, name) for name in names)
            shown = ("" if v is None else f"{v:.6g}" if isinstance(v, float) else v for v in cells)
            writer.writerow([*shown, self.models[row.model]["title"], *values])
        return text.getvalue()

    def save(self, folder: Path, rendered: Mapping[str, bytes]) -> list[Path]:
        """Write bench.json, bench.csv and what `reports.rendered` gives, by name: all or none. OutputError if not."""
        record = json.dumps(self.to_dict(), indent=1, allow_nan=False).encode() + b"\n"
        contents = {"bench.json": record, "bench.csv": self.to_csv().encode(), **rendered}
        with AtomicFiles() as files:
            for name, content in contents.items():
                files.open(folder / name).write(content)
        return [folder / name for name in contents]


def case_of(row: Row) -> Case:
    """The case of a row."""
    return Case(row.sampler, row.steps, row.batch)
