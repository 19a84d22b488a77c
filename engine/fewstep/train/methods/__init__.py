"""The methods of distillation: each a file, and a line in METHODS. No other file asks which one it is."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from fewstep.train.methods.consistency import ConsistencyDistillation
from fewstep.train.methods.method import Distillation
from fewstep.train.methods.progressive import ProgressiveDistillation

__all__ = ["METHODS", "ConsistencyDistillation", "Distillation", "Method", "ProgressiveDistillation"]

SHARED: Final = ("student_steps", "teacher_steps")  # what every method takes


@dataclass(frozen=True)
class Method:
    """What `fewstep distill` knows of a method."""

    build: Callable[..., Distillation]
    summary: str  # for --help

    @property
    def options(self) -> dict[str, Any]:
        """Its own options and their defaults; each is a field of `DistillConfig` too."""
        parameters = inspect.signature(self.build).parameters.values()
        return {p.name: p.default for p in parameters if p.name not in SHARED}


METHODS: Final[dict[str, Method]] = {
    "progressive": Method(
        ProgressiveDistillation, "a student's step does what two of its teacher's do; a chain halves down to 1"
    ),
    "consistency": Method(ConsistencyDistillation, "one student for 1 to 8 steps, sampled with lcm"),
}
