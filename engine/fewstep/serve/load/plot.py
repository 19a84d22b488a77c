"""A load as a picture: the latency of each request over the run, and how many took how long at most."""

import io
from typing import Any

import numpy as np

from fewstep.errors import FewstepError
from fewstep.serve.load.report import Report

INK, FAINT, BAD = "#3b3f46", "#d9dce1", "#b91c1c"
BY_STEPS = ("#2563a8", "#c2410c", "#15803d", "#7c5ba6", "#a16207", "#0f766e", "#9d174d", "#4d7c0f")


def picture(report: Report) -> bytes:
    """A PNG: on the left each request at its time, on the right the share that took so long at most, by steps given.

    Raises:
        FewstepError: without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise FewstepError("the picture of a load needs matplotlib: pip install 'fewstep[plot]'") from None

    figure = Figure(figsize=(10, 4.2), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    over_time, shares = figure.subplots(1, 2, width_ratios=[1.4, 1])
    given: list[int | None] = [*sorted({each.steps for each in report.served if each.steps is not None})] or [None]
    for place, count in enumerate(given):
        drawn = [each for each in report.served if each.steps == count]
        color = BY_STEPS[place % len(BY_STEPS)]
        label = "served" if count is None else f"{count} step{'s' * (count != 1)}"
        times = [each.intended for each in drawn]
        took = [1e3 * each.latency for each in drawn]
        over_time.plot(times, took, ".", color=color, markersize=3.5, label=label)
        if took:
            shares.step(np.sort(took), np.arange(1, len(took) + 1) / len(took), color=color, linewidth=1.4)
    for each, mark, label in ((report.rejected, "|", "refused"), (report.failed, "x", "failed")):
        if each:
            height = [1e3 * outcome.latency for outcome in each]
            over_time.plot([o.intended for o in each], height, mark, color=BAD, markersize=4, label=label)
    for axes in (over_time, shares):
        _bare(axes)
        if report.traffic.deadline_ms is not None:
            line = axes.axhline if axes is over_time else axes.axvline
            line(report.traffic.deadline_ms, color=INK, linewidth=0.9, linestyle=":")
    over_time.set_ylim(bottom=0)
    over_time.set_xlabel("seconds from the start, when a request was to be sent", color=INK, fontsize=9)
    over_time.set_ylabel("ms to its end", color=INK, fontsize=9)
    above = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 8}  # where no request is
    over_time.legend(frameon=False, fontsize=8, labelcolor=INK, **above)
    shares.set_ylim(0, 1.02)
    shares.set_xlabel("ms", color=INK, fontsize=9)
    shares.set_ylabel("share that took so long at most", color=INK, fontsize=9)
    figure.suptitle(_title(report), x=0.01, ha="left", fontsize=9, color=INK, parse_math=False)
    page = io.BytesIO()
    figure.savefig(page, format="png", metadata={"Software": None})
    return page.getvalue()


def _title(report: Report) -> str:
    traffic = report.traffic
    how = f"Poisson, {traffic.rate:g}/s" if traffic.open else f"{traffic.concurrency} at a time"
    return f"{report.about['model']}: {how}; {len(report.served)} of {len(report.outcomes)} requests gave a picture"


def _bare(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(which="both", colors=INK, labelsize=8.5, length=0)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
