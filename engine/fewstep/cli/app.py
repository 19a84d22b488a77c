"""The `fewstep` command: its parts, and how every failure becomes one line and an exit code."""

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import typer

from fewstep.cli.bench import EXAMPLES as BENCH_EXAMPLES
from fewstep.cli.bench import bench
from fewstep.cli.convert import EXAMPLES as CONVERT_EXAMPLES
from fewstep.cli.convert import convert
from fewstep.cli.distill import EXAMPLES as DISTILL_EXAMPLES
from fewstep.cli.distill import distill
from fewstep.cli.evaluate import EXAMPLES as EVALUATE_EXAMPLES
from fewstep.cli.evaluate import evaluate
from fewstep.cli.generate import EXAMPLES as GENERATE_EXAMPLES
from fewstep.cli.generate import generate
from fewstep.cli.info import EXAMPLES as INFO_EXAMPLES
from fewstep.cli.info import info
from fewstep.cli.shared import emit, examples, plain, say, warnings_as_lines
from fewstep.cli.train import EXAMPLES as TRAIN_EXAMPLES
from fewstep.cli.train import train
from fewstep.errors import ArgumentError, FewstepError, OutputError

EXIT_OK, EXIT_UNEXPECTED, EXIT_USER, EXIT_INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    help="Sample from diffusion U-Nets in 1 to 8 steps.",
    epilog=examples(
        "  fewstep info                    what is installed, and on which devices",
        "  fewstep info MODEL              what a model is, and how it samples",
        "  fewstep generate MODEL --n 4    four pictures and a sheet of them",
        "  fewstep generate --help         all that can be asked for",
    ),
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("generate", epilog=GENERATE_EXAMPLES)(generate)
app.command("info", epilog=INFO_EXAMPLES)(info)
app.command("convert", epilog=CONVERT_EXAMPLES)(convert)
app.command("bench", epilog=BENCH_EXAMPLES)(bench)
app.command("train", epilog=TRAIN_EXAMPLES)(train)
app.command("distill", epilog=DISTILL_EXAMPLES)(distill)
app.command("evaluate", epilog=EVALUATE_EXAMPLES)(evaluate)


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        from fewstep.version import __version__

        typer.echo(f"fewstep {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0 done; 2 the request or the model is wrong, said in one line; 1 an unexpected failure; 130 Ctrl-C.
    With --json a failure is one JSON object on stdout as well.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with warnings_as_lines():
            code = app(arguments, prog_name="fewstep", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except Exception as error:
        return _fail(error, "--json" in arguments)
    if code == EXIT_INTERRUPTED:
        return _fail(KeyboardInterrupt(), "--json" in arguments)
    return code if isinstance(code, int) else EXIT_OK


def _explain(error: BaseException) -> tuple[int, str]:
    if isinstance(error, FewstepError):
        return EXIT_USER, str(error)
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED, "interrupted"
    if hasattr(error, "format_message"):  # typer's word for a wrong option, whether or not it rests on click
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "fewstep"
        return getattr(error, "exit_code", EXIT_USER), f"{error.format_message()} (see {command} --help)"
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return EXIT_UNEXPECTED, "out of memory; fewer samples at once (--n) or --dtype bfloat16 need less"
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        message = f"{error.filename}: {reason}" if error.filename else reason
    else:
        message = f"unexpected {type(error).__name__}: {str(error)[:300] or 'no message'}"
    return EXIT_UNEXPECTED, f"{message}; re-run with FEWSTEP_TRACEBACK=1 to see where"


def _fail(error: BaseException, as_json: bool) -> int:
    code, message = _explain(error)
    if code == EXIT_UNEXPECTED and os.environ.get("FEWSTEP_TRACEBACK"):
        traceback.print_exception(error)
    say("error", "bold red", message)
    if as_json:
        failure: dict[str, object] = {"type": type(error).__name__, "message": plain(message)}
        failure["exit_code"] = code
        if isinstance(error, ArgumentError):
            failure["argument"] = error.argument
        with suppress(OutputError, typer.Exit):
            emit({"error": failure})
    return code
