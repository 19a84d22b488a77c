"""The contenders of in_flight.py: samples in flight, batches of equal steps, and batches of whatever comes.

Each has one thread that owns the engine, and the others only hand over. All draw with the same engine, one contender at
a time.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from fewstep import Engine
from fewstep.serve import Ask, Batcher, Family, Limits
from fewstep.serve.asks import Ticket
from fewstep.serve.batching.costs import Costs
from fewstep.serve.events import Admitted, Event, Failed, Finished
from fewstep.serve.family import Member
from fewstep.serve.refusals import RefusedError

NAME = "digits"


@dataclass(eq=False)
class Visit:
    """One image that is asked for.

    Attributes:
        at: seconds from the start of the trace.
        steps: model calls; None where the deadline chooses.
        seed, label: of the image.
        deadline: seconds that it has; None for as long as it takes.
        done: seconds from the start at which it was there; None where it was not.
        image: uint8 [H, W, C].
        given: the steps that it got.
        refused: it was not let in.
    """

    at: float
    steps: int | None
    seed: int
    label: int
    deadline: float | None = None
    done: float | None = None
    image: Any = None
    given: int = 0
    refused: bool = False


Done = Callable[[Visit, Any], None]


class Contender(Protocol):
    """A server, as the traffic sees it."""

    name: str
    begin: float  # of the trace, by `time.perf_counter`

    def start(self, done: Done) -> None:
        """Begin to serve."""

    def submit(self, visit: Visit) -> None:
        """An image is asked for."""

    def stop(self) -> None:
        """Serve no more; what waits is dropped."""

    def rows(self) -> tuple[int, int]:
        """Steps of the network so far, and samples that took part in them, summed."""
        ...


@dataclass(eq=False)
class InFlight:
    """`fewstep.serve.Batcher`: a sample joins and leaves at any step."""

    family: Family
    slots: int
    costs: Costs
    name: str = "in flight"
    begin: float = 0.0
    _batcher: Batcher = field(init=False)

    def start(self, done: Done) -> None:
        limits = Limits(slots=self.slots, queue=1_000_000)
        self._batcher = Batcher({NAME: self.family}, limits, costs=self.costs)
        self._done = done
        self._batcher.start()

    def submit(self, visit: Visit) -> None:
        left = None if visit.deadline is None else self.begin + visit.at + visit.deadline - time.perf_counter()
        due = None if left is None else time.monotonic() + left
        ask = Ask(NAME, visit.seed, {"labels": [visit.label]}, steps=visit.steps, deadline=due)

        def heard(_: Ticket, event: Event) -> None:
            if isinstance(event, Admitted):
                visit.given = event.steps
            elif isinstance(event, Finished):
                self._done(visit, event.image)
            elif isinstance(event, Failed) and event.reason not in ("deadline", "dead"):
                raise RuntimeError(event.message)

        try:
            self._batcher.submit([ask], heard)
        except RefusedError:
            visit.refused = True

    def stop(self) -> None:
        self._batcher.close()

    def rows(self) -> tuple[int, int]:
        stats = self._batcher.stats()
        return sum(stats["steps"].values()), sum(stats["rows"].values())


class Batches:
    """A thread that takes whole batches from a queue and draws each by one `Engine.sample`.

    Args:
        name: of the contender.
        engine: what draws.
        size: images of a batch, at most.
        delay: seconds that the oldest waits for the batch to fill.
        equal: a batch has images of one number of steps, each number its own queue, as Triton's dynamic batcher groups
            by shape; the queue whose oldest has waited longest comes first. Else whatever comes, in order, and all
            wait until the one with the most steps is done.
    """

    def __init__(self, name: str, engine: Engine, size: int, delay: float, *, equal: bool) -> None:
        self.name, self.engine, self.size, self.delay, self.equal = name, engine, size, delay, equal
        self.begin = 0.0
        self._changed = threading.Condition()
        self._queues: dict[int, deque[tuple[float, Visit]]] = {}
        self._stopping = False
        self._steps = self._rows = 0

    def start(self, done: Done) -> None:
        self._done, self._stopping, self._steps, self._rows = done, False, 0, 0
        self._queues.clear()
        self._thread = threading.Thread(target=self._serve, name=self.name)
        self._thread.start()

    def submit(self, visit: Visit) -> None:
        assert visit.steps is not None
        with self._changed:
            queue = self._queues.setdefault(visit.steps if self.equal else 0, deque())
            queue.append((time.perf_counter(), visit))
            self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def rows(self) -> tuple[int, int]:
        return self._steps, self._rows

    def _serve(self) -> None:
        while (batch := self._next()) is not None:
            steps = [visit.steps for visit in batch]
            samples = self.engine.sample(
                len(batch),
                labels=[visit.label for visit in batch],
                steps=steps,
                seeds=[visit.seed for visit in batch],
                output="uint8",
            )
            images = samples.numpy()
            self._steps += max(each for each in steps if each)
            self._rows += sum(each for each in steps if each)
            for visit, image in zip(batch, images, strict=True):
                self._done(visit, image)

    def _next(self) -> list[Visit] | None:
        """The next batch, once one is full or has waited long enough; None at the end."""
        with self._changed:
            while not self._stopping:
                now = time.perf_counter()
                filled = [queue for queue in self._queues.values() if queue]
                ready = [queue for queue in filled if len(queue) >= self.size or queue[0][0] + self.delay <= now]
                if ready:
                    queue = min(ready, key=lambda each: each[0][0])
                    return [queue.popleft()[1] for _ in range(min(self.size, len(queue)))]
                wait = min((queue[0][0] + self.delay - now for queue in filled), default=None)
                self._changed.wait(wait)
        return None


def contenders_of(
    engine: Engine, slots: int, costs: Costs, delays: Iterable[float], times_out: Iterable[float]
) -> list[Contender]:
    """In flight, and every setting of the others."""
    family = Family(NAME, [Member(f"{NAME}/teacher", engine, ())])
    found: list[Contender] = [InFlight(family, slots, costs)]
    half = max(2, slots // 2)
    for size, delay in [(half, 0.0), *((slots, delay) for delay in delays)]:
        found.append(Batches(f"equal steps {size} x {1e3 * delay:.0f} ms", engine, size, delay, equal=True))
    static = ((f"static {half} x {1e3 * delay:.0f} ms", delay) for delay in times_out)
    return [*found, *(Batches(name, engine, half, delay, equal=False) for name, delay in static)]
