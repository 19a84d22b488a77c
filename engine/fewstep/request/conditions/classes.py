"""One of a number of classes, by its number or its name."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.checks import integer
from fewstep.errors import ArgumentError
from fewstep.request.conditions.labels import Labels, as_list, listed, plain

MAX_CLASSES = 2**31 - 1


@dataclass(frozen=True)
class Classes:
    """Integer classes 0 .. count - 1.

    Attributes:
        count: how many there are.
        null: the class that stands for no condition; None where the model has none.
        names: of the classes, in order, where they have names: then a label may be a name.
    """

    count: int
    null: int | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        integer("classes.count", self.count, 1, MAX_CLASSES)
        if self.null is not None:
            integer("classes.null", self.null, 0, MAX_CLASSES)
        object.__setattr__(self, "names", tuple(self.names))
        if self.names and (len(set(self.names)) != self.count or len(self.names) != self.count):
            raise ArgumentError("classes.names", list(self.names), f"{self.count} names, no two alike")

    @property
    def allowed(self) -> str:
        """What an error says is allowed."""
        numbers = f"integers from 0 to {self.count - 1}"
        return f"{numbers}, or names such as {self.names[0]!r}" if self.names else numbers

    @property
    def example(self) -> float:
        """Some valid label."""
        return 0

    def rows(self, labels: Labels | None, samples: int) -> Tensor:
        """The labels as the model takes them, int64 [samples]; None asks for samples of no class."""
        if labels is None:
            if self.null is None:
                raise ArgumentError("labels", None, f"one per sample, {self.allowed}: this model has no null class")
            return torch.full((samples,), self.null, dtype=torch.int64)
        values = as_list(self._numbered(listed(labels, samples)), self.allowed)
        for value in values:
            if value != int(value) or not 0 <= value < self.count:
                raise ArgumentError("labels", plain(value), self.allowed)
        return torch.tensor([int(value) for value in values], dtype=torch.int64)

    def null_rows(self, samples: int) -> Tensor | None:
        """The null class for each sample, or None where the model has none."""
        return None if self.null is None else torch.full((samples,), self.null, dtype=torch.int64)

    def _numbered(self, labels: Sequence[float | str]) -> list[float | str]:
        numbers = {name: number for number, name in enumerate(self.names)}
        return [numbers.get(label, label) if isinstance(label, str) else label for label in labels]
