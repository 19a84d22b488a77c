"""Milliseconds an image against steps, a panel for each batch size."""

from typing import Any

from fewstep.bench.reports.facts import Network
from fewstep.bench.reports.plots.style import dodged, figure, legend_right, line, plain_log, shortened, steps_axis, tall
from fewstep.bench.results import Row

BELOW = "Median of all samples, bars from the least to the 90th percentile. Dashed: bfloat16."
PANELS = 3


def latency(network: Network) -> Any:
    """A figure, or None where there is one number of steps only; the first sampler's cases."""
    sampler = network.cases[0].sampler
    cases = [case for case in network.cases if case.sampler == sampler]
    steps = sorted({case.steps for case in cases})
    batches = sorted({case.batch for case in cases})
    if len(steps) < 2 or not network.contenders:
        return None
    if len(batches) > PANELS:
        batches = [batches[0], batches[len(batches) // 2], batches[-1]]
    height = tall(3.5, len(network.contenders))
    title = f"{shortened(network.name)}: latency against steps, {sampler}"
    made = figure(2.4 + 2.9 * max(2, len(batches)), height, title, BELOW)
    panels = made.subplots(1, len(batches), sharey=True, squeeze=False)[0]
    handles: dict[str, Any] = {}
    for axes, batch in zip(panels, batches, strict=True):
        for place, contender in enumerate(network.contenders):
            found = [network.measured(case, contender) for case in cases if case.batch == batch]
            rows = sorted((row for row in found if row is not None), key=lambda row: row.steps)
            if rows:
                drawn = _line(axes, rows, place, len(network.contenders), line(contender))
                handles.setdefault(contender.name, drawn)
        axes.set_yscale("log")
        plain_log(axes.yaxis)
        steps_axis(axes, steps, "steps")
        axes.set_title(f"batch {batch}")
    panels[0].set_ylabel("ms an image")
    legend_right(made, list(handles.values()), list(handles))
    return made


def _line(axes: Any, rows: list[Row], place: int, count: int, style: dict[str, Any]) -> Any:
    x = [dodged(row.steps, place, count) for row in rows]
    y = [row.ms_per_image or 0.0 for row in rows]
    low = [max(0.0, at - (row.min_ms or 0.0) / row.batch) for row, at in zip(rows, y, strict=True)]
    high = [max(0.0, (row.p90_ms or 0.0) / row.batch - at) for row, at in zip(rows, y, strict=True)]
    return axes.errorbar(x, y, yerr=[low, high], **style)
