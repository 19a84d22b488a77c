"""One of a number of classes, by its number or its name."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fewstep.checks import entries, integer
from fewstep.errors import ArgumentError, some_of
from fewstep.request.conditions.labels import as_list, listed
from fewstep.request.conditions.words import Rows, Words, by_label_alone

MAX_CLASSES = 2**31 - 1
MAX_NAME = 255  # characters
SHOWN = 12  # names in an error
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class Classes:
    """Integer classes 0 .. count - 1.

    Attributes:
        count: how many there are.
        null: the class that stands for no condition; None where the model has none. Samples that are guided by a pair
            in `condition` then have their label in both halves.
        names: of the classes, in order, where they have names: then a label may be a name. A string is always a name
            and a number always a number, also where a class is called "3".
    """

    count: int
    null: int | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", integer("classes.count", self.count, 1, MAX_CLASSES))
        if self.null is not None:
            object.__setattr__(self, "null", integer("classes.null", self.null, 0, MAX_CLASSES))
        names = entries(self.names)
        if names is None or not all(isinstance(name, str) for name in names):
            raise ArgumentError("classes.names", self.names, f"{self.count} names, no two alike")
        object.__setattr__(self, "names", tuple(unicodedata.normalize("NFC", name) for name in names))
        for name in self.names:
            if (problem := check_name(name)) is not None:
                raise ArgumentError("classes.names", ascii(name), f"printable text, and this is {problem}")
        if self.names and (len(set(self.names)) != self.count or len(self.names) != self.count):
            raise ArgumentError("classes.names", list(self.names), f"{self.count} names, no two alike")

    @property
    def allowed(self) -> str:
        """What an error says is allowed."""
        numbers = f"integers from 0 to {self.count - 1}"
        if not self.names:
            return numbers
        return f"{numbers}, or names: {some_of(self.names, SHOWN)}"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The labels."""
        return ("labels",)

    @property
    def guidable(self) -> bool:
        """Whether there is a null class."""
        return self.null is not None

    def spread(self, samples: int) -> list[float]:
        """The classes in their order, and from the first again."""
        return [index % self.count for index in range(samples)]

    def blank(self, samples: int) -> dict[str, Any]:
        """The first class for each sample."""
        return {"labels": [0] * samples}

    def rows(self, words: Words, samples: int, guided: bool, by_hand: Sequence[str] = ()) -> Rows:
        """The labels as the model takes them, int64 [samples], and the null class; no label asks for no class."""
        allowed = f"nothing: this model takes no prompts, but labels: {self.allowed}"
        if not by_label_alone(words, by_hand, allowed):
            return Rows()
        null = {} if self.null is None else {"labels": torch.full((samples,), self.null, dtype=torch.int64)}
        if words.labels is None:
            if self.null is None:
                raise ArgumentError("labels", None, f"one per sample, {self.allowed}: this model has no null class")
            return Rows(null, null, numbers=self.inputs)
        values = as_list(self._numbered(listed(words.labels, samples)), self.allowed)
        for value in values:
            if not isinstance(value, int) or not 0 <= value < self.count:
                raise ArgumentError("labels", value, self.allowed)
        return Rows({"labels": torch.tensor(values, dtype=torch.int64)}, null, numbers=self.inputs)

    def _numbered(self, labels: Sequence[float | str]) -> list[float | str]:
        numbers = {name: number for number, name in enumerate(self.names)}
        return [
            numbers.get(unicodedata.normalize("NFC", label), label) if isinstance(label, str) else label
            for label in labels
        ]


def check_name(name: str) -> str | None:
    """What keeps a text from being the name of a class; None for a good one."""
    if not 1 <= len(name) <= MAX_NAME:
        return f"{len(name)} characters long, and 1 to {MAX_NAME} are allowed"
    if CONTROL.search(name):
        return "no text: it has control characters, or bytes that are no UTF-8"
    return None
