"""What a user typed: the arguments of `Engine.sample`, and how many samples they mean."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from torch import Tensor

from fewstep.diffusion.plan import Plan
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

    def count(self) -> int:
        """How many samples are asked for: `n`, or as many as its first per-sample argument has.

        Raises:
            ArgumentError: two arguments that disagree, or a count outside 1 to 100000.
        """
        start = self.start.samples if isinstance(self.start, Resume) else self.start
        listed = {
            "labels": self.labels,
            "seeds": self.seeds,
            "plan": self.plan if not isinstance(self.plan, Plan) else None,
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


def each(value: Any, count: int) -> list[Any]:
    """One entry per sample of an argument that may be one for all."""
    return list(value) if _has_length(value) and not isinstance(value, str) else [value] * count


def resolve_seeds(seeds: int | Sequence[int] | None, count: int) -> list[int]:
    """One seed per sample: None draws them, an integer s gives s, s + 1, ..."""
    if seeds is None:
        return [random.SystemRandom().getrandbits(32) for _ in range(count)]
    listed = list(range(seeds, seeds + count)) if isinstance(seeds, int) else list(seeds)
    for seed in listed:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
            raise ArgumentError("seeds", seed, "integers from 0 to 2^64 - 1")
    return listed


def _has_length(value: object) -> bool:
    return value is not None and hasattr(value, "__len__")
