"""The options of `fewstep bench` that say what is measured, read into what the bench takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fewstep.checks import integer, number
from fewstep.cli.shared import whole_numbers
from fewstep.errors import ArgumentError

if TYPE_CHECKING:
    from fewstep.bench import Settings
    from fewstep.bench.matrix import Asked

MAX_STEPS, MAX_BATCH, MAX_REPEATS, MAX_SECONDS = 1000, 256, 1000, 86_400.0


@dataclass(frozen=True)
class Typed:
    """As they were given; None where they were not."""

    steps: str | None
    batch: str | None
    sampler: str | None
    backends: str | None
    dtype: str | None
    beside: str | None
    repeats: int | None
    seconds: float | None
    cold: bool

    def asked(self) -> "Asked":
        """Of a matrix, where what is not given is as it is of record. ArgumentError for a wrong one."""
        from fewstep.bench.matrix import Asked

        return Asked(**self._read())

    def settings(self) -> "Settings":
        """Of one network, where what is not given is as `Settings` has it. ArgumentError for a wrong one."""
        from fewstep.bench import Settings

        given = {name: value for name, value in self._read().items() if value is not None}
        return Settings(**given)

    def _read(self) -> dict[str, Any]:
        return {
            "steps": None if self.steps is None else counts("steps", self.steps, MAX_STEPS),
            "batches": None if self.batch is None else counts("batch", self.batch, MAX_BATCH),
            "samplers": names(self.sampler),
            "backends": names(self.backends),
            "dtypes": names(self.dtype),
            "beside": names(self.beside),
            "repeats": None if self.repeats is None else integer("repeats", self.repeats, 1, MAX_REPEATS),
            "seconds": None if self.seconds is None else number("seconds", self.seconds, 0.0, MAX_SECONDS),
            "cold": self.cold,
        }


def own_of(model: str | None, shape: str | None, schedule: str | None, prediction: str | None) -> dict[str, Any] | None:
    """What is said of a module of one's own; None where nothing is.

    Raises:
        ArgumentError: it is said of anything but a file and its function.
    """
    given = {"shape": shape, "schedule": schedule, "prediction": prediction}
    said: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name, value in said.items():
        if model is None or ":" not in model:
            raise ArgumentError(name, value, "nothing, but for a file of your own, such as my_file.py:make_model")
    if shape is not None:
        said["shape"] = counts("shape", shape, 65_536, once=False)
    return said or None


def names(text: str | None) -> list[str] | None:
    """`a,b` is ["a", "b"]."""
    return None if text is None else [name.strip() for name in text.split(",")]


def counts(argument: str, text: str, most: int, once: bool = True) -> list[int]:
    """Whole numbers from 1; each once."""
    values: Sequence[int] = whole_numbers(argument, text)
    return [integer(argument, value, 1, most) for value in (dict.fromkeys(values) if once else values)]
