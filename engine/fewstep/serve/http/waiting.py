"""From the device's thread to the event loop: the events of some tickets, awaited."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

from fewstep.serve.asks import Ask, Ticket
from fewstep.serve.batching.batcher import Batcher
from fewstep.serve.events import Event, Failed, Finished, Progress


class GoneError(Exception):
    """Whoever asked has hung up."""


class Waiting:
    """Some asks of one request, let in together; leaving it cancels what has not ended.

    However slowly the events are taken, no more than four are kept of a ticket: a step's news replaces that of the step
    before it, and a preview the one before it. The last event is always kept.
    """

    def __init__(self, batcher: Batcher, asks: Sequence[Ask]) -> None:
        self._loop, self._news = asyncio.get_running_loop(), asyncio.Event()
        self._lock = threading.Lock()
        self._kept: dict[tuple[int, str], tuple[Ticket, Event]] = {}
        self._told = False  # that there is news
        self.tickets: list[Ticket] = batcher.submit(asks, self._heard)
        self._places = {ticket.number: place for place, ticket in enumerate(self.tickets)}
        self._left = len(self.tickets)

    def __enter__(self) -> "Waiting":
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    @property
    def over(self) -> bool:
        """Whether the last event of every ticket was taken."""
        return self._left == 0

    def cancel(self) -> None:
        """Nobody waits for these any more."""
        for ticket in self.tickets:
            ticket.cancel()

    async def news(self, seconds: float | None = None) -> list[tuple[int, Event]]:
        """What happened since it was last asked: which of the asks, by its place, and what.

        Args:
            seconds: to wait for the first of it; for ever unless given. Nothing where they passed.
        """
        try:
            await asyncio.wait_for(self._news.wait(), seconds)
        except TimeoutError:
            return []
        with self._lock:
            self._news.clear()
            self._told = False
            kept, self._kept = list(self._kept.values()), {}
        self._left -= sum(isinstance(event, Finished | Failed) for _, event in kept)
        return [(self._places[ticket.number], event) for ticket, event in kept]

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """The same one by one, until all have ended."""
        while not self.over:
            for each in await self.news():
                yield each

    def _heard(self, ticket: Ticket, event: Event) -> None:
        """On the device's thread, or on that of `submit`."""
        kind = "preview" if isinstance(event, Progress) and event.preview is not None else type(event).__name__
        with self._lock:
            self._kept.pop((ticket.number, kind), None)
            self._kept[ticket.number, kind] = ticket, event
            told, self._told = self._told, True
        if not told:
            try:
                self._loop.call_soon_threadsafe(self._news.set)
            except RuntimeError:  # the loop is closed: nobody waits any more
                ticket.cancel()
