"""What `fewstep distill` asks of a method."""

from typing import Any, Protocol

from fewstep.models.spec import ModelSpec
from fewstep.train.fit import Loss
from fewstep.train.teacher import Teacher


class Distillation(Protocol):
    """One student of one teacher by one method: a frozen dataclass of what it was asked for.

    Its fields are `student_steps`, `teacher_steps` (None for the method's own choice) and the method's options, each
    with its default. It checks the options when it is made, and no more than these: ArgumentError for what is not
    allowed. The steps are checked by `DistillConfig`, which makes every method, whichever is asked for.
    """

    @property
    def walk(self) -> int:
        """The steps of the teacher's plan."""
        ...

    @property
    def how(self) -> str:
        """What the student is to its teacher, for its card, as "4 steps for 8 of its teacher"."""
        ...

    @property
    def alone(self) -> str:
        """Why it makes one student and no chain of them; "" where it makes chains."""
        ...

    def plan(self, taught: ModelSpec) -> dict[str, Any]:
        """The student's own plan, as fewstep.json carries it."""
        ...

    def trained(self, taught: ModelSpec) -> dict[str, Any]:
        """What the student is trained for, as fewstep.json has it: {"sampler": ..., "steps": [...]}."""
        ...

    def teacher_plan(self, taught: ModelSpec) -> dict[str, Any]:
        """The plan that the teacher walks along, as arguments of `make_plan`."""
        ...

    def loss(self, teacher: Teacher, spec: ModelSpec, guidance: tuple[float, float] | None) -> Loss:
        """The loss of one batch.

        Args:
            teacher: at work on its plan.
            spec: the student's, with its plan.
            guidance: the range from which each sample's guidance scale is drawn; None for a model without guidance.

        Raises:
            ArgumentError: plans of teacher and student that do not go together.
        """
        ...
