"""A device in simulated time: steps that cost what a table says, groups that share it, asks that come when they come.

It admits, chooses and orders by the functions of fewstep.serve.batching.admission, as the batcher does.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from fewstep.serve import Ask
from fewstep.serve.batching.admission import Admission, Book, Load
from fewstep.serve.refusals import RefusedError


@dataclass(eq=False)
class Guest:
    """An ask on its way through the device."""

    ask: Ask
    arrived: float
    load: Load
    done: float | None = None
    steps: int = 0

    @property
    def is_late(self) -> bool:
        return self.ask.deadline is not None and (self.done is None or self.done > self.ask.deadline)


@dataclass
class Outcome:
    """What became of a trace."""

    guests: list[Guest] = field(default_factory=list)
    refused: int = 0
    longest_queue: int = 0
    lanes: list[int] = field(default_factory=list)

    @property
    def given(self) -> dict[int, int]:
        """How many were drawn in how many steps."""
        return dict(sorted(Counter(guest.steps for guest in self.guests).items()))

    @property
    def late(self) -> int:
        return sum(guest.is_late for guest in self.guests)

    def percentile(self, share: float) -> float:
        """Of the seconds from arrival to end."""
        seconds = sorted(guest.done - guest.arrived for guest in self.guests if guest.done is not None)
        return seconds[min(len(seconds) - 1, int(share * len(seconds)))]


def arrivals(rate: float, count: int, seed: int, ask: Callable[[random.Random, float], Ask]) -> list[tuple[float, Ask]]:
    """Asks of a Poisson process, in order: the seconds at which they come, and what `ask(random, now)` makes."""
    drawn, now, found = random.Random(seed), 0.0, []
    for _ in range(count):
        now += drawn.expovariate(rate)
        found.append((now, ask(drawn, now)))
    return found


class Device:
    """Runs a trace.

    Args:
        admission: what is tried.
        cost: seconds of a step, by member and lanes: the device's own, which the table only estimates.
    """

    def __init__(self, admission: Admission, cost: Callable[[str, int], float]) -> None:
        self.admission, self.cost, self.out, self.book = admission, cost, Outcome(), Book()
        self.waiting: list[Guest] = []
        self.running: list[Guest] = []
        self.clocks: dict[str, float] = {}
        self.now = self.least = 0.0

    def serve(self, trace: Sequence[tuple[float, Ask]]) -> Outcome:
        """From its first ask until the last is done."""
        coming = list(reversed(trace))
        while coming or self.waiting or self.running:
            if not self.waiting and not self.running:
                self.now = max(self.now, coming[-1][0])
            while coming and coming[-1][0] <= self.now:
                self.come(*coming.pop())
            self.out.longest_queue = max(self.out.longest_queue, len(self.waiting))
            self.turn()
        return self.out

    def loads(self, beside: Guest | None = None) -> list[Load]:
        """Of all, but for one."""
        return [guest.load for guest in (*self.running, *self.waiting) if guest is not beside]

    def come(self, at: float, ask: Ask) -> None:
        """An ask comes, and is let in or refused."""
        rate = self.book.came(at)
        try:
            self.admission.check([ask], self.loads(), self.now)
        except RefusedError:
            self.out.refused += 1
            return
        choice = self.admission.choose(ask, self.loads(), self.now, rate=rate)
        load = self.admission.load(ask, choice.steps)
        self.enter(load)
        guest = Guest(ask, at, load, steps=load.left)
        self.out.guests.append(guest)
        self.waiting.append(guest)

    def enter(self, load: Load) -> None:
        """A model that had nothing to do has something."""
        if load.member not in {each.member for each in self.loads()}:
            self.clocks[load.member] = max(self.clocks.get(load.member, 0.0), self.least)

    def turn(self) -> None:
        """Give slots away, and take a step."""
        names = {each.member for each in self.loads()}
        if not names:
            return
        member = self.admission.next_up(self.loads(), min(names, key=lambda name: self.clocks[name]), self.now)
        self.least = max(self.least, self.clocks[member])
        group = [guest for guest in self.running if guest.load.member == member]
        queue = [guest for guest in self.waiting if guest.load.member == member]
        queue.sort(key=lambda guest: self.admission.urgency(guest.arrived, guest.load))
        room = min(len(group) + len(queue), self.admission.limits.slots)
        room = self.admission.costs.best_lanes(member, len(group), room)
        group += [guest for guest in queue[: max(0, room - len(group))] if self.admits(guest, bool(group))]
        seconds = self.cost(member, len(group)) if group else 1e-6
        self.now += seconds
        self.clocks[member] += seconds
        self.out.lanes += [len(group)] * bool(group)
        for guest in group:
            guest.load = replace(guest.load, left=guest.load.left - 1)
            if guest.load.left == 0:
                guest.done = self.now
                self.running.remove(guest)

    def admits(self, guest: Guest, company: bool) -> bool:
        """Whether it has a slot now; it may have to wait for another model, which is faster."""
        others = self.loads(beside=guest)
        if guest.ask.deadline is not None and guest.ask.steps is None:
            choice = self.admission.choose(guest.ask, others, self.now, most=guest.steps)
            load = self.admission.load(guest.ask, choice.steps)
            if load.member != guest.load.member:
                self.enter(load)
                guest.load, guest.steps = load, load.left
                return False
        if company and not self.admission.may_join(guest.load, others, self.now):
            return False
        guest.load = replace(guest.load, running=True)
        self.waiting.remove(guest)
        self.running.append(guest)
        return True
