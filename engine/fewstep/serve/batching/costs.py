"""What a step costs, as measured: seconds by model and by rows of the network's batch."""

import time
from bisect import bisect_left
from collections import deque
from statistics import median
from typing import Final

import torch

from fewstep.engine import Engine
from fewstep.errors import PlanWarning
from fewstep.run.decode import to_pixels
from fewstep.run.runners import SIZES
from fewstep.run.sample import Sample
from fewstep.run.session import Session
from fewstep.serve.family import Member

KEPT: Final = 31  # steps of a size whose median counts: a stall, or fifteen, change nothing
ALIKE: Final = 1.03  # seconds for each lane that differ by less are the same: what a median of 31 still wanders
PROBED: Final = (1, 2, 4, 8, 16, 32, 64)  # lanes that are measured at the start; on torch the others lie between them
FEATURES: Final = ("stochastic", "statistics", "preview")


class Costs:
    """Medians of what was measured last. One thread writes; others may read, and see some of it a step older.

    A network's batch has one of a few sizes (`SIZES`), so nine lanes cost what twelve do.
    """

    def __init__(self) -> None:
        self._steps: dict[str, dict[int, float]] = {}  # medians by member and size
        self._seen: dict[tuple[str, int], deque[float]] = {}
        self._images: dict[str, float] = {}
        self._images_seen: dict[str, deque[float]] = {}

    def observe(self, member: str, lanes: int, seconds: float) -> None:
        """A step with so many rows of the network's batch in use took so long."""
        size = size_of(lanes)
        seen = self._seen.setdefault((member, size), deque(maxlen=KEPT))
        seen.append(seconds)
        self._steps[member] = {**self._steps.get(member, {}), size: median(seen)}

    def observe_image(self, member: str, seconds: float) -> None:
        """To build a sample and to decode its image took so long, beside the steps."""
        seen = self._images_seen.setdefault(member, deque(maxlen=KEPT))
        seen.append(seconds)
        self._images[member] = median(seen)

    def image_seconds(self, member: str) -> float:
        """Of one image beside its steps; 0 where none was measured."""
        return self._images.get(member, 0.0)

    def step_seconds(self, member: str, lanes: int) -> float:
        """Of a step with so many lanes.

        On a straight line between the sizes that were measured, and in proportion to the lanes beyond the largest. As
        the smallest below it, which is too much rather than too little. 0 for a model of which nothing was measured.
        """
        known = self._steps.get(member)
        if not known or lanes <= 0:
            return 0.0
        size, sizes = size_of(lanes), sorted(known)
        place = bisect_left(sizes, size)
        if place == len(sizes):
            return known[sizes[-1]] * size / sizes[-1]
        if place == 0 or sizes[place] == size:
            return known[sizes[place]]
        low, high = sizes[place - 1], sizes[place]
        return known[low] + (known[high] - known[low]) * (size - low) / (high - low)

    def best_lanes(self, member: str, running: int, wanted: int) -> int:
        """How many lanes the next step is to have, from those that run to those that run or wait.

        The most whose seconds for each lane are no more than those of any other such number: one more than fits a size
        makes the step of all others longer than it would wait itself, and beyond the number from which a lane costs
        its full share more of them only make everybody wait.
        """
        least = max(1, running)
        if wanted <= least or not self._steps.get(member):
            return max(wanted, running)
        shares = {lanes: self.step_seconds(member, lanes) / lanes for lanes in range(least, wanted + 1)}
        good = ALIKE * min(shares.values())
        return max(lanes for lanes, share in shares.items() if share <= good)

    def table(self) -> dict[str, dict[int, float]]:
        """Seconds of a step by member and size, as far as measured."""
        return {member: dict(sorted(known.items())) for member, known in list(self._steps.items())}

    def calibrate(self, member: Member, slots: int, repeats: int = 3, *, quick: bool = False) -> None:
        """Measure a model, and make ready what the first request would wait for.

        On the thread that owns the device. A session of each size that the batcher opens is stepped a few times.

        Args:
            member: who.
            slots: samples that are going to run together, at most.
            repeats: steps of each size that count, behind one that does not.
            quick: the smallest and the largest size alone; a compiled backend makes the others ready when they come.
        """
        engine, steps = member.engine, repeats + 1
        for most, counts in _sessions(engine, slots):
            with engine.session(most, steps=steps, history=4, features=FEATURES) as session:
                for count in sorted({counts[0], counts[-1]}) if quick else counts:
                    if count not in PROBED and count < slots and engine.backend == "torch":
                        continue  # there is no program to make ready
                    began = time.perf_counter()
                    samples = [_sample(engine, steps) for _ in range(count)]
                    if not session.accepts(*samples):
                        continue  # they own two lanes each, and there is one
                    held = session.admit(*samples)
                    beside, lanes = time.perf_counter() - began, sum(each.lanes for each in samples)
                    _timed(session, engine.device)
                    for _ in range(repeats):
                        self.observe(member.name, lanes, _timed(session, engine.device))
                    began = time.perf_counter()
                    for slot in held:
                        to_pixels(session.take(slot).values)
                    self.observe_image(member.name, (beside + time.perf_counter() - began) / count)


def size_of(lanes: int) -> int:
    """The size of the network's batch that so many lanes run in."""
    return next((size for size in SIZES if size >= lanes), lanes)


def _sessions(engine: Engine, slots: int) -> list[tuple[int, list[int]]]:
    """The slots of each session to step, and with how many samples; a CPU computes only the lanes in use."""
    if engine.batch_invariant:
        return [(engine.max_batch, [engine.max_batch // 2])]
    if engine.device.type == "cpu":
        return [(slots, [*(count for count in SIZES if count < slots), slots])]
    return [(count, [count]) for count in (*(count for count in PROBED if count < slots), slots)]


def _sample(engine: Engine, steps: int) -> Sample:
    said: list[PlanWarning] = []  # that a student was not trained for so many steps, which is nobody's picture
    return engine.samples(1, seeds=[0], steps=steps, remarks=said, **engine.model.conditions.blank(1))[0]


def _timed(session: Session, device: torch.device) -> float:
    began = time.perf_counter()
    session.advance(1)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
