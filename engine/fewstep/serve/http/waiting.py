"""From the device's thread to the event loop: the events of some tickets, awaited."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from fewstep.serve.asks import Ask, Ticket
from fewstep.serve.batching.batcher import Batcher
from fewstep.serve.events import Event, Failed, Finished


class Waiting:
    """Some asks of one request, let in together; leaving it cancels what has not ended."""

    def __init__(self, batcher: Batcher, asks: Sequence[Ask]) -> None:
        self._loop, self._events = asyncio.get_running_loop(), asyncio.Queue[tuple[Ticket, Event]]()
        self.tickets = batcher.submit(asks, self._heard)

    def __enter__(self) -> "Waiting":
        return self

    def __exit__(self, *_: object) -> None:
        for ticket in self.tickets:
            ticket.cancel()

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """Which of the asks, by its place, and what happened; until all have ended."""
        places = {ticket.number: place for place, ticket in enumerate(self.tickets)}
        left = len(places)
        while left:
            ticket, event = await self._events.get()
            left -= isinstance(event, Finished | Failed)
            yield places[ticket.number], event

    def _heard(self, ticket: Ticket, event: Event) -> None:
        self._loop.call_soon_threadsafe(self._events.put_nowait, (ticket, event))
