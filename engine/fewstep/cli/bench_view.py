"""The page that `fewstep bench` prints."""

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.cli.shared import plain

if TYPE_CHECKING:
    from rich.table import Table

    from fewstep.bench import Report, Row
    from fewstep.bench.contenders import Case

WIDTH = 120


def page(report: "Report", paths: Sequence[Path]) -> str:
    """What was measured on what, the times, what is outside the network, cold starts, the files."""
    from rich.console import Console

    text = io.StringIO()
    console = Console(
        file=text, force_terminal=sys.stdout.isatty() or None, width=WIDTH, highlight=False, markup=False, emoji=False
    )
    console.print(_head(report))
    tables = {
        "ms per image: median (least..90th percentile)": _times(report),
        "us a step outside the network's calls, in the same runs; the engine's loop apart from its set-up": _outside(
            report
        ),
        "a new process: import, the first image in one step, most memory resident": _cold(report),
    }
    for title, table in tables.items():
        if table.row_count:
            console.print(f"\n{title}", style="bold")
            console.print(table)
    for contender, why in _missing(report).items():
        console.print(f"\n{contender}: {plain(why)}")
    if paths:
        console.print("\nwritten: " + ", ".join(plain(path) for path in paths))
    return text.getvalue()


def _head(report: "Report") -> str:
    machine, model, settings = report.machine, report.model, report.settings
    shape = "x".join(str(extent) for extent in model["shape"])  # type: ignore[attr-defined]
    lines = [
        f"{plain(model['title'])}",
        f"{model['parameters'] / 1e6:.1f} M parameters, {shape}, {model['dtype']}, {model['prediction']} prediction",  # type: ignore[operator]
        f"{plain(machine['cpu'])} ({machine['instructions']}), {machine['cores']} cores, {machine['threads']} threads, "
        f"device {plain(machine['device'])}, load {machine['load']} before the run",
        f"fewstep {machine['fewstep']}, torch {machine['torch']}, diffusers {machine['diffusers']}, "
        f"python {machine['python']}, {machine['system']}",
        f"parity: {_parity(report)}",
        f"{settings['repeats']} rounds after a warm-up; the contenders take turns, in a new order each round",
    ]
    return "\n".join(lines)


def _parity(report: "Report") -> str:
    found: dict[str, float] = {}
    for row in report.rows:
        if row.difference is not None:
            found[row.contender] = max(found.get(row.contender, 0.0), row.difference)
    differences = ", ".join(f"{name} {value:.1e}" for name, value in found.items())
    return (
        f"at most {differences} of the largest value from the eager loop (allowed {report.settings['tolerance']:.0e})"
    )


def _times(report: "Report") -> "Table":
    from rich.table import Table

    from fewstep.bench.contenders import BARE, CONTENDERS, DIFFUSERS, EAGER, ENGINE

    table = Table(box=None)
    for name in ("sampler", "batch", "steps"):
        table.add_column(name)
    for name in CONTENDERS:
        table.add_column(name, justify="right")
    table.add_column("engine / eager", justify="right")
    table.add_column("engine / diffusers", justify="right")
    for case in report.cases:
        rows = {name: report.row(case, name) for name in (ENGINE, EAGER, DIFFUSERS, BARE)}
        ratio, other = rows[ENGINE].ratio, rows[DIFFUSERS].ratio
        table.add_row(
            *_case(case),
            *(_time(row) for row in rows.values()),
            _number(ratio, ".3f"),
            _number(ratio / other if ratio and other else None, ".3f"),
        )
    return table


def _outside(report: "Report") -> "Table":
    from rich.table import Table

    from fewstep.bench.contenders import DIFFUSERS, EAGER, ENGINE

    table = Table(box=None)
    for name in ("sampler", "batch", "steps"):
        table.add_column(name)
    for name in ("engine's loop", "target", "", "set-up, us a request", "engine", "eager", "diffusers"):
        table.add_column(name, justify="right")
    for case in report.cases:
        engine, target = report.row(case, ENGINE), report.target_us(case)
        loop = engine.loop_median_us
        shown = "" if loop is None else f"{loop:.0f} ({engine.loop_min_us:.0f}..{engine.loop_p90_us:.0f})"
        met = "" if target is None or loop is None else "met" if loop <= target else "MISSED"
        table.add_row(
            *_case(case),
            shown,
            "" if target is None else f"<= {target:.0f}",
            met,
            _number(engine.setup_us, ".0f"),
            *(_number(report.row(case, name).outside_us, ".0f") for name in (ENGINE, EAGER, DIFFUSERS)),
        )
    return table


def _cold(report: "Report") -> "Table":
    from rich.table import Table

    table = Table(box=None)
    for name in ("contender", "import, s", "first image, s", "memory, MB"):
        table.add_column(name, justify="left" if name == "contender" else "right")
    for start in report.cold:
        memory = None if start.peak_bytes is None else start.peak_bytes / 1e6
        seconds = (_number(value, ".2f") for value in (start.import_seconds, start.first_image_seconds))
        table.add_row(start.contender, *seconds, _number(memory, ".0f"))
    return table


def _missing(report: "Report") -> dict[str, str]:
    """Why a contender is absent, where it is."""
    from fewstep.bench.report import MEASURED

    absent = {row.contender: row.status for row in report.rows if row.status != MEASURED}
    return absent | {row.contender: row.status for row in report.cold if row.status != MEASURED}


def _case(case: "Case") -> tuple[str, str, str]:
    return case.sampler, str(case.batch), str(case.steps)


def _time(row: "Row") -> str:
    if row.median_ms is None or row.min_ms is None or row.p90_ms is None:
        return "-"
    low, median, high = (value / row.batch for value in (row.min_ms, row.median_ms, row.p90_ms))
    return f"{_short(median)} ({_short(low)}..{_short(high)})"


def _short(milliseconds: float) -> str:
    return f"{milliseconds:.1f}" if milliseconds < 100 else f"{milliseconds:.0f}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
