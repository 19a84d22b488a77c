"""`fewstep bench serve`: a load for a server, and what came of it."""

import importlib.util
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewstep.checks import integer
from fewstep.cli import options
from fewstep.cli.failures import keep
from fewstep.cli.shared import emit, examples, numbers, progress, whole_numbers, write_out
from fewstep.errors import ArgumentError

if TYPE_CHECKING:
    from fewstep.serve.load import Report

EXAMPLES = examples(
    "The model in the box on a server of its own, 8 requests at a time:",
    "  fewstep bench serve digits --steps 1,2,4,8",
    "A server that runs, 20 requests a second at random times for a minute, most of them of one step:",
    "  fewstep bench serve http://127.0.0.1:8000 --rate 20 --requests 1200 --steps 1,8 --weights 9,1",
    "Streamed, with a deadline instead of steps, and a picture of the latencies:",
    "  fewstep bench serve digits --stream --deadline-ms 100 --rate 10 --out out/load",
)
LOAD, ASKED = "How much", "What each request asks for"
WHAT = "A server's address such as http://127.0.0.1:8000; or a model, for a server of its own while it is measured."


def bench_serve(
    target: Annotated[str, typer.Argument(metavar="URL|MODEL", help=WHAT)],
    requests: Annotated[int, typer.Option(help="At most so many. Default: 200.", rich_help_panel=LOAD)] = 200,
    seconds: Annotated[
        float, typer.Option(help="No request is begun after so many. Default: 60.", rich_help_panel=LOAD)
    ] = 60.0,
    concurrency: Annotated[
        int, typer.Option(help="Requests at a time, without --rate. Default: 8.", rich_help_panel=LOAD)
    ] = 8,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Requests a second on average, at the times of a Poisson process. Default: none; a closed loop.",
            rich_help_panel=LOAD,
        ),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            help="Model calls, drawn anew for each request. Default: the server's choice.", rich_help_panel=ASKED
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="How often each of --steps is drawn. Default: all alike.", rich_help_panel=ASKED),
    ] = None,
    deadline_ms: Annotated[
        int | None, typer.Option(help="Of each request. Default: none.", rich_help_panel=ASKED)
    ] = None,
    stream: Annotated[bool, typer.Option("--stream", help="As server-sent events.", rich_help_panel=ASKED)] = False,
    previews: Annotated[
        int, typer.Option(help="Partial images of a streamed request, 0 to 3. Default: 1.", rich_help_panel=ASKED)
    ] = 1,
    served: Annotated[
        str | None,
        typer.Option(help="Which of the server's models. Default: its first.", rich_help_panel=ASKED),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="What to draw; again for another, in turn. Default: each class of the model, or one sentence.",
            rich_help_panel=ASKED,
            metavar="TEXT",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of arrivals, steps and pictures. Default: 0.", rich_help_panel=ASKED)] = 0,
    timeout: Annotated[
        float, typer.Option(help="Seconds after which a request has failed. Default: 120.", rich_help_panel=LOAD)
    ] = 120.0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A folder for serve.json and serve.png. Default: none.")
    ] = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Give a server a load: throughput, latencies with their spread, refusals, failures, steps given.

    Before it each number of steps draws one picture twice, which must be the same. Latencies count from the moment at
    which a request was to be sent, so that a server which falls behind is seen to. A key is read from FEWSTEP_API_KEY.
    """
    from fewstep.cli.bench_serve_view import page
    from fewstep.files import check_writable
    from fewstep.serve.load import Traffic, run
    from fewstep.serve.load.remote import Target
    from fewstep.serve.load.report import FILES

    if out is not None:
        for name in FILES:
            check_writable(out / name)
    counts = (None,) if steps is None else tuple(integer("steps", each, 1, 1000) for each in _whole(steps))
    traffic = Traffic(
        requests=requests,
        seconds=seconds,
        concurrency=concurrency,
        rate=rate,
        steps=counts,
        weights=None if weights is None else tuple(numbers("weights", weights)),
        stream=stream,
        previews=previews,
        deadline_ms=deadline_ms,
        seed=seed,
        timeout=timeout,
    )
    subjects = [{"prompt": each} for each in prompt] if prompt else None
    with _server(target) as url:
        key = os.environ.get("FEWSTEP_API_KEY") if url == target else None
        with progress("load", quiet=quiet or as_json) as advance:
            report = run(Target(url, served, key), traffic, subjects, advance)

    def show(paths: list[Path], more: Mapping[str, Any]) -> None:
        if as_json:
            emit({**report.to_dict(), "files": paths, **more})
        else:
            write_out(page(report, paths))

    keep(lambda: [] if out is None else report.save(out, _picture(report)), show)


@contextmanager
def _server(target: str) -> Iterator[str]:
    """The address of a server that runs, or of one that runs for as long as this."""
    if "://" in target:
        yield target
        return
    from fewstep.serve.load.hosting import hosted

    with hosted(target) as url:
        yield url


def _picture(report: "Report") -> bytes | None:
    """None without matplotlib: the numbers must not be lost for want of a picture."""
    from fewstep.serve.load.plot import picture

    return picture(report) if importlib.util.find_spec("matplotlib") else None


def _whole(steps: str) -> list[int]:
    counts = whole_numbers("steps", steps)
    if len(set(counts)) != len(counts):
        raise ArgumentError("steps", steps, "each number once; --weights says how often")
    return counts
