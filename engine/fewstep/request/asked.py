"""What a user typed: the arguments of `Engine.sample`, and how many samples they mean."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from torch import Tensor

from fewstep.errors import ArgumentError
from fewstep.request.start import Resume

MAX_SAMPLES: Final = 100_000


@dataclass(frozen=True, eq=False)
class Asked:
    """A field for each argument of `Engine.sample` that says what is sampled. A sequence has one entry per sample."""

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

    def plain(self) -> "Asked":
        """The same with arrays, tensors and generators as lists, and what is one for all as it is."""
        names = ("n", "labels", "steps", "sampler", "guidance_scale", "seeds")
        return replace(self, **{name: _plain(getattr(self, name)) for name in names})

    def count(self) -> int:
        """How many samples are asked for: `n`, or as many as its first per-sample argument has.

        Raises:
            ArgumentError: two arguments that disagree, or a count outside 1 to 100000.
        """
        start = self.start.samples if isinstance(self.start, Resume) else self.start
        listed = {
            "labels": None if isinstance(self.labels, str) else self.labels,
            "seeds": self.seeds,
            "plan": self.plan if isinstance(self.plan, list | tuple) else None,
            "steps": self.steps,
            "sampler": None if isinstance(self.sampler, str) else self.sampler,
            "guidance_scale": self.guidance_scale,
            "start": start if isinstance(start, list | tuple) else None,
            "noise": None if isinstance(self.noise, Tensor) else self.noise,
        }
        counts = {"n": self.n} | {name: len(value) for name, value in listed.items() if _has_length(value)}
        stated = {name: count for name, count in counts.items() if count is not None}
        count = next(iter(stated.values()), 1)
        for name, other in stated.items():
            if isinstance(other, bool) or not isinstance(other, int) or not 1 <= other <= MAX_SAMPLES:
                raise ArgumentError(name, other if name == "n" else f"{other} entries", f"1 to {MAX_SAMPLES} samples")
            if other != count:
                raise ArgumentError(name, f"{other} samples", f"{count}, as {next(iter(stated))} says")
        return count


def _plain(value: Any) -> Any:
    """Numbers of numpy and torch as Python's; what has several, as a list."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return value.tolist()
    return list(value) if isinstance(value, Iterator | range | tuple) else value


def each(value: Any, count: int) -> list[Any]:
    """One entry per sample of an argument that may be one for all."""
    return list(value) if _has_length(value) and not isinstance(value, str) else [value] * count


def resolve_seeds(seeds: int | Sequence[int] | None, count: int) -> list[int]:
    """One seed per sample: None draws them, an integer s gives s, s + 1, ..."""
    if seeds is None:
        return [random.SystemRandom().getrandbits(32) for _ in range(count)]
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        seeds = range(seeds, seeds + count)
    listed: list[int] = list(seeds) if isinstance(seeds, Sequence) else [seeds]
    for seed in listed:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
            raise ArgumentError("seeds", seed, "integers from 0 to 2^64 - 1")
    return listed


def _has_length(value: object) -> bool:
    return value is not None and hasattr(value, "__len__")
