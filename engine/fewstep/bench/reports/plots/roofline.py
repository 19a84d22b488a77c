"""Operations a second against operations per byte, below the ceilings that were measured in the same run."""

from collections.abc import Sequence
from typing import Any

from fewstep.bench.contenders import BARE
from fewstep.bench.reports.facts import Network, largest
from fewstep.bench.reports.plots.style import (
    SHAPES,
    SOFT,
    color,
    dodged,
    figure,
    legend_right,
    plain_log,
    shortened,
    tall,
)
from fewstep.bench.results import Row

BELOW = "At the most steps and the largest batch size. Operations and bytes: the fewest that the calls can take."


def roofline(networks: Sequence[Network], ceilings: Sequence[tuple[str, float, float]]) -> Any:
    """A figure, or None where operations and bytes are not known."""
    points = [(place, each, row) for place, each in enumerate(networks) for row in _rows(each)]
    if not points or not ceilings:
        return None
    made = figure(8.2, tall(4.2, len({row.contender for _, _, row in points}) + len(networks)), "Roofline", BELOW)
    axes = made.subplots()
    x = [_per_byte(row) for _, _, row in points]
    left, right = min(x) / 3, max([*x, *(1e3 * tflops / gb_s for _, tflops, gb_s in ceilings)]) * 4
    for dtype, tflops, gb_s in ceilings:
        ridge = 1e3 * tflops / gb_s
        style = "-" if dtype == "float32" else (0, (4, 2))
        y = [1e-3 * gb_s * left, tflops, tflops]
        axes.plot([left, ridge, right], y, color=SOFT, linewidth=1.2, linestyle=style)
        told = f"{dtype}: {tflops:.3g} TFLOP/s, {gb_s:.3g} GB/s"
        axes.annotate(told, (right, tflops), (-2, 3), textcoords="offset points", ha="right", fontsize=7.5, color=SOFT)
    contenders: dict[str, Any] = {}
    shapes: dict[str, Any] = {}
    for place, network, row in points:
        contender = next(each for each in network.contenders if each.name == row.contender)
        shape, face = SHAPES[place % len(SHAPES)], color(contender) if contender.exact else "white"
        beside = dodged(_per_byte(row), network.contenders.index(contender), len(network.contenders), by=0.035)
        axes.plot(beside, row.tflops, shape, color=color(contender), markerfacecolor=face, markersize=6)
        contenders.setdefault(row.contender, (color(contender), face))
        shapes.setdefault(shortened(network.name), shape)
    axes.set(xscale="log", yscale="log", xlim=(left, right))
    axes.margins(y=0.08)
    plain_log(axes.xaxis)
    plain_log(axes.yaxis)
    axes.set(xlabel="operations per byte", ylabel="TFLOP/s")
    _legends(made, contenders, shapes)
    return made


def _rows(network: Network) -> list[Row]:
    case = largest(network)
    rows = [network.measured(case, each) for each in network.contenders if each.kind != BARE]
    return [row for row in rows if row is not None and row.tflops and row.gb_s]


def _per_byte(row: Row) -> float:
    return 1e3 * (row.tflops or 0.0) / (row.gb_s or 1.0)


def _legends(made: Any, contenders: dict[str, tuple[str, str]], shapes: dict[str, str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=edge, marker="o", markerfacecolor=face, linestyle="none")
        for edge, face in contenders.values()
    ]
    handles += [Line2D([], [], color=SOFT, marker=shape, linestyle="none") for shape in shapes.values()]
    legend_right(made, handles, [*contenders, *shapes])
