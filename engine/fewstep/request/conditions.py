"""What a model may be asked for: one of its classes, or a number in a range."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep.errors import ArgumentError


@dataclass(frozen=True)
class ClassLabels:
    """Integer classes 0 .. count - 1. `null`, if the model has one, is the class that stands for no condition."""

    count: int
    null: int | None = None

    @property
    def allowed(self) -> str:
        """What an error says is allowed."""
        return f"integers from 0 to {self.count - 1}"

    @property
    def example(self) -> float:
        """Some valid label."""
        return 0

    def rows(self, labels: Sequence[float] | Tensor | None, samples: int) -> Tensor:
        """The labels as the model takes them, int64 [samples]; None asks for samples of no class."""
        if labels is None:
            if self.null is None:
                raise ArgumentError("labels", None, f"one per sample, {self.allowed}: this model has no null class")
            return torch.full((samples,), self.null, dtype=torch.int64)
        values = _as_list(labels)
        for value in values:
            if value != int(value) or not 0 <= value < self.count:
                raise ArgumentError("labels", _plain(value), self.allowed)
        return torch.tensor([int(value) for value in values], dtype=torch.int64)

    def null_rows(self, samples: int) -> Tensor | None:
        """The null class for each sample, or None where the model has none."""
        return None if self.null is None else torch.full((samples,), self.null, dtype=torch.int64)


@dataclass(frozen=True)
class ContinuousLabels:
    """A number from `min` to `max`."""

    min: float
    max: float

    @property
    def allowed(self) -> str:
        """What an error says is allowed."""
        return f"numbers from {self.min:g} to {self.max:g}"

    @property
    def example(self) -> float:
        """Some valid label."""
        return self.min

    def rows(self, labels: Sequence[float] | Tensor | None, samples: int) -> Tensor:
        """The labels as the model takes them, float32 [samples]."""
        if labels is None:
            raise ArgumentError("labels", None, f"one per sample, {self.allowed}")
        values = _as_list(labels)
        for value in values:
            if not self.min <= value <= self.max:
                raise ArgumentError("labels", _plain(value), self.allowed)
        return torch.tensor(values, dtype=torch.float32)

    def null_rows(self, samples: int) -> Tensor | None:
        """A number has no null."""
        return None


LabelSpec = ClassLabels | ContinuousLabels


def labels_from_config(config: Mapping[str, object] | None) -> LabelSpec | None:
    """{"kind": "classes", "count": 10, "null": 10} or {"kind": "continuous", "min": 1, "max": 100}; None for no labels.

    Raises:
        ArgumentError: another kind, or fields that do not belong to it.
    """
    if config is None:
        return None
    fields: dict[str, Any] = {name: value for name, value in config.items() if name != "kind"}
    kinds: dict[object, Callable[..., LabelSpec]] = {"classes": ClassLabels, "continuous": ContinuousLabels}
    if config.get("kind") not in kinds:
        raise ArgumentError("labels.kind", config.get("kind"), "classes or continuous")
    try:
        return kinds[config["kind"]](**fields)
    except TypeError:
        raise ArgumentError("labels", dict(config), "count and null for classes, min and max for continuous") from None


def _as_list(labels: Sequence[float] | Tensor) -> list[float]:
    flat = labels.flatten().tolist() if isinstance(labels, Tensor) else list(labels)
    for value in flat:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ArgumentError("labels", value, "finite numbers")
    return flat


def _plain(value: float) -> float | int:
    return int(value) if value == int(value) else value
