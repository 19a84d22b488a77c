"""The page that `fewstep evaluate` prints."""

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.cli.shared import plain

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fewstep.evaluate.likeness import Likeness
    from fewstep.evaluate.report import Report, Row
    from fewstep.evaluate.scores import Scores

WIDTH = 120


def page(report: "Report", paths: Sequence[Path]) -> str:
    """What was evaluated on what, the scores beside those of real images, the teacher, the bound, the files."""
    from rich.console import Console

    text = io.StringIO()
    console = Console(
        file=text, force_terminal=sys.stdout.isatty() or None, width=WIDTH, highlight=False, markup=False, emoji=False
    )
    parts: list[RenderableType] = [_head(report), "", _scores(report), *report.notes]
    if report.teacher is not None:
        parts += ["", _teacher(report, *report.teacher)]
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
            f"{settings['n']} samples a line, seeds from {settings['seed']}, {scale}",
            *_data(report),
            f"times: {plain(machine['cpu'])}, {machine['threads']} threads, device {plain(machine['device'])}, "
            f"batches of {settings['batch']}, load {machine['load']} before the run, torch {machine['torch']}",
        ]
    )


def _data(report: "Report") -> list[str]:
    """What it was compared with, and in whose features."""
    data, settings = report.data, report.settings  # of Real.to_dict
    if not data:
        return [f"classifier {settings['classifier']}"]
    images = f"{data['images']:,}" + (f" of {data['of']:,}" if data["of"] else "")
    kinds = f"{data['classes']} classes" if data["classes"] else "no classes"
    named = ": " + ", ".join(map(plain, data["names"])) if data["names"] else ""
    return [
        f"compared with {plain(data['name'])}: {images} images, {kinds}{named}",
        *map(plain, data["left_out"]),
        f"classifier {settings['classifier']}: {plain(settings['classifier_is'])}",
    ]


def _scores(report: "Report") -> "RenderableType":
    from rich.table import Table

    title = "scores; the last line is what as many real images score, compared with the same references"
    table = Table(title=title, title_justify="left", box=None)
    for name in ("sampler", "steps"):
        table.add_column(name)
    for name in (
        "Frechet", "x real", "accuracy", "precision", "recall", "sliced W", "x real", "nearest", "near", "ms/image",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    floor = report.floor
    for row in report.rows:
        table.add_row(row.sampler, str(row.steps), *_cells(row.scores, floor), f"{row.ms_per_image:.3g}")
    if report.teacher is not None:
        row = report.teacher[1]
        cells = _cells(row.scores, floor)
        table.add_row(f"teacher, {row.sampler}", str(row.steps), *cells, f"{row.ms_per_image:.3g}")
    table.add_row("real", "", *_cells(floor, floor), "")
    return table


def _cells(scores: "Scores", floor: "Scores") -> list[str]:
    from fewstep.evaluate.report import ratio

    spread = "" if scores.frechet_spread is None else f" ±{scores.frechet_spread:.2f}"
    return [
        _fixed(scores.frechet, 2) + spread,
        _fixed(ratio(scores.frechet, floor.frechet), 2),
        "" if scores.accuracy is None else f"{100 * scores.accuracy:.2f} %",
        f"{scores.precision:.3f}",
        f"{scores.recall:.3f}",
        f"{scores.sliced_wasserstein:.4f}",
        _fixed(ratio(scores.sliced_wasserstein, floor.sliced_wasserstein), 2),
        f"{scores.nearest_median:.2f}",
        "-" if scores.share_near is None else f"{100 * scores.share_near:.1f} %",
    ]


def _teacher(report: "Report", name: str, taught: "Row") -> "RenderableType":
    """What distilling cost, and what it saves."""
    from rich.table import Table

    from fewstep.evaluate.report import ratio

    title = (
        f"beside {plain(name)} at {taught.steps} steps of {taught.sampler}, the same seeds and labels: PSNR in dB, "
        "and scores as parts of the teacher's"
    )
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("steps")
    for heading in ("median", "a quarter below", "a quarter above", "equal", "Frechet", "sliced W", "faster"):
        table.add_column(heading, justify="right")
    for row in report.rows:
        if row.likeness is None:
            continue
        of_teacher = (
            ratio(row.scores.frechet, taught.scores.frechet),
            ratio(row.scores.sliced_wasserstein, taught.scores.sliced_wasserstein),
            ratio(taught.ms_per_image, row.ms_per_image),
        )
        cells = [f"{value:.2f} x" if value is not None else "-" for value in of_teacher]
        table.add_row(str(row.steps), *_decibels(row.likeness), *cells)
    return table


def _decibels(likeness: "Likeness") -> list[str]:
    return [f"{value:.2f}" for value in (likeness.median, *likeness.quartiles)] + [str(likeness.equal)]


def _fixed(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _bound(report: "Report") -> "RenderableType":
    from rich.table import Table

    from fewstep.evaluate.bound import headline

    best = headline(report.bounds)
    title = (
        f"variational bound: {best.total:.4f} bits a dimension ({best.variance}, decoder {best.decoder_variance}), "
        f"on {report.settings['bpd_images']} " + _bounded(report)
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


def _bounded(report: "Report") -> str:
    """Whether the model may know the images that the bound was found on."""
    seen = report.data and not report.data["held_out_from_models"]
    return "images that the model may have been trained on" if seen else "held-out images"
