"""The errors a user can cause, and a warning. Each is one line: the argument, the value and what is allowed."""


class FewstepError(Exception):
    """Base of every error that is the caller's to mend; the CLI prints it as one line and exits with 2."""


class ArgumentError(FewstepError, ValueError):
    """An argument outside what is allowed.

    `ArgumentError("steps", 0, "an integer from 1 to 1000")` reads "steps: got 0; allowed: an integer from 1 to 1000".
    """

    def __init__(self, argument: str, value: object, allowed: str) -> None:
        self.argument, self.value, self.allowed = argument, value, allowed
        super().__init__(f"{argument}: got {_shown(value)}; allowed: {allowed}")


class ModelError(FewstepError):
    """A model file or folder or a warm-up manifest that cannot be loaded; the message names the file and why."""


class OutputError(FewstepError):
    """A result that cannot be written; the message names the path and the reason, and nothing is left behind."""


class UntrainedPlanWarning(UserWarning):
    """A distilled model is asked for a sampler, a number of steps or noise levels that it was not trained for."""


class UnfinishedWriteWarning(UserWarning):
    """A process was killed between two renames of files that belong together; what became of them."""


def printable(text: str) -> str:
    """`text` on one line, whatever bytes a file's name has."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _shown(value: object) -> str:
    said = isinstance(value, str) and " " in value  # words about a file, which begin with its path
    text, most = (printable(str(value)), 400) if said else (" ".join(repr(value).split()), 120)
    return text if len(text) <= most else text[: most - 3] + "..."
