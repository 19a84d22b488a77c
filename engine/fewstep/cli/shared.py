"""What the commands share: where they print, and how they read lists of numbers."""

import io
import json
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer

from fewstep.errors import ArgumentError, NonFiniteWarning, PlanWarning, UnfinishedWriteWarning
from fewstep.files import output_error
from fewstep.request.asked import MAX_SAMPLES

OWN_WARNINGS = (NonFiniteWarning, PlanWarning, UnfinishedWriteWarning)
MAX_SEED = 2**64 - 1


def examples(*lines: str) -> str:
    """The end of a command's --help: worked examples, as they are typed."""
    typed = "\n".join(line.replace("[", r"\[") for line in lines)
    # rich would draw the ":100:" of a label range as an emoji; a tag in between keeps it text.
    return "[bold]Examples[/bold]\n\n" + typed.replace(":", "[none]:[/none]")


def plain(text: object) -> str:
    """One printable line, its spaces kept: a model's card or a file's name must not steer the terminal."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", str(text)).rstrip()


def emit(payload: Mapping[str, object]) -> None:
    """The result of a command as the one JSON object on stdout; numbers that JSON lacks become null."""
    write_out(json.dumps(_jsonable(payload), indent=2, allow_nan=False) + "\n")


def emit_fields(title: str, fields: Mapping[str, object]) -> None:
    """A title and its facts, aligned; a text of several lines hangs below its name."""
    from rich.console import Console
    from rich.text import Text

    page = io.StringIO()
    terminal = sys.stdout.isatty() or None  # None leaves it to FORCE_COLOR
    console = Console(file=page, force_terminal=terminal, soft_wrap=True, highlight=False, emoji=False)
    console.print(Text(plain(title), style="bold"))
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        for index, line in enumerate(str(value).split("\n")):
            label = "" if index else plain(name)
            console.print(Text.assemble("  ", (label.ljust(width), "cyan"), "  ", plain(line)))
    write_out(page.getvalue())


def write_out(text: str) -> None:
    """All of a command's output, at once.

    Raises:
        OutputError: it cannot be written; the disk behind stdout is full, say.
        typer.Exit: nobody reads it any more (`fewstep info | head -1`), which is no failure to speak of.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # The interpreter flushes what is left once more when it ends, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise typer.Exit(1) from None
        raise output_error("stdout", error) from error


def say(word: str, style: str, message: str) -> None:
    """One line on stderr that begins with a word such as "error:"."""
    from rich.console import Console
    from rich.text import Text

    line = Text.assemble((f"{word}: ", style), plain(message))
    Console(stderr=True, soft_wrap=True, highlight=False).print(line)


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Within it our own warnings are lines on stderr, each once; Python would show a line of our source as well."""
    said: set[str] = set()
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, OWN_WARNINGS):
                shown(message, category, *where, **more)
            elif str(message) not in said:
                said.add(str(message))
                say("warning", "bold yellow", str(message))

        for own in OWN_WARNINGS:
            warnings.simplefilter("always", own)
        warnings.showwarning = show
        yield


@contextmanager
def progress(description: str, *, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Gives `advance(done, total)`, a bar on stderr; None when that is no terminal, or when `quiet`."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def numbers(argument: str, text: str) -> list[float]:
    """`3,7` is [3, 7]; `5:100:16` is 16 values from 5 to 100, both ends among them; parts mix: `1,5:100:4`.

    Whole values come back as int. ArgumentError names `argument`, and the part that is not understood.
    """
    allowed = "numbers like 3,7 or a range start:stop:count like 5:100:16"
    values: list[float] = []
    for part in text.split(","):
        try:
            values += _range(part) if ":" in part else [_finite(part)]
        except ValueError:
            raise ArgumentError(argument, part.strip() or text, allowed) from None
        if len(values) > MAX_SAMPLES:
            raise ArgumentError(argument, text, f"at most {MAX_SAMPLES} values")
    return values


def whole_numbers(argument: str, text: str) -> list[int]:
    """`numbers`, all of them integers from 0 to 2^64 - 1."""
    values = numbers(argument, text)
    for value in values:
        if not isinstance(value, int) or not 0 <= value <= MAX_SEED:
            raise ArgumentError(argument, value, "whole numbers from 0 like 0,1,2 or a range like 0:15:16")
    return [int(value) for value in values]


def _range(part: str) -> list[float]:
    start_text, stop_text, count_text = part.split(":")
    start, stop, count = _finite(start_text), _finite(stop_text), int(count_text)
    if not 1 <= count <= MAX_SAMPLES:
        raise ValueError
    if count == 1:
        return [start]
    steps = [start + (stop - start) * index / (count - 1) for index in range(count - 1)]
    return [_whole(value) for value in [*steps, stop]]


def _finite(text: str) -> float:
    stripped = text.strip()
    if re.fullmatch(r"[+-]?\d{1,20}", stripped):
        return int(stripped)
    value = float(stripped)
    if not math.isfinite(value):
        raise ValueError
    return _whole(value)


def _whole(value: float) -> float:
    return int(value) if float(value).is_integer() else value


def _jsonable(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
