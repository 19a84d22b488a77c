"""Pictures of an evaluation: quality over steps and over milliseconds, and the bound's terms over t."""

import io
from collections.abc import Sequence
from typing import Any

from fewstep.errors import FewstepError
from fewstep.evaluate.bound import Bound
from fewstep.evaluate.report import DRAWN, LIKENESS, Curve, Report

INK, FAINT = "#3b3f46", "#d9dce1"
COLORS = ("#c2410c", "#2563a8", "#7c5ba6", "#3f8f5f", "#b08900", "#9aa0a8")
TITLES = {
    "frechet": "Frechet distance (lower is better)",
    "accuracy": "class accuracy",
    "precision": "precision",
    "recall": "recall",
    LIKENESS: "PSNR to the teacher's image of the same seed, dB (median)",
}


def quality_picture(report: Report, beside: Sequence[Curve] = ()) -> bytes:
    """A PNG: a row for each score, over steps on the left and over ms per image on the right.

    The dotted line is what real images score at the same counts; a star is what the teacher does. A score that no
    curve has gets no row. FewstepError without matplotlib.
    """
    curves = [Curve.of(report), *beside]
    if report.teacher is not None:
        name, row = report.teacher
        called = name if name.endswith("teacher") else f"{name} (teacher)"
        curves.append(Curve(called, [row.to_dict()], marker="*"))
    own = [name for name in (*DRAWN, LIKENESS) if name in TITLES]
    names = [name for name in own if any(row.get(name) is not None for row in curves[0].rows)]
    figure = _figure(9.0, 0.9 + 1.9 * len(names))
    grid = figure.subplots(len(names), 2, squeeze=False, sharey="row", sharex="col")
    for line, name in enumerate(names):
        for axes, over in zip(grid[line], ("steps", "ms_per_image"), strict=True):
            _draw(axes, curves, name, over, getattr(report.floor, name, None))
        grid[line][0].set_title(TITLES[name], loc="left", fontsize=9.5, color=INK)
    grid[-1][0].set_xlabel("steps", color=INK, fontsize=9)
    grid[-1][1].set_xlabel("ms per image", color=INK, fontsize=9)
    for label in grid[0][0].legend(frameon=False, fontsize=8.5, labelcolor=INK).get_texts():
        label.set_parse_math(False)
    machine, settings = report.machine, report.settings
    figure.suptitle(
        f"{report.model['name']}: {settings['n']} samples a point, seeds from {settings['seed']}; times on "
        f"{machine['cpu']},\n{machine['threads']} threads, device {machine['device']}, batch {settings['batch']}",
        x=0.01,
        ha="left",
        fontsize=9,
        color=INK,
        parse_math=False,  # a name may hold a $
    )
    return _png(figure)


def bound_picture(bounds: Sequence[Bound]) -> bytes:
    """A PNG: L_t over t for each variance, in bits a dimension. FewstepError without matplotlib."""
    figure = _figure(7.0, 4.2)
    axes = figure.subplots()
    _bare_axes(axes)
    for color, bound in zip(COLORS, bounds, strict=False):
        label = f"{bound.variance}: {bound.total:.3f} in all"
        axes.plot(range(1, len(bound.steps) + 1), bound.steps, color=color, linewidth=1.3, label=label)
        axes.plot([0], [bound.decoder], marker="o", markersize=4, color=color)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_yscale("log")
    axes.set_xlabel("t; the point at 0 is the decoder's L_0", color=INK, fontsize=9)
    axes.set_title("terms of the variational bound, bits a dimension", loc="left", fontsize=9.5, color=INK)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    return _png(figure)


def _draw(axes: Any, curves: Sequence[Curve], name: str, over: str, floor: float | None) -> None:
    _bare_axes(axes)
    ticks = sorted({row["steps"] for curve in curves for row in curve.rows})
    for color, curve in zip(COLORS * 3, curves, strict=False):
        points = sorted((row[over], row[name]) for row in curve.rows if row.get(name) is not None)
        if not points:
            continue
        alone = curve.marker != "o"
        style = {"linewidth": 0 if alone else 1.5, "marker": curve.marker, "markersize": 9 if alone else 4}
        axes.plot(*zip(*points, strict=True), color=color, label=curve.name, **style)
    axes.set_xscale("log")
    if over == "steps":
        axes.set_xticks(ticks, [str(step) for step in ticks])
        axes.minorticks_off()
    else:
        _plain_numbers(axes.xaxis)
    if floor is not None:
        axes.axhline(floor, color=INK, linewidth=0.9, linestyle=":", label="real images")
    if name == "frechet" and all(y > 0 for line in axes.lines for y in line.get_ydata()):
        axes.set_yscale("log")
        _plain_numbers(axes.yaxis)


def _plain_numbers(axis: Any) -> None:
    """3 and 30 at the ticks of a logarithmic axis, where matplotlib writes powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise FewstepError("the pictures need matplotlib: pip install 'fewstep[plot]'") from None
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Any) -> bytes:
    page = io.BytesIO()
    figure.savefig(page, format="png", metadata={"Software": None})
    return page.getvalue()


def _bare_axes(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(which="both", colors=INK, labelsize=8.5, length=0)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
