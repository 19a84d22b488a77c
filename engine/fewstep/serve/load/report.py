"""What a load has found: throughput, latencies with their spread, what was refused and what failed."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.files import AtomicFiles
from fewstep.serve.load.client import Outcome
from fewstep.serve.load.traffic import Traffic

FORMAT = 1
FILES = ("serve.json", "serve.png")
PARTS = 5  # of a run, one after the other, each with percentiles of its own
PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Report:
    """A load, and what came of it.

    Attributes:
        about: the server and its model.
        traffic: the load.
        checked: numbers of steps whose picture was drawn twice and was the same, before the load.
        outcomes: of each request, in the order of sending.
        seconds: from the start to the end of the last.
        metrics: what the server's /metrics say of the run; see `Watch.found`.
    """

    about: Mapping[str, Any]
    traffic: Traffic
    checked: int
    outcomes: Sequence[Outcome]
    seconds: float
    metrics: Mapping[str, Any]

    @property
    def served(self) -> list[Outcome]:
        """Those that gave a picture."""
        return [outcome for outcome in self.outcomes if outcome.error is None]

    @property
    def rejected(self) -> list[Outcome]:
        """Those for which there was no room."""
        return [outcome for outcome in self.outcomes if outcome.rejected]

    @property
    def failed(self) -> list[Outcome]:
        """Those that were let in, or not answered, and gave no picture."""
        return [outcome for outcome in self.outcomes if outcome.error is not None and not outcome.rejected]

    @property
    def in_time(self) -> int | None:
        """How many pictures came within the deadline, as it is seen from here; None without one."""
        if self.traffic.deadline_ms is None:
            return None
        return sum(1e3 * (outcome.ended - outcome.sent) <= self.traffic.deadline_ms for outcome in self.served)

    def summary(self) -> dict[str, Any]:
        """The numbers of a run. Latencies are in ms, from when a request was to be sent."""
        latency = [1e3 * each.latency for each in self.served]
        previews = [1e3 * (each.preview - each.intended) for each in self.served if each.preview is not None]
        return {
            "sent": len(self.outcomes),
            "served": len(self.served),
            "rejected": len(self.rejected),
            "rejected_without_retry_after": sum(not each.retry_after for each in self.rejected),
            "failed": len(self.failed),
            "in_time": self.in_time,
            "seconds": self.seconds,
            "images_per_second": _spread_rate([each.ended for each in self.served], self.seconds),
            "latency_ms": percentiles(latency),
            "first_preview_ms": percentiles(previews),
            "server_queue_ms": percentiles(_said(self.served, "queue_ms")),
            "server_run_ms": percentiles(_said(self.served, "run_ms")),
            "sent_late_ms": percentiles([1e3 * (each.sent - each.intended) for each in self.outcomes]),
            "steps_given": _counts(each.steps for each in self.served),
            "by_steps": self._by_steps(),
            "statuses": _counts(each.status for each in self.outcomes),
            "errors": dict(Counter(str(each.error) for each in self.failed).most_common(10)),
            "occupancy": self._occupancy(),
        }

    def to_dict(self) -> dict[str, Any]:
        """As --json prints it and serve.json holds it."""
        return {
            "format": FORMAT,
            "server": dict(self.about),
            "traffic": asdict(self.traffic),
            "compared": self.checked,
            "summary": self.summary(),
        }

    def save(self, folder: Path, picture: bytes | None = None) -> list[Path]:
        """Write serve.json and, if given, serve.png: all or none. OutputError if that fails."""
        contents = [json.dumps(self.to_dict(), indent=1).encode() + b"\n", picture]
        written = []
        with AtomicFiles() as files:
            for name, content in zip(FILES, contents, strict=True):
                if content is not None:
                    files.open(folder / name).write(content)
                    written.append(folder / name)
        return written

    def _by_steps(self) -> dict[str, Any]:
        """The latencies of each number of steps that was given."""
        given = sorted({each.steps for each in self.served if each.steps is not None})
        if len(given) < 2:
            return {}
        return {
            str(count): percentiles([1e3 * each.latency for each in self.served if each.steps == count])
            for count in given
        }

    def _occupancy(self) -> dict[str, Any]:
        slots, rows = self.about.get("slots"), self.metrics.get("rows_mean")
        return {**self.metrics, "slots": slots, "share": rows / slots if rows is not None and slots else None}


def percentiles(values: Sequence[float]) -> dict[str, Any] | None:
    """p50, p90 and p99 of values in the order of time, each with the least and the most of it in five parts of the run.

    None without a value. A part of less than a hundred values has no p99 to speak of: its most stands for it.
    """
    if not values:
        return None
    parts = [part for part in np.array_split(np.asarray(values, np.float64), PARTS) if len(part)]
    found: dict[str, Any] = {"count": len(values), "mean": float(np.mean(values)), "most": float(np.max(values))}
    for percent in PERCENTILES:
        each = [float(np.percentile(part, percent)) for part in parts]
        found[f"p{percent}"] = [float(np.percentile(values, percent)), min(each), max(each)]
    return found


def _spread_rate(ends: Sequence[float], seconds: float) -> list[float] | None:
    """Pictures a second over the run, and the least and the most of five parts of equal time."""
    if not ends or seconds <= 0:
        return None
    counts, _ = np.histogram(ends, bins=PARTS, range=(0.0, seconds))
    rates = counts * PARTS / seconds
    return [len(ends) / seconds, float(rates.min()), float(rates.max())]


def _said(outcomes: Sequence[Outcome], name: str) -> list[float]:
    found = [(outcome.about or {}).get(name) for outcome in outcomes]
    return [float(value) for value in found if isinstance(value, int | float)]


def _counts(values: Any) -> dict[str, int]:
    found = Counter(value for value in values if value is not None)
    return {str(value): found[value] for value in sorted(found)}
