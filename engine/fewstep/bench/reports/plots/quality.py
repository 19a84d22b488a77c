"""What a digit's quality costs: scores of the students in the box against milliseconds."""

from collections.abc import Sequence
from typing import Any

from fewstep.bench.contenders import BARE, Contender
from fewstep.bench.reports.plots.style import SOFT, figure, legend_right, line, plain_log
from fewstep.bench.reports.scores import REAL, scored
from fewstep.bench.results import Row

BELOW = "Scores of 5,000 digits each (fewstep evaluate). Bars: 95 % interval of the ratio, spread of the distance."


def quality(rows: Sequence[Row], contenders: Sequence[Contender]) -> Any:
    """A figure, or None where nothing that has scores was measured."""
    known = [(row, score) for row, score in scored(rows) if row.kind != BARE]
    if len({row.steps for row, _ in known}) < 2:
        return None
    batch = known[0][0].batch
    made = figure(8.2, 3.7, f"Digits: quality against time, batch {batch}", BELOW)
    distance, accuracy = made.subplots(1, 2)
    handles: dict[str, Any] = {}
    for contender in contenders:
        mine = sorted((each for each in known if each[0].contender == contender.name), key=lambda each: each[1].steps)
        if not mine:
            continue
        x = [row.ms_per_image or 0.0 for row, _ in mine]
        spread = [[_side(row, row.ratio_low) for row, _ in mine], [_side(row, row.ratio_high) for row, _ in mine]]
        y = [score.frechet for _, score in mine]
        drawn = distance.errorbar(x, y, xerr=spread, yerr=[score.spread for _, score in mine], **line(contender))
        accuracy.errorbar(x, [100 * score.accuracy for _, score in mine], xerr=spread, **line(contender))
        handles[contender.name] = drawn
    slowest = max((row for row, _ in known), key=_ms).contender
    for row, score in known:
        if row.contender == slowest:
            told = f"{score.steps} step{'s' * (score.steps != 1)}"
            for axes, height in ((distance, score.frechet), (accuracy, 100 * score.accuracy)):
                up = 9 if axes is distance else -12
                axes.annotate(told, (_ms(row), height), (7, up), textcoords="offset points", fontsize=7.5, color=SOFT)
    distance.axhline(REAL, color=SOFT, linewidth=0.8, linestyle=":")
    distance.annotate(
        "other real digits", (0.02, REAL), (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
        fontsize=7.5, color=SOFT,
    )  # fmt: skip
    distance.set(ylabel="Frechet distance from real digits", ylim=(0, None))
    accuracy.set(ylabel="digits of the class asked for, %")
    accuracy.margins(y=0.2)
    for axes in (distance, accuracy):
        axes.set_xscale("log")
        axes.margins(x=0.12)
        plain_log(axes.xaxis)
        axes.set_xlabel("ms an image")
    legend_right(made, list(handles.values()), list(handles))
    return made


def _ms(row: Row) -> float:
    return row.ms_per_image or 0.0


def _side(row: Row, end: float | None) -> float:
    """ms from the middle of the ratio's interval to one end of it."""
    return 0.0 if not end or not row.ratio else abs(end / row.ratio - 1) * _ms(row)
