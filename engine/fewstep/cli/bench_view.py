"""The page that `fewstep bench` prints."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.cli.page import titled_table, width, wrapped
from fewstep.cli.shared import plain

if TYPE_CHECKING:
    from fewstep.bench import Report, Row
    from fewstep.bench.contenders import Case

Table = list[tuple[str, ...]]  # lines of cells, the headings first


def page(report: "Report", paths: Sequence[Path]) -> str:
    """What was measured on what, the times, what is outside the network, cold starts, the files."""
    columns = width()
    lines = [part for line in _head(report) for part in wrapped(line, columns)]
    lines += titled_table("ms per image: median (least..90th percentile)", _times(report), keys=3)
    title = "us a step outside the network's calls, in the same runs; the engine's loop apart from its set-up"
    lines += titled_table(title, _outside(report), keys=3)
    if report.cold:
        title = "a new process: import, the first image in one step, most memory resident"
        lines += titled_table(title, _cold(report), keys=1)
    for contender, why in _missing(report).items():
        lines += ["", *wrapped(f"{contender}: {plain(why)}", columns)]
    if paths:
        lines += ["", *wrapped("written: " + ", ".join(plain(path) for path in paths), columns)]
    return "\n".join(lines) + "\n"


def _head(report: "Report") -> list[str]:
    machine, model, settings = report.machine, report.model, report.settings
    shape = "x".join(str(extent) for extent in model["shape"])  # type: ignore[attr-defined]
    return [
        f"{plain(model['title'])}",
        f"{model['parameters'] / 1e6:.1f} M parameters, {shape}, {model['dtype']}, {model['prediction']} prediction",  # type: ignore[operator]
        f"{plain(machine['cpu'])} ({machine['instructions']}), {machine['cores']} cores, {machine['threads']} threads, "
        f"device {plain(machine['device'])}, load {machine['load']} before the run",
        f"fewstep {machine['fewstep']}, torch {machine['torch']}, diffusers {machine['diffusers']}, "
        f"python {machine['python']}, {machine['system']}",
        f"parity: {_parity(report)}",
        f"{settings['repeats']} round{'s' * (settings['repeats'] != 1)} after a warm-up; "
        "the contenders take turns, in a new order each round",
    ]


def _parity(report: "Report") -> str:
    found: dict[str, float] = {}
    for row in report.rows:
        if row.difference is not None:
            found[row.contender] = max(found.get(row.contender, 0.0), row.difference)
    differences = ", ".join(f"{name} {value:.1e}" for name, value in found.items())
    return (
        f"at most {differences} of the largest value from the eager loop (allowed {report.settings['tolerance']:.0e})"
    )


def _times(report: "Report") -> Table:
    from fewstep.bench.contenders import BARE, CONTENDERS, DIFFUSERS, EAGER, ENGINE

    lines: Table = [("sampler", "batch", "steps", *CONTENDERS, "engine / eager", "engine / diffusers")]
    for case in report.cases:
        rows = {name: report.row(case, name) for name in (ENGINE, EAGER, DIFFUSERS, BARE)}
        ratio, other = rows[ENGINE].ratio, rows[DIFFUSERS].ratio
        ratios = (_number(ratio, ".3f"), _number(ratio / other if ratio and other else None, ".3f"))
        lines.append((*_case(case), *(_time(row) for row in rows.values()), *ratios))
    return lines


def _outside(report: "Report") -> Table:
    from fewstep.bench.contenders import DIFFUSERS, EAGER, ENGINE

    lines: Table = [
        ("sampler", "batch", "steps", "engine's loop", "target", "", "set-up, us a request", ENGINE, EAGER, DIFFUSERS)
    ]
    for case in report.cases:
        engine, target = report.row(case, ENGINE), report.target_us(case)
        loop = engine.loop_median_us
        shown = "" if loop is None else f"{loop:.0f} ({engine.loop_min_us:.0f}..{engine.loop_p90_us:.0f})"
        met = "" if target is None or loop is None else "met" if loop <= target else "MISSED"
        outside = (_number(report.row(case, name).outside_us, ".0f") for name in (ENGINE, EAGER, DIFFUSERS))
        promised = "" if target is None else f"<= {target:.0f}"
        lines.append((*_case(case), shown, promised, met, _number(engine.setup_us, ".0f"), *outside))
    return lines


def _cold(report: "Report") -> Table:
    lines: Table = [("contender", "import, s", "first image, s", "memory, MB")]
    for start in report.cold:
        memory = None if start.peak_bytes is None else start.peak_bytes / 1e6
        seconds = (_number(value, ".2f") for value in (start.import_seconds, start.first_image_seconds))
        lines.append((start.contender, *seconds, _number(memory, ".0f")))
    return lines


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
