"""The page that `fewstep evaluate` prints."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.cli.page import titled_table, width, wrapped
from fewstep.cli.shared import plain

if TYPE_CHECKING:
    from fewstep.evaluate.likeness import Likeness
    from fewstep.evaluate.report import Report, Row
    from fewstep.evaluate.scores import Scores


def page(report: "Report", paths: Sequence[Path]) -> str:
    """What was evaluated on what, the scores beside those of real images, the teacher, the bound, the files."""
    columns = width()
    lines = [part for line in _head(report) for part in wrapped(line, columns)]
    lines += _scores(report)
    lines += [part for note in report.notes for part in wrapped(plain(note), columns)]
    if report.teacher is not None:
        lines += _teacher(report, *report.teacher)
    if report.bounds:
        lines += _bound(report)
    if paths:
        lines += ["", *wrapped("written: " + ", ".join(plain(path) for path in paths), columns)]
    return "\n".join(lines) + "\n"


def _head(report: "Report") -> list[str]:
    machine, model, settings = report.machine, report.model, report.settings
    guidance = settings["guidance_scale"]
    scale = "no guidance" if guidance in (None, 1.0) else f"guidance scale {guidance}"
    return [
        f"{plain(model['name'])}: {model['parameters']:,} parameters, {model['prediction']} prediction, "
        f"{model['schedule']} schedule, {model['dtype']} by {model['backend']}",
        f"{settings['n']} samples a line, seeds from {settings['seed']}, {scale}",
        *_data(report),
        f"times: {plain(machine['cpu'])}, {machine['threads']} threads, device {plain(machine['device'])}, "
        f"batches of {settings['batch']}, load {machine['load']} before the run, torch {machine['torch']}",
    ]


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


def _scores(report: "Report") -> list[str]:
    title = "scores; the last line is what as many real images score, compared with the same references"
    names = (
        "Frechet",
        "x real",
        "accuracy",
        "precision",
        "recall",
        "sliced W",
        "x real",
        "nearest",
        "near",
        "ms/image",
    )
    floor = report.floor
    lines: list[tuple[str, ...]] = [("sampler", "steps", *names)]
    lines += [
        (row.sampler, str(row.steps), *_cells(row.scores, floor), f"{row.ms_per_image:.3g}") for row in report.rows
    ]
    if report.teacher is not None:
        row = report.teacher[1]
        cells = _cells(row.scores, floor)
        lines.append((f"teacher, {row.sampler}", str(row.steps), *cells, f"{row.ms_per_image:.3g}"))
    lines.append(("real", "", *_cells(floor, floor), ""))
    return titled_table(title, lines, keys=2)


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


def _teacher(report: "Report", name: str, taught: "Row") -> list[str]:
    """What distilling cost, and what it saves."""
    from fewstep.evaluate.report import ratio

    steps = f"{taught.steps} step{'s' * (taught.steps > 1)}"
    title = (
        f"beside {plain(name)} at {steps} of {taught.sampler}, the same seeds and labels: PSNR in dB, "
        "and scores as parts of the teacher's"
    )
    lines: list[tuple[str, ...]] = [
        ("steps", "median", "a quarter below", "a quarter above", "equal", "Frechet", "sliced W", "faster")
    ]
    for row in report.rows:
        if row.likeness is None:
            continue
        of_teacher = (
            ratio(row.scores.frechet, taught.scores.frechet),
            ratio(row.scores.sliced_wasserstein, taught.scores.sliced_wasserstein),
            ratio(taught.ms_per_image, row.ms_per_image),
        )
        cells = [f"{value:.2f} x" if value is not None else "-" for value in of_teacher]
        lines.append((str(row.steps), *_decibels(row.likeness), *cells))
    return titled_table(title, lines, keys=1)


def _decibels(likeness: "Likeness") -> list[str]:
    return [f"{value:.2f}" for value in (likeness.median, *likeness.quartiles)] + [str(likeness.equal)]


def _fixed(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _bound(report: "Report") -> list[str]:
    from fewstep.evaluate.bound import headline

    best = headline(report.bounds)
    title = (
        f"variational bound: {best.total:.4f} bits a dimension ({best.variance}, decoder {best.decoder_variance}), "
        f"on {report.settings['bpd_images']} " + _bounded(report)
    )
    lines: list[tuple[str, ...]] = [("variance", "in all", "L_T", "sum of L_t", "L_0", "variance of L_0")]
    for bound in report.bounds:
        total = f"{bound.total:.4f} ±{bound.standard_error:.4f}"
        terms = (f"{bound.prior:.2e}", f"{bound.steps.sum():.4f}", f"{bound.decoder:.4f}")
        lines.append((bound.variance, total, *terms, bound.decoder_variance))
    return titled_table(title, lines, keys=1)


def _bounded(report: "Report") -> str:
    """Whether the model may know the images that the bound was found on."""
    seen = report.data and not report.data["held_out_from_models"]
    return "images that the model may have been trained on" if seen else "held-out images"
