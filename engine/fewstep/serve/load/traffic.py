"""What a load asks for, and when: drawn from a seed before the first request, so that a run can be repeated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fewstep.checks import integer
from fewstep.errors import ArgumentError

MAX_REQUESTS, MAX_SECONDS, MAX_CONCURRENCY, MAX_RATE = 1_000_000, 86_400.0, 4096, 100_000.0
MAX_STEPS, MAX_PREVIEWS, MAX_DEADLINE_MS = 1000, 3, 86_400_000


@dataclass(frozen=True)
class Traffic:
    """A load: a closed loop unless a rate is given, then an open one.

    Attributes:
        requests: at most so many are sent.
        seconds: after so many no request is begun any more.
        concurrency: of a closed loop: so many requests at a time, the next one as soon as one has ended.
        rate: of an open loop: requests a second on average, at the times of a Poisson process, whatever has ended.
        steps: model calls to ask for, drawn anew for each request; None leaves them to the server.
        weights: how often each of `steps` is drawn, in proportion; all alike unless given.
        stream: ask for server-sent events.
        previews: partial images of a streamed request, from 0 to 3.
        deadline_ms: that each request says; None for no deadline.
        seed: of the arrivals, of the steps and of the pictures.
        timeout: seconds after which a request has failed.
    """

    requests: int = 200
    seconds: float = 60.0
    concurrency: int = 8
    rate: float | None = None
    steps: tuple[int | None, ...] = (None,)
    weights: tuple[float, ...] | None = None
    stream: bool = False
    previews: int = 1
    deadline_ms: int | None = None
    seed: int = 0
    timeout: float = 120.0

    def __post_init__(self) -> None:
        integer("requests", self.requests, 1, MAX_REQUESTS)
        integer("concurrency", self.concurrency, 1, MAX_CONCURRENCY)
        integer("previews", self.previews, 0, MAX_PREVIEWS)
        integer("seed", self.seed, 0, 2**62)
        for name, value, most in (("seconds", self.seconds, MAX_SECONDS), ("timeout", self.timeout, MAX_SECONDS)):
            _positive(name, value, most)
        if self.rate is not None:
            _positive("rate", self.rate, MAX_RATE)
        if self.deadline_ms is not None:
            integer("deadline_ms", self.deadline_ms, 1, MAX_DEADLINE_MS)
        for count in self.steps:
            if count is not None:
                integer("steps", count, 1, MAX_STEPS)
        weights = self.weights
        if weights is not None and (len(weights) != len(self.steps) or min(weights) < 0 or not 0 < sum(weights) < 1e9):
            raise ArgumentError("weights", list(weights), "a number from 0 for each of steps, and not all of them 0")

    @property
    def open(self) -> bool:
        """Whether requests are sent at times of their own, whatever has ended."""
        return self.rate is not None


@dataclass(frozen=True)
class Shot:
    """One request to be.

    Attributes:
        number: in the order of sending, from 0.
        at: when it is to be sent, in seconds from the start; None as soon as there is room.
        steps: that it asks for; None leaves them to the server.
        body: of the request, as JSON has it.
    """

    number: int
    at: float | None
    steps: int | None
    body: Mapping[str, Any]


def shots(traffic: Traffic, subjects: Sequence[Mapping[str, Any]]) -> list[Shot]:
    """All requests of a load; no two of them have the same seed.

    Args:
        traffic: the load.
        subjects: what to draw, as fields of a request, in turn: {"model": "digits", "labels": [3]}, say.
    """
    rng = np.random.default_rng(traffic.seed)
    count = traffic.requests
    arrivals: list[float | None] = [None] * count
    if traffic.rate is not None:
        times = np.cumsum(rng.exponential(1 / traffic.rate, count))
        arrivals = times[times < traffic.seconds].tolist()
    weights = np.ones(len(traffic.steps)) if traffic.weights is None else np.array(traffic.weights)
    drawn = rng.choice(len(traffic.steps), size=count, p=weights / weights.sum())
    return [
        Shot(number, at, steps := traffic.steps[drawn[number]], body(traffic, subjects, number, steps))
        for number, at in enumerate(arrivals)
    ]


def body(traffic: Traffic, subjects: Sequence[Mapping[str, Any]], number: int, steps: int | None) -> dict[str, Any]:
    """The fields of a request."""
    fields: dict[str, Any] = {**subjects[number % len(subjects)], "seed": traffic.seed + number}
    if steps is not None:
        fields["num_inference_steps"] = steps
    if traffic.stream:
        fields |= {"stream": True, "partial_images": traffic.previews}
    if traffic.deadline_ms is not None:
        fields["deadline_ms"] = traffic.deadline_ms
    return fields


def _positive(name: str, value: float, most: float) -> None:
    if not 0 < value <= most:
        raise ArgumentError(name, value, f"a number above 0, at most {most:g}")
