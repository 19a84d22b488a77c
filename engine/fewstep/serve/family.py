"""A served name: one model, or several that were trained for different numbers of steps."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fewstep.engine import Engine
from fewstep.errors import ArgumentError
from fewstep.models.bundled import model_folder, names
from fewstep.run.sample import Sample
from fewstep.serve.asks import Ask


@dataclass(frozen=True, eq=False)
class Member:
    """One model of a family.

    Attributes:
        name: as it is said to whoever asked, such as "digits/4-step".
        engine: what runs it.
        steps: the numbers of model calls that it was trained for; empty for a model that takes any.
    """

    name: str
    engine: Engine
    steps: tuple[int, ...]


class Family:
    """One or several models under a served name, told apart by the number of steps they were trained for.

    Args:
        name: what a request calls it.
        members: at least one; they draw images of one shape under the same conditions.
    """

    def __init__(self, name: str, members: list[Member]) -> None:
        self.name, self.members = name, members
        self.first = members[0].engine

    @classmethod
    def open(cls, name: str, model: str | Path, **options: Any) -> "Family":
        """The family of a model: of a box with students all of them and the teacher, else the model alone.

        Args:
            name: what it is served as.
            model: as `Engine.from_pretrained` takes it.
            options: of `Engine.from_pretrained`.
        """
        prefix = f"{model}/"
        folders = [each for each in names() if each.startswith(prefix)] if str(model) in names() else []
        if not folders:
            engine = Engine.from_pretrained(model, **options)
            return cls(name, [Member(name, engine, _trained(engine))])
        members = []
        for folder in folders:
            engine = Engine.from_pretrained(model_folder(folder), **options)
            members.append(Member(f"{name}/{folder.removeprefix(prefix)}", engine, _trained(engine)))
        return cls(name, sorted(members, key=lambda member: member.steps or (1 << 30,)))

    @property
    def trained_steps(self) -> tuple[int, ...]:
        """All numbers of steps that some member was trained for, least first; empty where it takes any."""
        return tuple(sorted({count for member in self.members for count in member.steps}))

    def member(self, steps: int | None) -> Member:
        """Who draws in so many steps: trained for it, else for the next larger number, else the last."""
        if steps is None:
            default = 4 if 4 in self.trained_steps else None
            return self.members[0] if default is None else self.member(default)
        fitting = [member for member in self.members if not member.steps or max(member.steps) >= steps]
        return fitting[0] if fitting else self.members[-1]

    def samples(self, ask: Ask, member: Member, steps: int | None) -> tuple[Sample, tuple[str, ...]]:
        """The sample of an ask on a member, and what there is to say of its plan.

        Raises:
            ArgumentError: naming the word and what is allowed.
        """
        words: dict[str, Any] = dict(ask.words)
        if steps is not None:
            words["steps"] = steps
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            samples = member.engine.samples(1, seeds=[ask.seed], **words)
        if len(samples) != 1:
            raise ArgumentError("n", len(samples), "one sample for each ask")
        return samples[0], tuple(str(each.message) for each in said)

    def about(self) -> Mapping[str, Any]:
        """What the page and /capabilities say of it."""
        model = self.first.model
        conditions = model.conditions
        return {
            "id": self.name,
            "members": [{"name": each.name, "steps": list(each.steps)} for each in self.members],
            "trained_steps": list(self.trained_steps),
            "conditions": type(conditions).__name__.lower(),
            "classes": getattr(conditions, "count", None),
            "class_names": list(getattr(conditions, "names", ())),
            "image_shape": list(self.first.image_shape),
            "defaults": dict(model.defaults),
            "dtype": str(self.first.dtype).removeprefix("torch."),
            "device": str(torch.device(self.first.device)),
        }


def _trained(engine: Engine) -> tuple[int, ...]:
    trained = engine.model.trained
    return () if trained is None else tuple(sorted(trained.steps))
