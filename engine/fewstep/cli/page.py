"""Text that fits the page: as wide as the terminal, broken between words."""

import io
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import TextIO

from fewstep.columns import table_lines

LEAST = 20  # columns; narrower than that nothing can be read


def width() -> int | None:
    """Columns to print in: what COLUMNS says, or the terminal has; None for a file or a pipe: lines stay whole."""
    said = os.environ.get("COLUMNS", "")
    if said.isdecimal() and int(said) > 0:
        return max(int(said), LEAST)
    try:
        return max(os.get_terminal_size(sys.stdout.fileno()).columns, LEAST)
    except (OSError, ValueError):
        return None


def styled(text: str, style: str, stream: TextIO | None = None) -> str:
    """The text in a style, where the stream, stdout unless given, is a terminal that has it."""
    from rich.console import Console
    from rich.text import Text

    page = io.StringIO()
    terminal = (stream or sys.stdout).isatty() or None  # None leaves it to FORCE_COLOR
    Console(file=page, force_terminal=terminal, soft_wrap=True, highlight=False, emoji=False).print(
        Text(text, style=style), end=""
    )
    return page.getvalue()


def wrapped(text: str, columns: int | None) -> list[str]:
    """Lines of at most so many columns, broken between words; a longer word stays whole."""
    lines = []
    for line in text.split("\n"):
        if columns is None or len(line) <= columns:
            lines.append(line)
        elif re.match(r"fewstep [a-z]+ ", line) and ";" not in line:
            lines += command_lines(line, columns)
        else:
            lines += filled(line, columns, hanging="  ")
    return lines


def filled(line: str, columns: int, indent: str = "", hanging: str | None = None) -> list[str]:
    """A line as several of at most so many columns, broken between words; all but the first begin with `hanging`."""
    return textwrap.wrap(
        line,
        columns,
        initial_indent=indent,
        subsequent_indent=indent if hanging is None else hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def titled_table(title: str, lines: Sequence[Sequence[str]], *, keys: int, left: int | None = None) -> list[str]:
    """A blank line, a title and a table of lines of cells, the headings first, as wide as the page.

    Its first `keys` columns say what a line is about; others are left out where they say nothing. The first `left`, of
    words, are aligned to the left: the keys alone unless given.
    """
    columns = width()
    table = [
        column
        for place, column in enumerate(zip(*lines, strict=True))
        if place < keys or not set(column[1:]) <= {"", "-"}
    ]
    room = None if columns is None else columns - 1
    shown = table_lines(table, room, keys=keys, left=keys if left is None else left)
    return ["", *(styled(part, "bold") for part in wrapped(title, columns)), *(f" {line}" for line in shown)]


def command_lines(command: str, columns: int, indent: str = "") -> list[str]:
    """A command as a shell reads it, in lines of at most so many columns that end in a backslash but for the last.

    An option stays beside its value, and what is quoted in one piece.
    """
    word = r"(?:[^\s'\"]|'[^']*'|\"[^\"]*\")+"
    first, *pieces = re.findall(rf"-\S+\s+(?!-){word}|{word}", command)
    lines, line = [], indent + first
    for piece in pieces:
        if len(line) + len(piece) + 3 > columns:
            lines.append(f"{line} \\")
            line = f"{indent}    {piece}"
        else:
            line += f" {piece}"
    return [*lines, line]
