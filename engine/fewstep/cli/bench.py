"""`fewstep bench`: the engine on each backend, beside the loops people write."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewstep.bench.lineup import BESIDE, OTHERS
from fewstep.checks import integer, number
from fewstep.cli import options
from fewstep.cli.bench_asked import MAX_SECONDS, Typed, own_of
from fewstep.cli.bench_compare import show_comparison
from fewstep.cli.bench_view import page
from fewstep.cli.failures import EXIT_INTERRUPTED, EXIT_UNEXPECTED, SaidError, keep
from fewstep.cli.shared import emit, examples, progress, say, write_out
from fewstep.errors import ArgumentError
from fewstep.run.backends.names import BACKENDS

if TYPE_CHECKING:
    from fewstep.bench import Report, Subject
    from fewstep.bench.matrix import Race
    from fewstep.bench.results import Row
    from fewstep.bench.runs import Runs

EXAMPLES = examples(
    "The default matrix: digits, the U-Net of CIFAR-10 and terrain, each in three processes:",
    "  fewstep bench --out out/bench",
    "One network, a name or a folder, at 1 and 4 steps:",
    "  fewstep bench digits/4-step --steps 1,4 --batch 1",
    "A module of your own: the function make_model in my_file.py returns it:",
    "  fewstep bench my_file.py:make_model --shape 3,32,32 --schedule linear --batch 1,8",
    "Every backend of a CPU, in float32 and in bfloat16, with an interval over three processes:",
    "  fewstep bench cifar10-ddpm --backends torch,compile,openvino --dtype float32,bfloat16 --runs 3",
    "All networks and baselines, for hours; the same command goes on after a Ctrl-C:",
    "  fewstep bench --full --out out/full",
    "Whether two results agree within their intervals:",
    "  fewstep bench --compare out/monday out/tuesday",
)
WHAT, HOW, OWN = "What is measured", "How often", "A module of your own"
ONE_RUN = 1  # of one network, in this process, unless --runs says another


def bench(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A name such as digits or sd15, a model folder, or my_file.py:make_model. Default: a matrix of them.",
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="As MODEL, a name alone: cifar10-ddpm. Default: none.", rich_help_panel=WHAT)
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="All networks, sizes, dtypes and baselines.", rich_help_panel=WHAT)
    ] = False,
    steps: Annotated[
        str | None, typer.Option(help="Model calls a sample. Default: 1,2,4,8.", rich_help_panel=WHAT)
    ] = None,
    batch: Annotated[str | None, typer.Option(help="Samples at once. Default: 1,4.", rich_help_panel=WHAT)] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="Any that `fewstep info --samplers` lists, or several. Default: what suits the model.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    backends: Annotated[
        str | None,
        typer.Option(
            help=f"Of the engine: {options.one_of(BACKENDS)}, or several. Default: FEWSTEP_BACKEND, else torch and, on "
            "a CPU where it is installed, openvino.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="Of the networks: float32, bfloat16 or both. Default: float32.", rich_help_panel=WHAT),
    ] = None,
    beside: Annotated[
        str | None,
        typer.Option(
            help=f"The baselines: {options.one_of(OTHERS)}, or several. Default: {', '.join(BESIDE)}.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    shape: Annotated[
        str | None, typer.Option(help="Of one sample, as 3,32,32. Default: the file's.", rich_help_panel=OWN)
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="Such as linear. Default: the file's.", rich_help_panel=OWN)
    ] = None,
    prediction: Annotated[
        str | None, typer.Option(help="eps, x_0, v, ... Default: the file's, else eps.", rich_help_panel=OWN)
    ] = None,
    runs: Annotated[
        int | None,
        typer.Option(help="Processes of their own. Default: 3; of one MODEL, this process.", rich_help_panel=HOW),
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(help="Rounds of a run that count. Default: 7.", rich_help_panel=HOW)
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="No further round of a case after so many. Default: 3 of a matrix.", rich_help_panel=HOW),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="Of all runs; the same command goes on. Default: no limit.", rich_help_panel=HOW),
    ] = None,
    cold: Annotated[
        bool,
        typer.Option("--cold/--no-cold", help="Also cold start and peak memory, in processes.", rich_help_panel=HOW),
    ] = True,
    again: Annotated[
        bool, typer.Option("--again", help="Forget what --out has of earlier calls.", rich_help_panel=HOW)
    ] = False,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Measure nothing: say how far two results agree. Default: none.", metavar="A B"),
    ] = None,
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
    """Measure the engine on each backend, beside a plain loop, diffusers, torch.compile and the bare network calls.

    All get the same weights and noise and take turns. Nothing is timed before their images agree. The last line says
    what to switch on, and what it gains.
    """
    if compare is not None:
        show_comparison(compare, as_json)
        return
    typed = Typed(steps, batch, sampler, backends, dtype, beside, repeats, seconds, cold)
    if model is not None and preset is not None:
        raise ArgumentError("preset", preset, "nothing beside MODEL, which names the network as well")
    if full and (model or preset):
        raise ArgumentError("full", True, "nothing beside MODEL: it measures all networks")
    name = model or _preset(preset)
    own = own_of(name, shape, schedule, prediction)
    _check_out(out)
    place = _place(device, threads)
    count = None if runs is None else integer("runs", runs, 1, 100)
    least = 60 * number("minutes", minutes, 0.0, MAX_SECONDS) if minutes is not None else float("inf")
    loud = not (quiet or as_json)

    def end(report: "Report", code: int = 0) -> None:
        _end(report, out, as_json, code)

    if name is not None and (count or ONE_RUN) == ONE_RUN and not _of_students(name):
        end(_one(name, own, typed, place, loud))
        return
    from fewstep.bench.matrix import RUNS
    from fewstep.bench.runs import Runs

    races = _races(name, own, full, typed, place)
    default = RUNS if name is None else ONE_RUN
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="fewstep-bench-"))) if out is None else out
        _go(Runs(races, count or default, folder, place, threads, least), again, loud, out, end)


def _go(runs: "Runs", again: bool, loud: bool, out: Path | None, end: Callable[["Report", int], None]) -> None:
    """All runs of a matrix, and its report; what was done by a Ctrl-C has one as well."""
    if again:
        runs.cells.forget()
    if loud:
        say("plan", "bold", runs.plan())
    try:
        with progress("bench", quiet=not loud) as advance:
            runs.go(advance, lambda text: say("bench", "bold", text) if loud and advance is None else None)
    except KeyboardInterrupt:
        if out is None:
            raise
        say("interrupted", "bold yellow", f"{runs.done()} of {runs.total} cells are in {out}; the same command goes on")
        if runs.done():
            end(runs.report(), EXIT_INTERRUPTED)
        raise SaidError(EXIT_INTERRUPTED) from None
    report = runs.report()
    red = any(_ours(row) and row.status.startswith(("wrong", "failed")) for row in report.rows)
    end(report, EXIT_UNEXPECTED if red else 0)


def _end(report: "Report", out: Path | None, as_json: bool, code: int) -> None:
    """Save, print, and leave with the code."""

    def show(paths: list[Path], more: Mapping[str, Any]) -> None:
        if as_json:
            emit({**report.to_dict(), "files": paths, **more})
        else:
            write_out(page(report, paths))

    keep(lambda: [] if out is None else report.save(out, _rendered(report)), show)
    if code:
        raise SaidError(code)


def _ours(row: "Row") -> bool:
    """Whether it is a row of the engine: that a baseline is wrong is its own affair."""
    from fewstep.bench.contenders import ENGINE

    return row.kind == ENGINE


def _one(name: str, own: Mapping[str, Any] | None, typed: Typed, place: str, loud: bool) -> "Report":
    """One network, one run, in this process."""
    from fewstep.bench import run

    settings = typed.settings()
    subject = _opened(name, own, place, max(settings.batches))
    with progress("bench", quiet=not loud) as advance:
        return run(subject, settings, advance)


def _races(name: str | None, own: Mapping[str, Any] | None, full: bool, typed: Typed, place: str) -> "list[Race]":
    from fewstep.bench.matrix import everything, one, record

    if name is None:
        return (everything if full else record)(typed.asked(), place)
    settings = typed.settings()
    return one(name, _opened(name, own, place, max(settings.batches)), settings, own, place)


def _opened(name: str, own: Mapping[str, Any] | None, place: str, most: int) -> "Subject":
    from fewstep.bench import open_subject

    return open_subject(name, place, most, own=own)


def _of_students(name: str) -> bool:
    """Whether it is a network for each number of steps, each of which runs in a process of its own."""
    from fewstep.bench import NETWORKS

    return name in NETWORKS and NETWORKS[name].by_steps


def _preset(name: str | None) -> str | None:
    """A name that stands for random weights, as before there were others. ArgumentError for another."""
    from fewstep.bench import PRESETS

    if name is not None and name not in PRESETS:
        raise ArgumentError("preset", name, ", ".join(PRESETS))
    return name


def _check_out(out: Path | None) -> None:
    from fewstep.bench.results import FILES
    from fewstep.files import check_writable

    for name in FILES if out is not None else ():
        check_writable(Path(out or "") / name)


def _place(device: str | None, threads: int | None) -> str:
    """The device; threads are set. ArgumentError where there is none of them."""
    import torch

    if device not in (None, "cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise ArgumentError("device", device, "cpu" + " or cuda" * torch.cuda.is_available())
    if threads is not None:
        torch.set_num_threads(integer("threads", threads, 1, 1024))
    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def _rendered(report: "Report") -> dict[str, bytes]:
    from fewstep.bench.reports import rendered

    return rendered(report)
