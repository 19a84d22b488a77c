"""Images a second against the batch size, and what is won over one image at a time."""

from typing import Any

from fewstep.bench.reports.facts import Network
from fewstep.bench.reports.plots.style import (
    SOFT,
    dodged,
    figure,
    legend_right,
    line,
    plain_log,
    shortened,
    steps_axis,
    tall,
)

BELOW = "Median of all samples, bars from the 90th percentile of the time to the least. Dashed: bfloat16."


def scaling(network: Network) -> Any:
    """A figure, or None where there is one batch size only; the most steps of the first sampler."""
    sampler = network.cases[0].sampler
    most = max(case.steps for case in network.cases if case.sampler == sampler)
    cases = [case for case in network.cases if (case.sampler, case.steps) == (sampler, most)]
    batches = sorted({case.batch for case in cases})
    if len(batches) < 2 or not network.contenders:
        return None
    title = f"{shortened(network.name)}: batch scaling, {sampler}, {most} step{'s' * (most != 1)}"
    made = figure(8.2, tall(3.5, len(network.contenders)), title, BELOW)
    speeds, gains = made.subplots(1, 2)
    handles: dict[str, Any] = {}
    for place, contender in enumerate(network.contenders):
        found = [network.measured(case, contender) for case in cases]
        rows = sorted((row for row in found if row is not None), key=lambda row: row.batch)
        if len(rows) < 2:
            continue
        x = [dodged(row.batch, place, len(network.contenders)) for row in rows]
        y = [row.images_per_s or 0.0 for row in rows]
        low = [max(0.0, at - 1e3 * row.batch / (row.p90_ms or 1.0)) for row, at in zip(rows, y, strict=True)]
        high = [max(0.0, 1e3 * row.batch / (row.min_ms or 1.0) - at) for row, at in zip(rows, y, strict=True)]
        handles[contender.name] = speeds.errorbar(x, y, yerr=[low, high], **line(contender))
        gains.errorbar(x, [each / y[0] for each in y], **line(contender))
    if not handles:
        return None
    speeds.set_yscale("log")
    plain_log(speeds.yaxis)
    speeds.set(ylabel="images a second")
    gains.set(ylabel="times the images a second\nof the smallest batch")
    gains.axhline(1, color=SOFT, linewidth=0.8, linestyle=":")
    for axes in (speeds, gains):
        steps_axis(axes, batches, "batch size")
    legend_right(made, list(handles.values()), list(handles))
    return made
