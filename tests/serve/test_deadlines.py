"""Deadlines on a real thread: a model whose steps take a known time, at four fifths of the load that it bears."""

import random
import threading
import time
from collections import Counter

import pytest

from fewstep import Classes, Engine, Model, schedules
from fewstep.serve import Ask, Batcher, Family, Limits
from fewstep.serve.asks import Ticket
from fewstep.serve.batching.costs import Costs
from fewstep.serve.events import Admitted, Event, Failed, Finished
from fewstep.serve.family import Member
from fewstep.serve.refusals import RefusedError
from support.serving import PATIENCE, FaultyNet, Knobs, until

STEPS = (1, 2, 4, 8)
SECONDS = 0.02  # that a call of the network sleeps, whatever its lanes
SLOTS = 4


def student(steps: int, knobs: Knobs) -> Member:
    model = Model(
        FaultyNet(knobs),
        schedule=schedules.linear(),
        shape=(3, 8, 8),
        conditions=Classes(10, null=10),
        defaults={"sampler": "ddim", "steps": steps},
        trained={"sampler": "ddim", "steps": [steps]},
    )
    return Member(f"it/{steps}", Engine(model, device="cpu", backend="torch"), (steps,))


@pytest.mark.long
@pytest.mark.alone
def test_at_four_fifths_of_the_load_deadlines_hold() -> None:
    knobs, costs = Knobs(), Costs()
    family = Family("it", [student(steps, knobs) for steps in STEPS])
    knobs.seconds = SECONDS
    for member in family.members:
        costs.calibrate(member, SLOTS)
    batcher = Batcher({"it": family}, Limits(slots=SLOTS), costs=costs)
    batcher.start()
    ends: dict[int, float] = {}
    given: dict[int, Admitted] = {}
    failed: list[Failed] = []

    def heard(ticket: Ticket, event: Event) -> None:
        if isinstance(event, Admitted):
            given[ticket.number] = event
        elif isinstance(event, Finished):
            ends[ticket.number] = time.monotonic()
        elif isinstance(event, Failed):
            failed.append(event)

    step = max(costs.step_seconds(member.name, SLOTS) for member in family.members)
    rate = 0.8 * SLOTS / (step * sum(STEPS) / len(STEPS))
    drawn, begin, tickets, refused = random.Random(3), time.monotonic(), list[Ticket](), 0
    try:
        at = begin
        for _ in range(200):
            at += drawn.expovariate(rate)
            threading.Event().wait(max(0.0, at - time.monotonic()))
            deadline = time.monotonic() + step * drawn.choice((30, 60, 120))
            try:
                tickets += batcher.submit([Ask("it", 1, {"labels": [3]}, deadline=deadline)], heard)
            except RefusedError:
                refused += 1
        until(lambda: len(ends) + len(failed) >= len(tickets), PATIENCE)
    finally:
        batcher.close()
    inside = [t for t in tickets if t.ask.deadline is not None and ends.get(t.number, 1e18) <= t.ask.deadline]
    steps = Counter(event.steps for event in given.values())
    said = f"{len(inside)} of {len(tickets)} inside at {rate:.1f} a second, {refused} refused; steps given"
    print(said, dict(sorted(steps.items())))
    assert all(event.chosen for event in given.values())
    assert set(steps) <= set(STEPS)
    assert len(steps) > 1
    assert len(inside) >= 0.99 * len(tickets)
