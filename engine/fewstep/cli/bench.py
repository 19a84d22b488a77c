"""`fewstep bench`: the engine on each backend, beside the loops people write."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewstep.bench.lineup import BESIDE, OTHERS
from fewstep.checks import integer
from fewstep.cli import options
from fewstep.cli.bench_view import page
from fewstep.cli.failures import keep
from fewstep.cli.shared import emit, examples, progress, whole_numbers, write_out
from fewstep.errors import ArgumentError
from fewstep.run.backends.names import BACKENDS

if TYPE_CHECKING:
    from fewstep.bench import Report, Subject

EXAMPLES = examples(
    "The CIFAR-10 DDPM U-Net with random weights, beside diffusers:",
    "  fewstep bench --out out/bench",
    "The model in the box, or one of your own, at 1 and 4 steps:",
    "  fewstep bench digits --steps 1,4 --batch 1",
    "Every backend of a CPU, in float32 and in bfloat16:",
    "  fewstep bench digits --backends torch,compile,openvino --dtype float32,bfloat16",
)
MAX_STEPS, MAX_BATCH, MAX_REPEATS = 1000, 256, 1000


def bench(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A model folder, or digits: in the box. Default: the preset.")
    ] = None,
    preset: Annotated[str, typer.Option(help="An architecture with random weights: cifar10-ddpm.")] = "cifar10-ddpm",
    steps: Annotated[str, typer.Option(help="Model calls a sample.")] = "1,2,4,8",
    batch: Annotated[str, typer.Option(help="Samples at once.")] = "1,4",
    sampler: Annotated[
        str | None,
        typer.Option(help="Any that `fewstep info --samplers` lists, or several. Default: what suits the model."),
    ] = None,
    backends: Annotated[
        str | None,
        typer.Option(
            help=f"Of the engine: {options.one_of(BACKENDS)}, or several. Default: FEWSTEP_BACKEND, else torch and, on "
            "a CPU where it is installed, openvino.",
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of the networks: float32, bfloat16 or both.")] = "float32",
    beside: Annotated[str, typer.Option(help=f"The baselines: {options.one_of(OTHERS)}, or several.")] = ",".join(
        BESIDE
    ),
    repeats: Annotated[int, typer.Option(help="Rounds that count, after one that does not.")] = 7,
    cold: Annotated[
        bool, typer.Option("--cold/--no-cold", help="Also cold start and peak memory, in new processes.")
    ] = True,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A folder for bench.json, .csv, .md and .html, and pictures.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="cpu or cuda. Default: CUDA if there is one.", rich_help_panel=options.WHERE),
    ] = None,
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Measure the engine on each backend, beside an eager loop, diffusers and the bare network calls.

    All get the same weights and noise and take turns. Nothing is timed before their images agree.
    """
    from fewstep.bench import Settings, run
    from fewstep.bench.results import FILES
    from fewstep.files import check_writable

    if out is not None:
        for name in FILES:
            check_writable(out / name)
    settings = Settings(
        steps=_counts("steps", steps, MAX_STEPS),
        batches=_counts("batch", batch, MAX_BATCH),
        samplers=None if sampler is None else _names(sampler),
        backends=None if backends is None else _names(backends),
        dtypes=_names(dtype),
        beside=_names(beside),
        repeats=integer("repeats", repeats, 1, MAX_REPEATS),
        cold=cold,
    )
    subject = _subject(model, preset, device, threads, max(settings.batches))
    with progress("bench", quiet=quiet or as_json) as advance:
        report = run(subject, settings, advance)

    def show(paths: list[Path], more: Mapping[str, Any]) -> None:
        if as_json:
            emit({**report.to_dict(), "files": paths, **more})
        else:
            write_out(page(report, paths))

    keep(lambda: [] if out is None else report.save(out, _rendered(report)), show)


def _subject(model: str | None, preset: str, device: str | None, threads: int | None, most: int) -> "Subject":
    import torch

    from fewstep.bench import open_subject, preset_subject

    if device not in (None, "cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise ArgumentError("device", device, "cpu" + " or cuda" * torch.cuda.is_available())
    if threads is not None:
        torch.set_num_threads(integer("threads", threads, 1, 1024))
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return preset_subject(preset, where, most) if model is None else open_subject(model, where, most)


def _rendered(report: "Report") -> dict[str, bytes]:
    from fewstep.bench.reports import rendered

    return rendered(report)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _counts(argument: str, text: str, most: int) -> list[int]:
    return [integer(argument, value, 1, most) for value in dict.fromkeys(whole_numbers(argument, text))]
