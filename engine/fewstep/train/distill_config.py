"""The settings of a distillation."""

from dataclasses import dataclass
from typing import Final

from fewstep.checks import numbers
from fewstep.errors import ArgumentError
from fewstep.train.config import TRAINED, Checks, FitConfig
from fewstep.train.methods import METHODS, ConsistencyDistillation, Distillation, ProgressiveDistillation
from fewstep.train.npz import MAX_SIDE

MAX_MODEL_STEPS: Final = 1000


@dataclass(frozen=True, kw_only=True)
class DistillConfig(FitConfig):
    """`fewstep distill`: which teacher becomes which student. The defaults are those of the digits' students.

    The options of all methods are fields here, so that a file of settings is one flat table; those of methods that were
    not asked for are checked, and otherwise ignored.
    """

    steps: int = 2000
    learning_rate: float = 5e-4
    warmup: int = 100
    checkpoint_every: int = 250
    sheet_every: int = 500
    teacher: str = "digits/teacher"  # a model folder, or a model in the box
    method: str = "progressive"
    student_steps: int = 4
    teacher_steps: int | None = None  # None: as many as the method chooses
    prediction: str | None = None  # of the student; None: see `fewstep.train.distill.student_prediction`
    guidance: tuple[float, float] | None = (1.0, 2.0)  # the scales folded in; None: the teacher without guidance
    default_guidance: float = 1.25  # of the student, unless asked otherwise
    weighting: str = ProgressiveDistillation.weighting
    huber_c: float = ConsistencyDistillation.huber_c
    data: str | None = None  # what is noised for the student to start from; None: see `fewstep.train.data.source_of`
    size: int | None = None
    licence: str = ""  # of the student; by default the teacher's

    def __post_init__(self) -> None:
        super().__post_init__()
        check = Checks(self)
        for name in ("teacher", "licence"):
            check.text(name)
        if self.data is not None:
            check.text("data")
        check.choice("method", tuple(METHODS))
        for name in METHODS:
            self._check_options(name)
        check.integer("student_steps", 1, MAX_MODEL_STEPS)
        if self.teacher_steps is not None:
            check.integer("teacher_steps", 1, MAX_MODEL_STEPS)
        if self.size is not None:
            check.integer("size", 1, MAX_SIDE)
        if self.prediction is not None:
            check.choice("prediction", TRAINED)
        if self.guidance is not None:
            self._check_guidance()

    @property
    def distillation(self) -> Distillation:
        """The method that was asked for, with its options."""
        return self._made(self.method)

    @property
    def walk(self) -> int:
        """The steps of the teacher's plan."""
        return self.distillation.walk

    def _made(self, name: str) -> Distillation:
        options = {option: getattr(self, option) for option in METHODS[name].options}
        return METHODS[name].build(student_steps=self.student_steps, teacher_steps=self.teacher_steps, **options)

    def _check_options(self, name: str) -> None:
        """A method checks its options where it is made; here they are stored in the types it gave them."""
        made = self._made(name)
        for option in METHODS[name].options:
            object.__setattr__(self, option, getattr(made, option))

    def _check_guidance(self) -> None:
        given, allowed = self.guidance, "two scales, the smaller first, such as [1.0, 2.0]"
        scales = numbers("guidance", given, allowed)
        if len(scales) != 2:
            raise ArgumentError("guidance", given, allowed)
        low, high = scales
        if not 0 <= low < high <= 100:
            raise ArgumentError("guidance", given, "two scales from 0 to 100, the smaller first")
        object.__setattr__(self, "guidance", (low, high))
        Checks(self).number("default_guidance", low, high)
