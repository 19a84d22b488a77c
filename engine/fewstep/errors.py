"""The errors and warnings of fewstep, each one printable line, and how a value is shown in one."""

import errno
import pickle
import re
from collections.abc import Mapping, Sequence
from typing import Final

LONGEST: Final = 600  # characters of a value in words: a file's name, and what is wrong with it

# What breaks a line or steers a terminal, and halves of a surrogate pair, which no UTF-8 file or stream takes.
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# Torch has no class for a CPU that is out of memory; these are the words of its allocators, and of C++.
_NO_MEMORY: Final = re.compile(r"DefaultCPUAllocator|can't allocate memory|not enough memory|out of memory|bad_alloc")


class FewstepError(Exception):
    """Base of every error that is the caller's to mend; the CLI prints it as one line and exits with 2.

    The message is one printable line whatever it quotes: what is no character of a line stands there as `\\x0a` does.
    `in_python` ends it with what only a Python caller can do; the command line leaves it out.
    """

    def __init__(self, message: str, in_python: str = "") -> None:
        self.in_python = in_python
        super().__init__(printable(message + in_python))


class ArgumentError(FewstepError, ValueError):
    """An argument outside what is allowed.

    `ArgumentError("steps", 0, "an integer from 1 to 1000")` reads "steps: got 0; allowed: an integer from 1 to 1000".
    """

    def __init__(self, argument: str, value: object, allowed: str, in_python: str = "") -> None:
        self.argument, self.value, self.allowed = argument, value, allowed
        super().__init__(f"{argument}: got {_shown(value)}; allowed: {allowed}", in_python)

    def __reduce__(self) -> tuple[object, ...]:
        """By its own arguments: `args` holds the message alone. A value that no pickle takes goes in words."""
        value = self.value
        try:
            pickle.dumps(value)
        except Exception:  # a class's own __reduce__ may raise anything
            value = _shown(value)
        return type(self), (self.argument, value, self.allowed, self.in_python)


class ModelError(FewstepError):
    """A model file or folder or a warm-up manifest that cannot be loaded; the message names the file and why."""


class NoSamplerError(ModelError):
    """A model whose own sampler fewstep does not have; it can be loaded with another, which the caller names."""


class OutputError(FewstepError):
    """A result that cannot be written; the message names the path and the reason, and nothing is left behind."""


TEACHER = ", or take the model it was distilled from"  # how the advice of an `UntrainedPlanWarning` may end


class PlanWarning(UserWarning):
    """A plan that runs, and is not what its user is likely to want."""


class WastedCallWarning(PlanWarning):
    """A plan that calls the network where nothing it answers changes the sample."""


class OvershootWarning(PlanWarning):
    """A plan whose steps are too long for its method, so that it ends in noise."""


class UntrainedPlanWarning(PlanWarning):
    """A distilled model is asked for a sampler, a number of steps or noise levels that it was not trained for.

    Attributes:
        fact: the message without its advice.
        advice: the rest of the message, which may be empty.
        instead: what else to ask for, by the names of the arguments: {"sampler": "ddim", "steps": "2 or 4"}.
    """

    def __init__(self, fact: str, advice: str = "", instead: Mapping[str, str] | None = None) -> None:
        self.fact, self.advice, self.instead = fact, advice, dict(instead or {})
        super().__init__(f"{fact}; {advice}" if advice else fact)

    def __reduce__(self) -> tuple[object, ...]:
        """By its own arguments: `args` holds the message alone."""
        return type(self), (self.fact, self.advice, self.instead)


class NonFiniteWarning(UserWarning):
    """Samples are not finite, and what holds them now, bytes or a file, does not show it by itself."""


class UnusedPartWarning(UserWarning):
    """A file has a part that was applied to nothing; the message names it."""


class BackendWarning(UserWarning):
    """A backend that was asked for does not run the network, and torch does; the message says why."""


class UnfinishedWriteWarning(UserWarning):
    """A process was killed between two renames of files that belong together; what became of them."""


def printable(text: str) -> str:
    """`text` as one line that any terminal and any UTF-8 file takes: what is not printable is escaped, as in repr."""
    return _UNPRINTABLE.sub(lambda found: ascii(found.group())[1:-1], text)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's, numpy's, the system's, or torch's of a CPU or a GPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None


def shown(value: object, length: int = 80) -> str:
    """`value` as its repr on one line, at most `length` characters; also one too deep or too long for repr."""
    try:
        text = " ".join(repr(value).split())
    # repr walks all of a nested value, and has limits of depth and, for whole numbers, of digits.
    except (RecursionError, ValueError):
        text = f"a {type(value).__name__} too large to show"
    return text if len(text) <= length else text[: length - 3] + "..."


def some_of(names: Sequence[str], most: int) -> str:
    """The first of some names, `most` at most, and how many more there are: "a, b and 3 more"."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def reason_of(error: BaseException) -> str:
    """What a library or the system says is wrong, in a line of at most 120 characters."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:120]


def _shown(value: object) -> str:
    if isinstance(value, str) and " " in value:
        return value if len(value) <= LONGEST else value[: LONGEST - 3] + "..."
    return shown(value, 120)
