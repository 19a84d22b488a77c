"""The page that `fewstep evaluate` prints."""

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.cli.shared import plain

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fewstep.evaluate.report import Report
    from fewstep.evaluate.scores import Scores

WIDTH = 120


def page(report: "Report", paths: Sequence[Path]) -> str:
    """What was evaluated on what, the scores beside those of real digits, the bound, the files."""
    from rich.console import Console

    text = io.StringIO()
    console = Console(
        file=text, force_terminal=sys.stdout.isatty() or None, width=WIDTH, highlight=False, markup=False, emoji=False
    )
    parts: list[RenderableType] = [_head(report), "", _scores(report)]
    if report.bounds:
        parts += ["", _bound(report)]
    for part in parts:
        console.print(part)
    if paths:
        console.print("\nwritten: " + ", ".join(plain(path) for path in paths))
    return text.getvalue()


def _head(report: "Report") -> str:
    machine, model, settings = report.machine, report.model, report.settings
    guidance = settings["guidance_scale"]
    scale = "no guidance" if guidance in (None, 1.0) else f"guidance scale {guidance}"
    return "\n".join(
        [
            f"{plain(model['name'])}: {model['parameters']:,} parameters, {model['prediction']} prediction, "
            f"{model['schedule']} schedule, {model['dtype']}",
            f"{settings['n']} samples a line, seeds from {settings['seed']}, {scale}; "
            f"classifier {settings['classifier']}",
            f"times: {plain(machine['cpu'])}, {machine['threads']} threads, device {plain(machine['device'])}, "
            f"batches of {settings['batch']}, load {machine['load']} before the run, torch {machine['torch']}",
        ]
    )


def _scores(report: "Report") -> "RenderableType":
    from rich.table import Table

    title = "scores; the last line is what as many real digits score, compared with the same references"
    table = Table(title=title, title_justify="left", box=None)
    for name in ("sampler", "steps"):
        table.add_column(name)
    for name in (
        "Frechet", "x real", "accuracy", "precision", "recall", "sliced W", "x real", "nearest", "near", "ms/image",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    floor = report.floor
    for row in report.rows:
        cells = _cells(row.scores, floor)
        table.add_row(row.sampler, str(row.steps), *cells, f"{row.ms_per_image:.3g}")
    table.add_row("real", "", *_cells(floor, floor), "")
    return table


def _cells(scores: "Scores", floor: "Scores") -> list[str]:
    return [
        f"{scores.frechet:.2f} ±{scores.frechet_spread:.2f}",
        f"{scores.frechet / floor.frechet:.2f}",
        "" if scores.accuracy is None else f"{100 * scores.accuracy:.2f} %",
        f"{scores.precision:.3f}",
        f"{scores.recall:.3f}",
        f"{scores.sliced_wasserstein:.4f}",
        f"{scores.sliced_wasserstein / floor.sliced_wasserstein:.2f}",
        f"{scores.nearest_median:.2f}",
        f"{100 * scores.share_near:.1f} %",
    ]


def _bound(report: "Report") -> "RenderableType":
    from rich.table import Table

    from fewstep.evaluate.bound import headline

    best = headline(report.bounds)
    title = (
        f"variational bound: {best.total:.4f} bits a dimension ({best.variance}, decoder {best.decoder_variance}), "
        f"on {report.settings['bpd_images']} held-out digits"
    )
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("variance")
    for name in ("in all", "L_T", "sum of L_t", "L_0"):
        table.add_column(name, justify="right")
    table.add_column("variance of L_0")
    for bound in report.bounds:
        total = f"{bound.total:.4f} ±{bound.standard_error:.4f}"
        terms = (f"{bound.prior:.2e}", f"{bound.steps.sum():.4f}", f"{bound.decoder:.4f}")
        table.add_row(bound.variance, total, *terms, bound.decoder_variance)
    return table
