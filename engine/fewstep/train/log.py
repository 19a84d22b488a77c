"""The record of a run: loss.csv, and its picture."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from fewstep.files import atomic_write
from fewstep.train.config import MAX_STEPS

INK, FAINT, ACCENT, PALE = "#3b3f46", "#d9dce1", "#c2410c", "#f0c9b5"
MAX_COLUMNS: Final = 100
MAX_VALUE: Final = 1e30  # more is no loss, and more than a picture's axis can say
SMOOTH: Final = 0.02  # of the run's rows are averaged for the bold line


class LossLog:
    """Rows of numbers by step, each an average since the row before; written whole or not at all.

    A run that is resumed at a step drops the rows after it, which it will write again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []

    def read(self, upto: int) -> None:
        """Take over the rows up to a step from the file; a line that makes no sense is passed over."""
        self.rows = []
        if not self.path.is_file():
            return
        try:
            with self.path.open(newline="", encoding="utf-8", errors="replace") as file:
                lines = csv.reader(file)
                names = next(lines, [])[:MAX_COLUMNS]
                for line in lines:
                    row = _numbers(names, line)
                    if row is not None and row["step"] <= upto:
                        self.rows.append(row)
        except (OSError, csv.Error):  # a field that is longer than csv reads
            return

    def append(self, row: Mapping[str, float]) -> None:
        """Add a row; "step" is one of its columns."""
        self.rows.append(dict(row))

    def write(self) -> None:
        """Bring the file up to date. OutputError if it cannot be written."""
        if not self.rows:
            return
        page = io.StringIO()
        writer = csv.DictWriter(page, list(self.rows[-1]), lineterminator="\n", restval="", extrasaction="ignore")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({name: int(value) if name == "step" else f"{value:.6g}" for name, value in row.items()})
        with atomic_write(self.path) as file:
            file.write(page.getvalue().encode())


def plot_losses(rows: Sequence[Mapping[str, float]], title: str) -> bytes | None:
    """A PNG of the loss, its parts where it has any, and the gradient's norm, over steps. None without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    names = [name for name in ("loss", "simple", "vlb", "grad_norm") if name in rows[-1]]
    figure = Figure(figsize=(7.2, 1.2 + 1.9 * len(names)), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(names), 1, squeeze=False, sharex=True)[:, 0]
    for panel, name in zip(panels, names, strict=True):
        _draw(panel, [row["step"] for row in rows], [row.get(name, math.nan) for row in rows], name)
    panels[0].set_title(title, loc="left", fontsize=10, color=INK, parse_math=False)  # a name may hold a $
    panels[-1].set_xlabel("step", color=INK, fontsize=9)
    page = io.BytesIO()
    figure.savefig(page, format="png", metadata={"Software": None})
    return page.getvalue()


def _draw(panel: Any, steps: Sequence[float], values: Sequence[float], name: str) -> None:
    panel.plot(steps, values, color=PALE, linewidth=1)
    smooth = smoothed(values)
    panel.plot(steps, smooth, color=ACCENT, linewidth=1.6)
    panel.annotate(
        f" {smooth[-1]:.4g}", (steps[-1], smooth[-1]), (3, 0), textcoords="offset points", va="center", fontsize=8,
        color=ACCENT, annotation_clip=False,
    )  # fmt: skip
    panel.set_ylabel(name.replace("_", " "), color=INK, fontsize=9)
    if all(value > 0 for value in values):
        panel.set_yscale("log")
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(FAINT)
    panel.tick_params(which="both", colors=INK, labelsize=8, length=0)
    panel.grid(axis="y", which="both", color=FAINT, linewidth=0.5)


def smoothed(values: Sequence[float]) -> list[float]:
    """The mean of each value and those before it, as many as SMOOTH says. A NaN is in no mean but those it is part of.

    A window is the end of one block and the beginning of the next, so that a record of a million rows takes one pass.
    The difference of two sums from the first row on would take as little, and spread a NaN over all that follow.
    """
    count = len(values)
    width = max(1, round(SMOOTH * count))
    blocks = np.zeros((-(-count // width), width))
    blocks.reshape(-1)[:count] = values
    sums = blocks.cumsum(axis=1)
    sums[1:, :-1] += blocks[:-1, :0:-1].cumsum(axis=1)[:, ::-1]
    means: list[float] = (sums.reshape(-1)[:count] / np.minimum(np.arange(count) + 1, width)).tolist()
    return means


def _numbers(names: Sequence[str], line: Sequence[str]) -> dict[str, float] | None:
    try:
        row = {name: float(value) for name, value in zip(names, line, strict=False) if value != ""}
    except ValueError:
        return None
    if not 0 <= row.get("step", -1) <= MAX_STEPS or "loss" not in row:
        return None
    return row if all(abs(value) < MAX_VALUE for value in row.values()) else None
