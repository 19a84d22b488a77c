"""What the commands share: where they print, and how they read lists of numbers."""

import json
import logging
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import typer

from fewstep.cli.page import styled, width, wrapped
from fewstep.errors import ArgumentError, printable
from fewstep.files import output_error
from fewstep.request.asked import MAX_SAMPLES

MAX_SEED = 2**64 - 1
LEAST_BESIDE = 30  # columns for a fact beside its name; with fewer it stands below


def examples(*lines: str) -> str:
    """The end of a command's --help: worked examples as they are typed, indented, below what each is for."""
    return "\n".join(lines)


def plain(text: object) -> str:
    """One printable line, its spaces kept: a model's card or a file's name must not steer the terminal."""
    return printable(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", str(text))).rstrip()


def emit(payload: Mapping[str, object]) -> None:
    """The result of a command as the one JSON object on stdout; numbers that JSON lacks become null."""
    write_out(json.dumps(_jsonable(payload), indent=2, allow_nan=False) + "\n")


Fitted = Callable[[int | None], str]  # a text for so many columns; None: as many as it takes


def emit_fields(title: str, fields: Mapping[str, "object | Fitted"]) -> None:
    """A title and its facts, aligned and within the terminal; a text of several lines hangs below its name."""
    columns, longest = width(), max((len(name) for name in fields), default=0)
    beside = columns is None or columns - longest - 4 >= LEAST_BESIDE
    indent = longest + 4 if beside else 4
    room = None if columns is None else columns - indent
    lines = [styled(plain(title), "bold")]
    for name, value in fields.items():
        text = value(room) if callable(value) else str(value)
        parts = [part for line in text.split("\n") for part in wrapped(plain(line), room)]
        label = styled(plain(name).ljust(longest if beside else 0), "cyan")
        lines += [f"  {label}  {parts.pop(0)}" if beside else f"  {label}"]
        lines += [" " * indent + part for part in parts]
    write_out("\n".join(lines) + "\n")


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
    line = styled(f"{word}: ", style, sys.stderr) + plain(message)
    with suppress(OSError):  # nobody reads stderr any more: there is nowhere left to say so
        print(line, file=sys.stderr, flush=True)  # rich's own print would leave by SystemExit(1), and close stdout


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
        with _news(lambda text: bar.update(task, description=plain(text))):
            yield lambda done, total: bar.update(task, description=description, completed=done, total=total)


@contextmanager
def _news(tell: Callable[[str], None]) -> Iterator[None]:
    """Within it what takes long and is no step is told, such as a network that is made ready for a backend."""

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tell(record.getMessage())

    logger, told = logging.getLogger("fewstep"), Told(logging.INFO)
    level = logger.level
    logger.addHandler(told)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(told)
        logger.setLevel(level)


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
