"""How a failure becomes one line, an exit code, and with --json an object; and results that outlive one."""

import os
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer

from fewstep.cli.shared import plain, say
from fewstep.errors import ArgumentError, FewstepError, is_out_of_memory

SPARING = {  # what of a command's options takes the memory
    "generate": "fewer samples at once (--n) or --dtype bfloat16 need less",
    "evaluate": "fewer lanes at once (--batch) or samples (--n) need less",
    "bench": "fewer samples at once (--batch) need less",
    "train": "fewer images at once (--batch), smaller ones (--size) or a smaller U-Net (--channels) need less",
    "distill": "fewer images at once (--batch) need less",
}
EXIT_OK, EXIT_UNEXPECTED, EXIT_USER, EXIT_INTERRUPTED = 0, 1, 2, 130


class SaidError(Exception):
    """The end of a command whose failure has been said already."""

    def __init__(self, exit_code: int) -> None:
        super().__init__()
        self.exit_code = exit_code


def explain(error: BaseException, verb: str = "") -> tuple[int, str]:
    """The exit code, and the line; for a verb what its options can do about it."""
    if isinstance(error, FewstepError):
        return EXIT_USER, str(error)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return EXIT_INTERRUPTED, "interrupted"
    if hasattr(error, "format_message"):  # typer's word for a wrong option, whether or not it rests on click
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "fewstep"
        return getattr(error, "exit_code", EXIT_USER), f"{error.format_message()} (see {path} --help)"
    if is_out_of_memory(error):
        return EXIT_UNEXPECTED, f"out of memory; {SPARING.get(verb, 'a smaller model or picture needs less')}"
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        message = f"{error.filename}: {reason}" if error.filename else reason
    else:
        message = f"unexpected {type(error).__name__}: {str(error)[:300] or 'no message'}"
    return EXIT_UNEXPECTED, f"{message}; re-run with FEWSTEP_TRACEBACK=1 to see where"


def tell(error: BaseException, verb: str = "") -> int:
    """Say what went wrong on stderr; the exit code."""
    code, message = explain(error, verb)
    if code == EXIT_UNEXPECTED and os.environ.get("FEWSTEP_TRACEBACK"):
        traceback.print_exception(error)
    say("error", "bold red", message)
    return code


def described(error: BaseException, verb: str = "") -> dict[str, object]:
    """What went wrong, as --json has it."""
    code, message = explain(error, verb)
    kind = "KeyboardInterrupt" if code == EXIT_INTERRUPTED else type(error).__name__
    failure: dict[str, object] = {"type": kind, "message": plain(message), "exit_code": code}
    return failure | ({"argument": error.argument} if isinstance(error, ArgumentError) else {})


def keep(save: Callable[[], list[Path]], show: Callable[[list[Path], Mapping[str, Any]], None]) -> None:
    """Save what took long to compute, and show it: also where it cannot be saved, on a disk that is full, say.

    Args:
        save: writes, and says which files.
        show: prints, given those files, and what else the --json object has to hold.

    Raises:
        SaidError: the failure.
    """
    try:
        paths = save()
    except (Exception, KeyboardInterrupt) as error:
        try:
            show([], {"error": described(error)})
        finally:  # stdout may be full as well
            code = tell(error)
        raise SaidError(code) from error
    show(paths, {})
