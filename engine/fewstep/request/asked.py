"""What a user typed: the arguments of `Engine.sample`, and how many samples they mean."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from fewstep.checks import as_python, whole
from fewstep.errors import ArgumentError
from fewstep.request.conditions.words import NAMES, Words
from fewstep.request.start import Resume

MAX_SAMPLES: Final = 100_000


@dataclass(frozen=True, eq=False)
class Asked:
    """A field for each argument of `Engine.sample` that says what is sampled. A sequence has one entry per sample.

    Arrays, tensors and iterators, which are read once, become lists, and numbers of numpy and torch become Python's.
    """

    n: int | None = None
    labels: Any = None
    steps: Any = None
    sampler: Any = None
    guidance_scale: Any = None
    seeds: Any = None
    plan: Any = None
    start: Any = None
    noise: Any = None
    condition: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)  # of the sampler, and guidance_rescale
    prompt: Any = None
    negative_prompt: Any = None
    sizes: Any = None
    control_image: Any = None
    control_scale: Any = None
    _words: Words = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.n, str):
            raise ArgumentError("n", self.n, f"1 to {MAX_SAMPLES} samples; a text is said by prompt={self.n!r}")
        words = Words(**{name: getattr(self, name) for name in NAMES})
        object.__setattr__(self, "_words", words)
        for name in NAMES:
            object.__setattr__(self, name, getattr(words, name))
        for name in ("n", "steps", "sampler", "guidance_scale", "seeds"):
            object.__setattr__(self, name, as_python(getattr(self, name)))
        object.__setattr__(self, "options", {name: as_python(value) for name, value in self.options.items()})

    @property
    def words(self) -> Words:
        """What is said of the condition."""
        return self._words

    def count(self) -> int:
        """How many samples are asked for: `n`, or as many as its first per-sample argument has.

        Raises:
            ArgumentError: two arguments that disagree, or a count outside 1 to 100000.
        """
        start = self.start.samples if isinstance(self.start, Resume) else self.start
        listed = {
            "seeds": self.seeds,
            "plan": self.plan,
            "steps": self.steps,
            "sampler": self.sampler,
            "guidance_scale": self.guidance_scale,
            "start": start,
            "noise": self.noise,
        }
        counts: dict[str, int | None] = {} if self.n is None else {"n": whole(self.n)}
        counts |= self.words.listed()
        counts |= {name: len(value) for name, value in listed.items() if isinstance(value, list | tuple)}
        count = next(iter(counts.values()), 1)
        for name, other in counts.items():
            if other is None or count is None or not 1 <= other <= MAX_SAMPLES:
                raise ArgumentError(name, self.n if name == "n" else f"{other} entries", f"1 to {MAX_SAMPLES} samples")
            if other != count:
                raise ArgumentError(name, f"{other} samples", f"{count}, as {next(iter(counts))} says")
        return 1 if count is None else count


SAID: Final = tuple(each.name for each in fields(Asked) if each.init and each.name != "options")
"""The arguments that have a field of their own."""

ARGUMENTS: Final = (*SAID, "callback", "output", "log_prob")
"""Of `Engine.sample`."""


def each(value: Any, count: int) -> list[Any]:
    """One entry per sample of an argument that may be one for all."""
    return list(value) if isinstance(value, list | tuple) else [value] * count


def resolve_seeds(seeds: object, count: int) -> list[int]:
    """One seed per sample: None draws them, an integer s gives s, s + 1, ..."""
    if seeds is None:
        return [random.SystemRandom().getrandbits(32) for _ in range(count)]
    if not isinstance(seeds, list):
        first = _seed(seeds)
        seeds = [*range(first, first + count)]
    return [_seed(seed) for seed in seeds]


def _seed(value: object) -> int:
    seed = whole(value)
    if seed is None or not 0 <= seed < 2**64:
        raise ArgumentError("seeds", value, "integers from 0 to 2^64 - 1")
    return seed
