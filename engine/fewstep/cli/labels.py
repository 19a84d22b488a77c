"""What is typed after --labels: numbers, ranges of them, and names of classes."""

import csv
import unicodedata
from collections.abc import Sequence

from fewstep.cli.shared import numbers
from fewstep.errors import ArgumentError, some_of
from fewstep.request.asked import MAX_SAMPLES
from fewstep.results import label_word

SHOWN = 12


def read_labels(text: str, names: Sequence[str]) -> list[float | str]:
    """`circle,2` is ["circle", 2]; a word that is the name of a class is that class, also where it looks like a number.

    The rest are numbers and ranges as `numbers` has them. A name with a comma stands in double quotes, as CSV has it.

    Raises:
        ArgumentError: naming the part that is neither, and what is allowed.
    """
    try:
        parts = next(csv.reader([text], skipinitialspace=True), [""])
    except csv.Error:
        parts = [text]
    values: list[float | str] = []
    for part in parts:
        name = unicodedata.normalize("NFC", part)
        name = name if name in names else name.strip()
        values += [name] if name in names else _numbers(part, names)
        if len(values) > MAX_SAMPLES:
            raise ArgumentError("labels", text, f"at most {MAX_SAMPLES} values")
    return values


def _numbers(part: str, names: Sequence[str]) -> list[float]:
    try:
        return numbers("labels", part)
    except ArgumentError as error:
        if not names:
            raise
        allowed = f"{error.allowed}, or names: {some_of([*map(label_word, names)], SHOWN)}"
        raise ArgumentError("labels", part.strip(), allowed) from None
