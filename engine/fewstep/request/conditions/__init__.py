"""What a model may be asked for: nothing, a class, a number, a text, or that and a picture. A small file for each."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fewstep.checks import named, one_of, only
from fewstep.errors import ArgumentError
from fewstep.request.conditions.classes import Classes
from fewstep.request.conditions.controlled import ControlledPrompts
from fewstep.request.conditions.labels import Labels
from fewstep.request.conditions.numbers import Numbers
from fewstep.request.conditions.prompts import Prompts
from fewstep.request.conditions.unconditional import Unconditional
from fewstep.request.conditions.words import Rows, Words

__all__ = [
    "Classes",
    "Condition",
    "ControlledPrompts",
    "Labels",
    "Numbers",
    "Prompts",
    "Rows",
    "Unconditional",
    "Words",
    "condition_from_config",
]

# By the names that fewstep.json has for them.
KINDS: Mapping[str, type[Classes] | type[Numbers]] = {
    "classes": Classes,
    "continuous": Numbers,
}


class Condition(Protocol):
    """A kind of condition: what it takes of a user's words, and what it makes of them."""

    @property
    def allowed(self) -> str:
        """What an error says is allowed."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes, in order; empty where they have none."""
        ...

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the network takes because of it, beside x and t: the names of its `Rows`, such as `labels`."""
        ...

    @property
    def guidable(self) -> bool:
        """Whether something stands for no condition, to guide from."""
        ...

    def spread(self, samples: int) -> list[float] | None:
        """Valid labels that show what the model takes, one per sample; None where labels are not taken."""
        ...

    def blank(self, samples: int) -> dict[str, Any]:
        """Some valid words, by the arguments of `Engine.sample`: for a warm-up, whose images nobody sees."""
        ...

    def rows(self, words: Words, samples: int, guided: bool, by_hand: Sequence[str] = ()) -> Rows:
        """What the words mean to the network, one entry per sample.

        Args:
            words: what was said.
            samples: how many there are.
            guided: some sample has an unconditional half.
            by_hand: the names of tensors that the user hands to the network themselves.

        Raises:
            ArgumentError: words that are not taken, or not as `allowed`.
        """
        ...


def condition_from_config(config: object) -> Condition:
    """{"kind": "classes", "count": 10, "null": 10} or {"kind": "continuous", "min": 1, "max": 100}, or what they make.

    None makes a model that takes no labels.

    Raises:
        ArgumentError: another kind, or fields that do not belong to it.
    """
    if config is None:
        return Unconditional()
    if isinstance(config, Classes | Numbers | Prompts | Unconditional):
        return config
    allowed = "fewstep.Classes(count, null), fewstep.Numbers(min, max), fewstep.Prompts, or None for a model without"
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
