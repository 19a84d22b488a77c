"""The page that `fewstep bench` prints."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from fewstep.cli.page import titled_table, width, wrapped
from fewstep.cli.shared import plain

if TYPE_CHECKING:
    from fewstep.bench import Report, Row
    from fewstep.bench.contenders import Case, Contender

Table = list[tuple[str, ...]]  # lines of cells, the headings first


def page(report: "Report", paths: Sequence[Path]) -> str:
    """What was measured on what, the times, what is outside the network, cold starts, the files."""
    columns = width()
    lines = [part for line in _head(report) for part in wrapped(line, columns)]
    lines += titled_table("ms per image: median (least..90th percentile)", _times(report), keys=3)
    title = "the engine by backend: seconds to make a batch size ready, and how many times as fast as the others it is"
    lines += titled_table(title, _backends(report), keys=2)
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
    machine, settings = report.machine, report.settings
    model = next(iter(report.models.values()))
    shape = "x".join(str(extent) for extent in model["shape"])  # type: ignore[attr-defined]
    return [
        f"{plain(model['title'])}",
        f"{model['parameters'] / 1e6:.1f} M parameters, {shape}, {', '.join(_dtypes(report))}, "  # type: ignore[operator]
        f"{model['prediction']} prediction",
        f"{plain(machine['cpu'])} ({machine['instructions']}), {machine['cores']} cores, {machine['threads']} threads, "
        f"device {plain(machine['device'])}, load {machine['load']} before the run",
        f"fewstep {machine['fewstep']}, torch {machine['torch']}, diffusers {machine['diffusers']}, "
        f"python {machine['python']}, {machine['system']}",
        f"parity: {_parity(report)}",
        f"{settings['repeats']} round{'s' * (settings['repeats'] != 1)} after a warm-up; "
        "the contenders take turns, in a new order each round",
    ]


def _parity(report: "Report") -> str:
    from fewstep.bench.parity import MEASURES

    found: dict[str, float] = {}
    for row in report.rows:
        if row.difference is not None:
            found[row.contender] = max(found.get(row.contender, 0.0), row.difference)
    allowed = [
        f"{report.settings['tolerances'][dtype]:.0e} {MEASURES[dtype]} in {dtype}"  # type: ignore[index]
        for dtype in _dtypes(report)
    ]
    differences = ", ".join(f"{name} {value:.1e}" for name, value in found.items())
    return f"at most {differences} from the images of the eager reference in float32 (allowed: {', '.join(allowed)})"


def _dtypes(report: "Report") -> list[str]:
    return list(dict.fromkeys(each.dtype for each in report.contenders))


def _times(report: "Report") -> Table:
    from fewstep.bench.contenders import DIFFUSERS, Contender

    engine = report.engine
    diffusers = Contender(DIFFUSERS, dtype=engine.dtype)
    ratios = [f"{engine.name} / eager", f"{engine.name} / diffusers"]
    shown_contenders = _measured(report)
    lines: Table = [("sampler", "batch", "steps", *(each.name for each in shown_contenders), *ratios)]
    for case in report.cases:
        ratio, other = report.row(case, engine).ratio, report.row(case, diffusers).ratio
        shown = (_number(ratio, ".3f"), _number(ratio / other if ratio and other else None, ".3f"))
        lines.append((*_case(case), *(_time(report.row(case, each)) for each in shown_contenders), *shown))
    return lines


def _backends(report: "Report") -> Table:
    """A line for each engine and batch size; what it is ahead by is the median over samplers and steps."""
    from fewstep.bench.contenders import DIFFUSERS, ENGINE, Contender

    lines: Table = [("contender", "batch", "ready, s", "x eager", "x diffusers", "largest difference")]
    for contender in report.contenders:
        diffusers = Contender(DIFFUSERS, dtype=contender.dtype)
        for batch in dict.fromkeys(case.batch for case in report.cases):
            cases = [case for case in report.cases if case.batch == batch]
            rows = [row for case in cases if (row := report.row(case, contender)).ratio]
            if contender.kind != ENGINE or not rows:
                continue
            others = [report.row(case, diffusers).ratio for case in cases]
            ratios = [row.ratio for row in rows if row.ratio]
            against = [other / ratio for other, ratio in zip(others, ratios, strict=True) if other]
            ready = _number(rows[0].ready_seconds, ".1f")
            ahead = (f"{median(1 / ratio for ratio in ratios):.2f}", f"{median(against):.2f}" if against else "-")
            worst = max(row.difference or 0.0 for row in rows)
            lines.append((contender.name, str(batch), ready, *ahead, f"{worst:.1e}"))
    return lines


def _outside(report: "Report") -> Table:
    from fewstep.bench.contenders import BARE

    others = [each for each in _measured(report) if each.kind != BARE]
    names = [each.name for each in others]
    lines: Table = [("sampler", "batch", "steps", "engine's loop", "target", "", "set-up, us a request", *names)]
    for case in report.cases:
        engine, target = report.row(case, report.engine), report.target_us(case)
        loop = engine.loop_median_us
        shown = "" if loop is None else f"{loop:.0f} ({engine.loop_min_us:.0f}..{engine.loop_p90_us:.0f})"
        met = "" if target is None or loop is None else "met" if loop <= target else "MISSED"
        outside = (_number(report.row(case, each).outside_us, ".0f") for each in others)
        promised = "" if target is None else f"<= {target:.0f}"
        lines.append((*_case(case), shown, promised, met, _number(engine.setup_us, ".0f"), *outside))
    return lines


def _cold(report: "Report") -> Table:
    lines: Table = [("contender", "import, s", "first image, s", "memory, MB")]
    for start in report.cold:
        peak: Any = start["peak_bytes"]
        memory = None if peak is None else peak / 1e6
        told: Any = (start["import_seconds"], start["first_image_seconds"])
        seconds = (_number(value, ".2f") for value in told)
        lines.append((str(start["contender"]), *seconds, _number(memory, ".0f")))
    return lines


def _measured(report: "Report") -> "list[Contender]":
    from fewstep.bench.results import MEASURED

    names = {row.contender for row in report.rows if row.status == MEASURED}
    return [each for each in report.contenders if each.name in names]


def _missing(report: "Report") -> dict[str, str]:
    """Why a contender is absent, where it is."""
    from fewstep.bench.results import MEASURED

    absent = {row.contender: row.status for row in report.rows if row.status != MEASURED}
    return absent | {str(row["contender"]): str(row["status"]) for row in report.cold if row["status"] != MEASURED}


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
