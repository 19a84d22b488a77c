"""The benchmark as a picture: time per image over steps, and what each contender adds outside the network."""

import io
from collections.abc import Sequence
from typing import Any

from fewstep.bench.contenders import BARE, COMPILE, DIFFUSERS, EAGER, ENGINE, Case, Contender
from fewstep.bench.results import MEASURED, Report, Row
from fewstep.errors import FewstepError

INK, FAINT = "#3b3f46", "#d9dce1"
COLORS = {  # by kind and backend
    (ENGINE, "torch"): "#c2410c",
    (ENGINE, "compile"): "#a16207",
    (ENGINE, "openvino"): "#15803d",
    (EAGER, "torch"): "#2563a8",
    (DIFFUSERS, "torch"): "#7c5ba6",
    (BARE, "torch"): "#9aa0a8",
    (COMPILE, "torch"): "#0f766e",
}
OTHER = "#5b616b"
LABELS = {ENGINE: "fewstep engine", EAGER: "eager", DIFFUSERS: "diffusers", BARE: "U-Net calls alone"}


def picture(report: Report) -> bytes:
    """A PNG: a column per batch size; FewstepError without matplotlib.

    Above, ms per image over steps, median with a bar from the least to the 90th percentile. Below, the microseconds a
    step outside the network's calls, at the most steps that were measured.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise FewstepError("the benchmark's picture needs matplotlib: pip install 'fewstep[plot]'") from None

    batches = list(dict.fromkeys(case.batch for case in report.cases))
    samplers = list(dict.fromkeys(case.sampler for case in report.cases))
    most = max(case.steps for case in report.cases)
    figure = Figure(figsize=(1.2 + 4.4 * len(batches), 7.2), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(batches), squeeze=False, height_ratios=[1.25, 1])
    for column, batch in enumerate(batches):
        cases = [case for case in report.cases if case.batch == batch]
        _draw_times(grid[0][column], report, [case for case in cases if case.sampler == samplers[0]])
        _draw_outside(grid[1][column], report, [case for case in cases if case.steps == most])
        grid[0][column].set_title(f"batch {batch}, {samplers[0]}", loc="left", fontsize=10, color=INK)
    grid[0][0].set_ylabel("ms per image", color=INK, fontsize=9)
    handles, names = grid[0][0].get_legend_handles_labels()
    grid[0][0].legend(handles, names, frameon=False, fontsize=8.5, labelcolor=INK, loc="upper left")
    machine = report.machine
    dtypes = ", ".join(dict.fromkeys(each.dtype for each in report.contenders))
    figure.suptitle(
        f"{next(iter(report.models.values()))['title']}\n{machine['cpu']}, {machine['threads']} threads, "
        f"torch {machine['torch']}, {dtypes}; median of {report.settings['repeats']}, "
        "bars from the least to the 90th percentile",
        x=0.01,
        ha="left",
        fontsize=9,
        color=INK,
        parse_math=False,  # a name may hold a $
    )
    page = io.BytesIO()
    figure.savefig(page, format="png", metadata={"Software": None})
    return page.getvalue()


def _draw_times(axes: Any, report: Report, cases: Sequence[Case]) -> None:
    _bare_axes(axes)
    shown = _measured(report, cases)
    for place, contender in enumerate(shown):
        rows = [row for case in cases if (row := report.row(case, contender)).status == MEASURED]
        x = [row.steps * 1.02 ** (place - (len(shown) - 1) / 2) for row in rows]  # so that the bars do not hide
        y = [row.ms_per_image for row in rows]
        low = [_ms(row) - _per_image(row, row.min_ms) for row in rows]
        high = [_per_image(row, row.p90_ms) - _ms(row) for row in rows]
        style = "--" if contender.kind == BARE else "-" if contender.exact else ":"
        axes.errorbar(
            x, y, yerr=[low, high], color=_color(contender), label=_label(contender), linestyle=style, linewidth=1.5,
            marker="o", markersize=4, elinewidth=1,
        )  # fmt: skip
    steps = [case.steps for case in cases]
    axes.set_xscale("log", base=2)
    axes.set_xticks(steps, [str(step) for step in steps])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("steps", color=INK, fontsize=9)


def _draw_outside(axes: Any, report: Report, cases: Sequence[Case]) -> None:
    _bare_axes(axes)
    shown = [each for each in _measured(report, cases) if each.kind != BARE]
    axes.axis("on")
    place, ticks = 0.0, []
    for case in cases:
        ticks.append((place - (len(shown) - 1) / 2, f"{case.sampler}, {case.steps} steps"))
        for contender in shown:
            row = report.row(case, contender)
            if row.outside_us is None:
                axes.annotate(row.status, (0, place), fontsize=7, color=INK, va="center")
            else:
                color = _color(contender)
                axes.barh(place, row.outside_us, color=color, alpha=0.3, height=0.82)
                axes.barh(place, row.loop_median_us or row.outside_us, color=color, height=0.82)
                axes.annotate(
                    f"{row.outside_us:.0f}", (row.outside_us, place), (3, 0), textcoords="offset points",
                    va="center", fontsize=7.5, color=INK,
                )  # fmt: skip
            place -= 1
        place -= 0.6
    target = report.target_us(cases[0])
    if target is not None:
        axes.axvline(target, color=INK, linewidth=0.9, linestyle=":")
        axes.annotate(
            f"loop target {target:.0f}", (target, 0.55), (3, 0), textcoords="offset points", fontsize=7.5, color=INK
        )
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_yticks([y for y, _ in ticks], [name for _, name in ticks])
    axes.set_xlabel("us a step outside the U-Net; pale: the request's set-up", color=INK, fontsize=8.5)
    axes.margins(x=0.12)


def _measured(report: Report, cases: Sequence[Case]) -> list[Contender]:
    """Who was measured in one of the cases at least."""
    return [each for each in report.contenders if any(report.row(case, each).status == MEASURED for case in cases)]


def _color(contender: Contender) -> str:
    return COLORS.get((contender.kind, contender.backend), OTHER)


def _label(contender: Contender) -> str:
    return contender.name.replace(contender.kind, LABELS.get(contender.kind, contender.kind), 1)


def _bare_axes(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(which="both", colors=INK, labelsize=8.5, length=0)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)


def _ms(row: Row) -> float:
    return row.ms_per_image or 0.0


def _per_image(row: Row, milliseconds: float | None) -> float:
    return (milliseconds or 0.0) / row.batch
