"""A verb of the command line: its help fits the terminal, and failures and warnings speak of its options."""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from typer.core import TyperCommand, TyperGroup

from fewstep import errors
from fewstep.cli.help import show_help
from fewstep.cli.shared import say
from fewstep.errors import TEACHER, FewstepError, UntrainedPlanWarning

OWN_WARNINGS = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Warning)]
Options = Mapping[str, str]  # of an argument, as it is typed: {"guidance_scale": "--guidance-scale"}


class Verb(TyperCommand):
    """One verb."""

    def invoke(self, ctx: Any) -> Any:
        """Run it."""
        options = options_of(self)
        with warnings_as_lines():
            try:
                return super().invoke(ctx)
            except FewstepError as error:
                error.args = (in_options(error, options),)
                raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print its page of help."""
        show_help(self, super().format_help, ctx, formatter)


class Verbs(TyperGroup):
    """All of them. A verb of two words, such as "bench serve", goes before the one that its first word is."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The verb that a command line begins with, and what is left of the line."""
        two = " ".join(args[:2])
        return super().resolve_command(ctx, [two, *args[2:]] if two in self.commands else args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the first page of help."""
        show_help(self, super().format_help, ctx, formatter)


def with_defaults(defaults: Callable[[], Mapping[str, str]]) -> type[Verb]:
    """A verb whose --help says what an option is if it is not given, where that stands elsewhere: in settings."""

    class WithDefaults(Verb):
        def format_help(self, ctx: Any, formatter: Any) -> None:
            known = defaults()
            for param in cast(list[Any], self.params):
                if param.name in known and not param.required and "Default" not in param.help:
                    param.help = f"{param.help} Default: {known[param.name]}."
            super().format_help(ctx, formatter)

    return WithDefaults


def options_of(command: Any) -> dict[str, str]:
    """Each argument of the command, as it is typed."""
    longest = {param.name: max(param.opts, key=len) for param in command.params}
    return {name: option for name, option in longest.items() if option.startswith("--")}


def in_options(error: FewstepError, options: Options) -> str:
    """The error's line with the names of options as they are typed, and without what only Python can do.

    A name of one word, such as labels, reads as well in either, and may be a word like any other.
    """
    text = str(error).removesuffix(error.in_python)
    for name, option in options.items():
        if "_" in name:
            text = re.sub(rf"(?<![\w./'\"-]){name}(?![\w./=('\"-])", option, text)
    return text


def advice(warning: UntrainedPlanWarning) -> str:
    """What to ask for instead, in options; in the warning's own words where no option says it."""
    if not warning.instead or "spacing" in warning.instead:
        return str(warning)
    asked = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in warning.instead.items())
    return f"{warning.fact}; ask for {asked}{TEACHER if warning.advice.endswith(TEACHER) else ''}"


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Within it warnings are lines on stderr, each once; Python would show a line of source as well."""
    said: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        line = advice(message) if isinstance(message, UntrainedPlanWarning) else str(message)
        if line not in said:
            said.add(line)
            say("warning", "bold yellow", line)

    with warnings.catch_warnings():
        for own in OWN_WARNINGS:
            warnings.simplefilter("always", own)
        warnings.showwarning = show
        yield
