"""The page that `fewstep bench serve` prints."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.cli.page import titled_table, width, wrapped
from fewstep.cli.shared import plain

if TYPE_CHECKING:
    from fewstep.serve.load import Report

TIMES = {
    "latency_ms": "request",
    "first_preview_ms": "first preview",
    "server_queue_ms": "in the queue",
    "server_run_ms": "running",
    "sent_late_ms": "sent late",
}


def page(report: "Report", paths: Sequence[Path]) -> str:
    """What was asked, what came of it, the times, and where the files are."""
    columns, summary = width(), report.summary()
    lines = [part for line in _head(report, summary) for part in wrapped(plain(line), columns)]
    title = "ms: over the run (least..most of five parts of it); from when a request was to be sent"
    lines += titled_table(title, _times(summary), keys=1)
    if summary["by_steps"]:
        lines += titled_table("ms of a request, by the steps that it was given", _by_steps(summary), keys=1)
    for error, count in summary["errors"].items():
        lines += ["", *wrapped(plain(f"{count} failed: {error}"), columns)]
    if paths:
        lines += ["", *wrapped("written: " + ", ".join(plain(path) for path in paths), columns)]
    return "\n".join(lines) + "\n"


def _head(report: "Report", summary: Mapping[str, Any]) -> list[str]:
    traffic, about = report.traffic, report.about
    how = f"at random times, {traffic.rate:g} a second" if traffic.open else f"{traffic.concurrency} at a time"
    asked = ", ".join("the server's" if count is None else str(count) for count in traffic.steps)
    lines = [
        f"{about['model']} at {about['url']}",
        f"{summary['sent']} requests {how}, steps {asked}" + ", streamed" * traffic.stream,
        f"compared before: {report.checked} picture{'s' * (report.checked != 1)}, each drawn twice and the same",
        f"served {summary['served']}, refused {summary['rejected']}, failed {summary['failed']}",
    ]
    if summary["rejected_without_retry_after"]:
        lines.append(f"{summary['rejected_without_retry_after']} refusals did not say when to ask again")
    if summary["in_time"] is not None:
        lines.append(f"within {traffic.deadline_ms} ms: {summary['in_time']} of {summary['served']} served")
    rate = summary["images_per_second"]
    if rate is not None:
        lines.append(f"{rate[0]:.1f} images a second ({rate[1]:.1f}..{rate[2]:.1f}) over {summary['seconds']:.1f} s")
    given = ", ".join(f"{count} of {steps}" for steps, count in summary["steps_given"].items())
    if given:
        lines.append(f"steps given: {given}")
    return [*lines, *_occupancy(summary["occupancy"])]


def _occupancy(found: Mapping[str, Any]) -> list[str]:
    if found["rows_mean"] is None:
        return []
    share = "" if found["share"] is None else f", {100 * found['share']:.0f} % of {found['slots']} slots"
    return [
        f"rows of a step: {found['rows_mean']:.1f}{share}, over {found['steps']} steps; "
        f"most waiting: {found['queue_most']} ({found['looks']} looks)"
    ]


def _times(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = [_cells(name, summary[key]) for key, name in TIMES.items() if summary[key] is not None]
    return [("", "p50", "p90", "p99", "mean", "most"), *rows]


def _by_steps(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = [(*_cells(steps, found), str(found["count"])) for steps, found in summary["by_steps"].items()]
    return [("steps", "p50", "p90", "p99", "mean", "most", "requests"), *rows]


def _cells(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    spread = [_spread(*found[key]) for key in ("p50", "p90", "p99")]
    return (name, *spread, _short(found["mean"]), _short(found["most"]))


def _spread(value: float, least: float, most: float) -> str:
    return f"{_short(value)} ({_short(least)}..{_short(most)})"


def _short(milliseconds: float) -> str:
    return f"{milliseconds:.1f}" if milliseconds < 100 else f"{milliseconds:.0f}"
