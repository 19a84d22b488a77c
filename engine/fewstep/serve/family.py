"""A served name: one model, or several that were trained for different numbers of steps."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fewstep.engine import Engine
from fewstep.errors import ArgumentError, PlanWarning
from fewstep.models.bundled import DEFAULT_STEPS, model_folder, names
from fewstep.opening import open_engine
from fewstep.run.sample import Sample
from fewstep.serve.asks import Ask

ANY: Final = 1 << 30  # steps: behind all that a student was trained for


@dataclass(frozen=True, eq=False)
class Member:
    """One model of a family.

    Attributes:
        name: as it is said to whoever asked, such as "digits/4-step".
        engine: what runs it.
        steps: the numbers of model calls that it was trained for, least first; empty for a model that takes any.
    """

    name: str
    engine: Engine
    steps: tuple[int, ...]


class Family:
    """One or several models under a served name, told apart by the number of steps they were trained for.

    Args:
        name: what a request calls it.
        members: at least one; they draw images of one shape under the same conditions. They are put in order, those
            that were trained for the fewest steps first, and behind them all who takes any number.
    """

    def __init__(self, name: str, members: Sequence[Member]) -> None:
        if not members:
            raise ArgumentError("members", [], "at least one model")
        self.name, self.members = name, sorted(members, key=lambda member: member.steps or (ANY,))
        self.first = self.members[0].engine
        for member in self.members:
            if member.engine.image_shape != self.first.image_shape:
                allowed = f"{list(self.first.image_shape)}, as of {self.members[0].name}"
                raise ArgumentError(f"members ({member.name})", list(member.engine.image_shape), allowed)

    @classmethod
    def open(
        cls,
        name: str,
        model: str | Path,
        *,
        loras: Mapping[str, str | os.PathLike[str]] | None = None,
        **options: Any,
    ) -> "Family":
        """The family of a model: of a box with students all of them and the teacher, else the model alone.

        Args:
            name: what it is served as.
            model: as `Engine.from_pretrained` takes it, or the folder of a pipeline that reads prompts.
            loras: files of adapters by the names that asks have for them; each is made ready in every member, at 0.
            options: of `Engine.from_pretrained`: device, dtype, backend, batch_invariant, max_batch and others.

        Raises:
            ModelError: a model or an adapter that cannot be read, naming the file and why.
        """
        prefix = f"{model}/"
        folders = [each for each in names() if each.startswith(prefix)] if str(model) in names() else []
        members = []
        for folder in folders:
            engine = Engine.from_pretrained(model_folder(folder), **options)
            members.append(Member(f"{name}/{folder.removeprefix(prefix)}", engine, _trained(engine)))
        if not folders:
            engine = open_engine(os.fspath(model), None, None, quiet=True, **options)
            members.append(Member(name, engine, _trained(engine)))
        family = cls(name, members)
        for adapter, file in (loras or {}).items():
            for member in family.members:
                member.engine.load_lora(file, adapter, 0.0)
        return family

    @property
    def trained_steps(self) -> tuple[int, ...]:
        """All numbers of steps that some member was trained for, least first; empty where none was for any."""
        return tuple(sorted({count for member in self.members for count in member.steps}))

    @property
    def default_steps(self) -> int:
        """Of an ask that says neither steps nor a deadline."""
        trained = self.trained_steps
        if len(self.members) == 1 or not trained:
            return int(self.first.model.defaults["steps"])
        return next((count for count in trained if count >= DEFAULT_STEPS), trained[-1])

    @property
    def step_choices(self) -> tuple[int, ...]:
        """What a deadline chooses among, least first: what was trained for; of a model that takes any, up to its own.

        Of the latter the powers of two below its own number, and that.
        """
        if self.trained_steps:
            return self.trained_steps
        most = self.default_steps
        return (*(1 << power for power in range(most.bit_length()) if 1 << power < most), most)

    @property
    def reads_prompts(self) -> bool:
        """Whether it takes prompts; else labels, or neither."""
        return hasattr(self.first.model.conditions, "encode")

    def member(self, steps: int | None) -> Member:
        """Who draws in so many steps: trained for it, else for the next larger number, else the last.

        None asks for `default_steps`.
        """
        wanted = self.default_steps if steps is None else steps
        exact = [member for member in self.members if wanted in member.steps]
        larger = [member for member in self.members if max(member.steps, default=ANY) >= wanted]
        return next(iter(exact or larger), self.members[-1])

    def samples(self, ask: Ask, member: Member, steps: int | None) -> tuple[Sample, tuple[str, ...]]:
        """The sample of an ask on a member, and what there is to say of its plan.

        Nothing is warned of: the warnings of Python are one thing for all threads, and whoever asked reads none.

        Raises:
            ArgumentError: naming the word and what is allowed.
        """
        words: dict[str, Any] = dict(ask.words)
        if steps is not None:
            words["steps"] = steps
        remarks: list[PlanWarning] = []
        samples = member.engine.samples(1, seeds=[ask.seed], remarks=remarks, **words)
        if len(samples) != 1:
            raise ArgumentError("n", len(samples), "one sample for each ask")
        return samples[0], tuple(str(each) for each in remarks)

    def about(self) -> Mapping[str, Any]:
        """What the page and /capabilities say of it."""
        model = self.member(None).engine.model
        conditions = model.conditions
        return {
            "id": self.name,
            "members": [_about(each) for each in self.members],
            "trained_steps": list(self.trained_steps),
            "default_steps": self.default_steps,
            "step_choices": list(self.step_choices),
            "reads_prompts": self.reads_prompts,
            "conditions": type(conditions).__name__.lower(),
            "classes": getattr(conditions, "count", None),
            "class_names": list(getattr(conditions, "names", ())),
            "labels_allowed": None if self.reads_prompts else conditions.allowed,
            "guidance": model.guidance.about(conditions.guidable),
            "image_shape": list(self.first.image_shape),
            "defaults": dict(model.defaults),
            "dtype": str(self.first.dtype).removeprefix("torch."),
            "device": str(self.first.device),
        }


def _about(member: Member) -> dict[str, Any]:
    model = member.engine.model
    return {
        "name": member.name,
        "steps": list(member.steps),
        "defaults": dict(model.defaults),
        "guidance": model.guidance.about(model.conditions.guidable),
        "loras": list(member.engine.loras),
    }


def _trained(engine: Engine) -> tuple[int, ...]:
    trained = engine.model.trained
    return () if trained is None else tuple(sorted(trained.steps))
