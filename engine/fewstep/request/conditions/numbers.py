"""A number in a range."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fewstep.checks import exact, number
from fewstep.errors import ArgumentError
from fewstep.request.conditions.labels import as_list, listed
from fewstep.request.conditions.words import Rows, Words, by_label_alone

MAX_NUMBER = 1e9


@dataclass(frozen=True)
class Numbers:
    """A number from `min` to `max`, such as a difficulty or an angle."""

    min: float
    max: float

    def __post_init__(self) -> None:
        low, high = (number(f"numbers.{name}", getattr(self, name), -MAX_NUMBER, MAX_NUMBER) for name in ("min", "max"))
        if low >= high:
            raise ArgumentError("numbers", f"min {exact(low)} and max {exact(high)}", "a min below the max")
        object.__setattr__(self, "min", low)
        object.__setattr__(self, "max", high)

    @property
    def allowed(self) -> str:
        """What an error says is allowed."""
        return f"numbers from {exact(self.min)} to {exact(self.max)}"

    @property
    def names(self) -> tuple[str, ...]:
        """There are no classes."""
        return ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """The labels."""
        return ("labels",)

    @property
    def guidable(self) -> bool:
        """A number has no null."""
        return False

    def spread(self, samples: int) -> list[float]:
        """Evenly from `min` to `max`, both among them; the middle for one sample."""
        if samples == 1:
            return [(self.min + self.max) / 2]
        inner = [self.min + (self.max - self.min) * index / (samples - 1) for index in range(samples - 1)]
        return [*inner, self.max]

    def blank(self, samples: int) -> dict[str, Any]:
        """The least number for each sample."""
        return {"labels": [self.min] * samples}

    def rows(self, words: Words, samples: int, guided: bool, by_hand: Sequence[str] = ()) -> Rows:
        """The labels as the model takes them, float64 [samples]; a request rounds them to the dtype of its state."""
        allowed = f"nothing: this model takes no prompts, but labels: {self.allowed}"
        if not by_label_alone(words, by_hand, allowed):
            return Rows()
        if words.labels is None:
            raise ArgumentError("labels", None, f"one per sample, {self.allowed}")
        values = as_list(listed(words.labels, samples), self.allowed)
        for value in values:
            if not np.float32(self.min) <= np.float32(value) <= np.float32(self.max):  # as the network is given it
                raise ArgumentError("labels", value, self.allowed)
        return Rows({"labels": torch.tensor(values, dtype=torch.float64)}, numbers=self.inputs)
