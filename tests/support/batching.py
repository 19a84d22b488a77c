"""A batcher under test: asks go in, and what became of each is kept."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray

from fewstep.serve import Ask, Batcher, Family, Limits
from fewstep.serve.asks import Ticket
from fewstep.serve.events import Event, Failed, Finished
from support.serving import PATIENCE, until


class Ear:
    """A listener that keeps everything, and waits for the end of each ticket."""

    def __init__(self) -> None:
        self.events: dict[int, list[Event]] = {}
        self._changed = threading.Condition()

    def __call__(self, ticket: Ticket, event: Event) -> None:
        with self._changed:
            self.events.setdefault(ticket.number, []).append(event)
            self._changed.notify_all()

    def end(self, ticket: Ticket) -> Finished | Failed:
        """What became of a ticket, waited for."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._last(ticket) is not None, PATIENCE), f"{ticket} did not end"
        last = self._last(ticket)
        assert last is not None
        return last

    def ends(self, tickets: Sequence[Ticket]) -> list[Finished | Failed]:
        return [self.end(ticket) for ticket in tickets]

    def of(self, ticket: Ticket, kind: type[Event]) -> list[Any]:
        """The events of a kind so far."""
        return [event for event in self.events.get(ticket.number, []) if isinstance(event, kind)]

    def _last(self, ticket: Ticket) -> Finished | Failed | None:
        last = self.events.get(ticket.number, [None])[-1]
        return last if isinstance(last, Finished | Failed) else None


@contextmanager
def running(families: Family | dict[str, Family], limits: Limits | None = None, **options: Any) -> Iterator[Batcher]:
    """A batcher that has been started, and is closed at the end."""
    named = {families.name: families} if isinstance(families, Family) else families
    batcher = Batcher(named, limits, **options)
    batcher.start()
    try:
        yield batcher
    finally:
        batcher.close()


def asks(count: int, model: str = "tiny", **words: Any) -> list[Ask]:
    """So many, of labels 0, 1, .. and seeds 100, 101, .., with the same further words."""
    steps = words.pop("steps", 3)
    return [Ask(model, 100 + i, {"labels": [i % 10], **words}, steps=steps) for i in range(count)]


def alone(family: Family, ask: Ask) -> NDArray[Any]:
    """The image of an ask by `Engine.sample`, uint8 [H, W, C]."""
    member = family.member(ask.steps)
    drawn = member.engine.sample(1, seeds=[ask.seed], steps=ask.steps, output="uint8", **ask.words)
    return drawn.images[0].numpy()


def failed(end: Finished | Failed) -> str | None:
    """Why there is no image; None where there is one."""
    return end.reason if isinstance(end, Failed) else None


__all__ = ["Ear", "alone", "asks", "failed", "running", "until"]
