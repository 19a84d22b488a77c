"""The settings of a distillation."""

from dataclasses import dataclass
from typing import Final

from fewstep.errors import ArgumentError
from fewstep.train.config import Checks, FitConfig
from fewstep.train.consistency import HUBER_C
from fewstep.train.progressive import WEIGHTINGS

METHODS: Final = ("progressive", "consistency")
GRID: Final = 50  # of the teacher's steps that a consistency student is trained on
MAX_MODEL_STEPS: Final = 1000


@dataclass(frozen=True, kw_only=True)
class DistillConfig(FitConfig):
    """`fewstep distill`: which teacher becomes which student. The defaults are those of the digits' students."""

    steps: int = 2000
    learning_rate: float = 5e-4
    warmup: int = 100
    checkpoint_every: int = 250
    sheet_every: int = 500
    teacher: str = "digits/teacher"  # a model folder, or a model in the box
    method: str = "progressive"
    student_steps: int = 4
    teacher_steps: int | None = None  # None: twice the student's, or GRID for consistency
    guidance: tuple[float, float] | None = (1.0, 2.0)  # the scales folded in; None: the teacher without guidance
    default_guidance: float = 1.25  # of the student, unless asked otherwise
    weighting: str = "truncated_snr"  # of the progressive loss
    huber_c: float = HUBER_C  # of the consistency loss
    data: str = "digits"  # what is noised for the student to start from; see `fewstep.train.data.load_data`
    size: int | None = None
    licence: str = ""  # of the student; by default the teacher's

    def __post_init__(self) -> None:
        super().__post_init__()
        check = Checks(self)
        for name in ("teacher", "data", "licence"):
            check.text(name)
        check.choice("method", METHODS)
        check.choice("weighting", WEIGHTINGS)
        check.integer("student_steps", 1, MAX_MODEL_STEPS)
        if self.teacher_steps is not None:
            check.integer("teacher_steps", 1, MAX_MODEL_STEPS)
        check.number("huber_c", 0, 100, open_low=True)
        if self.size is not None:
            check.integer("size", 1, 2048)
        if self.guidance is not None:
            self._check_guidance()

    @property
    def walk(self) -> int:
        """The steps of the teacher's plan."""
        return self.teacher_steps or (GRID if self.method == "consistency" else 2 * self.student_steps)

    def _check_guidance(self) -> None:
        given = self.guidance
        numbers = isinstance(given, list | tuple) and len(given) == 2
        if not numbers or not all(isinstance(w, int | float) and not isinstance(w, bool) for w in given or ()):
            raise ArgumentError("guidance", given, "two scales, the smaller first, such as [1.0, 2.0]")
        low, high = map(float, given or (0, 0))
        if not 0 <= low < high <= 100:
            raise ArgumentError("guidance", given, "two scales from 0 to 100, the smaller first")
        object.__setattr__(self, "guidance", (low, high))
        Checks(self).number("default_guidance", low, high)
