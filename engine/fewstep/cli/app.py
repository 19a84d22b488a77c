"""The `fewstep` command: its parts, and how every failure becomes one line and an exit code."""

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Annotated

import typer

from fewstep.cli.bench import EXAMPLES as BENCH_EXAMPLES
from fewstep.cli.bench import bench
from fewstep.cli.bench_serve import EXAMPLES as BENCH_SERVE_EXAMPLES
from fewstep.cli.bench_serve import bench_serve
from fewstep.cli.cache import EXAMPLES as CACHE_EXAMPLES
from fewstep.cli.cache import cache
from fewstep.cli.convert import EXAMPLES as CONVERT_EXAMPLES
from fewstep.cli.convert import convert
from fewstep.cli.distill import EXAMPLES as DISTILL_EXAMPLES
from fewstep.cli.distill import distill
from fewstep.cli.evaluate import EXAMPLES as EVALUATE_EXAMPLES
from fewstep.cli.evaluate import evaluate
from fewstep.cli.failures import EXIT_INTERRUPTED, EXIT_OK, SaidError, described, tell
from fewstep.cli.generate import EXAMPLES as GENERATE_EXAMPLES
from fewstep.cli.generate import generate
from fewstep.cli.info import EXAMPLES as INFO_EXAMPLES
from fewstep.cli.info import info
from fewstep.cli.serve import EXAMPLES as SERVE_EXAMPLES
from fewstep.cli.serve import serve
from fewstep.cli.shared import emit, examples, write_out
from fewstep.cli.train import EXAMPLES as TRAIN_EXAMPLES
from fewstep.cli.train import train
from fewstep.cli.training_options import distill_defaults, train_defaults
from fewstep.cli.verb import Verb, Verbs, with_defaults
from fewstep.errors import ArgumentError, OutputError

app = typer.Typer(
    help="Sample from diffusion U-Nets in 1 to 8 steps.",
    cls=Verbs,
    epilog=examples(
        "Four pictures of the model in the box, and a sheet of them:",
        "  fewstep generate digits --n 4",
        "What a model is, and how it samples:",
        "  fewstep info digits",
        "What is installed, and on which devices:",
        "  fewstep info",
        "All that can be asked for:",
        "  fewstep generate --help",
    ),
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("generate", cls=Verb, epilog=GENERATE_EXAMPLES)(generate)
app.command("info", cls=Verb, epilog=INFO_EXAMPLES)(info)
app.command("convert", cls=Verb, epilog=CONVERT_EXAMPLES)(convert)
app.command("bench", cls=Verb, epilog=BENCH_EXAMPLES)(bench)
app.command("bench serve", cls=Verb, epilog=BENCH_SERVE_EXAMPLES)(bench_serve)
app.command("cache", cls=Verb, epilog=CACHE_EXAMPLES)(cache)
app.command("train", cls=with_defaults(train_defaults), epilog=TRAIN_EXAMPLES)(train)
app.command("distill", cls=with_defaults(distill_defaults), epilog=DISTILL_EXAMPLES)(distill)
app.command("serve", cls=Verb, epilog=SERVE_EXAMPLES)(serve)
app.command("evaluate", cls=Verb, epilog=EVALUATE_EXAMPLES)(evaluate)


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        from fewstep.version import __version__

        write_out(f"fewstep {__version__}\n")
        raise typer.Exit
    if context.invoked_subcommand is None:
        context.get_help()
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0 done; 2 the request or the model is wrong, said in one line; 1 an unexpected failure; 130 Ctrl-C.
    With --json a failure is one JSON object on stdout as well.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with _streams():
        try:
            _refuse_empty(arguments)
            code = app(arguments, prog_name="fewstep", standalone_mode=False)
            write_out("")
        except (typer.Exit, SaidError) as ended:
            return ended.exit_code
        except (Exception, KeyboardInterrupt) as error:
            return _fail(error, arguments)
        if code == EXIT_INTERRUPTED:
            return _fail(KeyboardInterrupt(), arguments)
        return code if isinstance(code, int) else EXIT_OK


def _fail(error: BaseException, arguments: Sequence[str]) -> int:
    verb = next(iter(arguments), "")
    code = tell(error, verb)
    if "--json" in arguments:
        with suppress(OutputError, typer.Exit):
            emit({"error": described(error, verb)})
    return code


def _refuse_empty(arguments: Sequence[str]) -> None:
    """ArgumentError for an empty argument: as a path it would be the current folder, and elsewhere "not given"."""
    option = "argument"
    for word in arguments:
        name, equals, value = word.partition("=")
        empty = value if equals and name.startswith("--") else word
        if not empty.strip():
            raise ArgumentError(name if equals else option, empty, "a value; a shell variable without one is empty")
        option = word if word.startswith("-") else "argument"


@contextmanager
def _streams() -> Iterator[None]:
    """Within it stdout and stderr can be written to: they may have been closed (`>&-`), or have few letters."""
    with ExitStack() as stack:
        if sys.stdout is None:
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        if sys.stderr is None:
            stack.enter_context(redirect_stderr(stack.enter_context(open(os.devnull, "w"))))
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
                stack.callback(stream.reconfigure, errors=stream.errors)
                stream.reconfigure(errors="replace")
        yield
