"""What a model may be asked for: nothing, one of its classes, or a number in a range. One small file for each kind."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from fewstep.checks import named, one_of, only
from fewstep.errors import ArgumentError
from fewstep.request.conditions.classes import Classes
from fewstep.request.conditions.labels import Labels
from fewstep.request.conditions.numbers import Numbers
from fewstep.request.conditions.unconditional import Unconditional

__all__ = ["Classes", "Condition", "Labels", "Numbers", "Unconditional", "condition_from_config"]

# By the names that fewstep.json has for them.
KINDS: Mapping[str, type[Classes] | type[Numbers]] = {
    "classes": Classes,
    "continuous": Numbers,
}


class Condition(Protocol):
    """A kind of condition. What it makes of labels goes to the network as `labels`."""

    @property
    def allowed(self) -> str:
        """What an error says is allowed."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes, in order; empty where they have none."""
        ...

    @property
    def example(self) -> float | None:
        """Some valid label; None where labels are not taken."""
        ...

    def spread(self, samples: int) -> list[float] | None:
        """Valid labels that show what the model takes, one per sample; None where labels are not taken."""
        ...

    def rows(self, labels: Labels | None, samples: int) -> Tensor | None:
        """Labels as the network takes them, [samples, ...]; None where it takes none. ArgumentError as `allowed`."""
        ...

    def null_rows(self, samples: int) -> Tensor | None:
        """What stands for no condition, [samples, ...]; None where there is nothing to guide from."""
        ...


def condition_from_config(config: object) -> Condition:
    """{"kind": "classes", "count": 10, "null": 10} or {"kind": "continuous", "min": 1, "max": 100}, or what they make.

    None makes a model that takes no labels.

    Raises:
        ArgumentError: another kind, or fields that do not belong to it.
    """
    if config is None:
        return Unconditional()
    if isinstance(config, Classes | Numbers | Unconditional):
        return config
    allowed = "fewstep.Classes(count, null), fewstep.Numbers(min, max), or None for a model without labels"
    if not isinstance(config, Mapping):
        raise ArgumentError("conditions", config, allowed)
    given: dict[str, Any] = {name: value for name, value in config.items() if name != "kind"}
    if not one_of(config.get("kind"), KINDS):
        raise ArgumentError("labels.kind", config.get("kind"), named(KINDS, config.get("kind")))
    kind = KINDS[str(config["kind"])]
    only("labels", given, ("kind", *(field.name for field in dataclasses.fields(kind))))
    try:
        return kind(**given)
    except TypeError:
        allowed = "count, null and perhaps names for classes, min and max for continuous"
        raise ArgumentError("labels", dict(config), allowed) from None


def condition_to_config(condition: Condition) -> dict[str, Any] | None:
    """The condition in the words of `condition_from_config`, as JSON has them; None where labels are not taken."""
    kind = next((name for name, made in KINDS.items() if made is type(condition)), None)
    if kind is None:
        return None
    values = dataclasses.asdict(condition)  # type: ignore[call-overload]
    if not values.get("names"):
        values.pop("names", None)
    return {"kind": kind} | {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
