"""The pages of --help: as typer draws them, or in a narrow terminal plainly, and worked examples that can be copied."""

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from typing import Any

from fewstep.cli.page import command_lines, filled, styled, width
from fewstep.cli.shared import write_out

NARROW = 80  # columns; with fewer, typer's tables would cut the names of options


class _Screen(io.StringIO):
    """Takes what would go to a stream, and passes for it."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return bool(self._stream.isatty())


def show_help(command: Any, draw: Callable[[Any, Any], None], context: Any, formatter: Any) -> None:
    """Print a command's help: drawn by typer where there is room, else an option a paragraph; then its examples."""
    columns = width() or NARROW
    if columns < NARROW:
        page = "\n".join([*_narrow(command, context, columns), *_examples(command.epilog or "", columns)]) + "\n"
    else:
        screen, text, epilog = _Screen(sys.stdout), command.help, command.epilog
        command.help, command.epilog = "\n\n".join(_paragraphs(text)), None
        try:
            with redirect_stdout(screen):
                draw(context, formatter)
        finally:
            command.help, command.epilog = text, epilog
        page = "\n".join([screen.getvalue().rstrip(), *_examples(epilog or "", columns)]) + "\n"
    write_out(page)


def _narrow(command: Any, context: Any, columns: int) -> Iterator[str]:
    yield from filled(f"Usage: {context.command_path} {' '.join(command.collect_usage_pieces(context))}", columns)
    for paragraph in _paragraphs(command.help):
        yield from ["", *filled(paragraph, columns)]
    panels: dict[str, list[Any]] = {}
    for param in command.get_params(context):
        panels.setdefault(getattr(param, "rich_help_panel", None) or "", []).append(param)
    for panel, params in panels.items():
        yield from ["", f"{panel or 'Options'}:"]
        for param in params:
            yield from filled(", ".join(_names(param)), columns, "  ")
            yield from filled(_about(param), columns, " " * 6)
    for name, verb in getattr(command, "commands", {}).items():
        yield from ["", *filled(name, columns, "  "), *filled(_paragraphs(verb.help)[0], columns, " " * 6)]


def _paragraphs(text: str | None) -> list[str]:
    return [" ".join(paragraph.split()) for paragraph in (text or "").split("\n\n")]


def _names(param: Any) -> list[str]:
    names = [*param.opts, *param.secondary_opts]
    return names if names[0].startswith("-") else [param.metavar or names[0].upper()]


def _about(param: Any) -> str:
    default = param.default if getattr(param, "show_default", False) else None
    said = [getattr(param, "help", None) or "", "[required]" if param.required else ""]
    if default is not None and not isinstance(default, bool):
        said.append(f"[default: {default}]")
    return " ".join(filter(None, said))


def _examples(text: str, columns: int) -> list[str]:
    """The examples, no line longer than the terminal: commands go on after a backslash."""
    if not text:
        return []
    lines = []
    for line in text.split("\n"):
        if line.startswith("  "):
            lines += command_lines(line.strip(), columns - 1, indent="  ")
        else:
            lines += filled(line, columns - 1)
    return ["", styled(" Examples", "bold"), "", *(f" {line}" for line in lines), ""]
