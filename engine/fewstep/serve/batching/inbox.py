"""Where other threads leave what the thread that owns the device is to do, and how much of it there may be."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from fewstep.serve.asks import Ticket
from fewstep.serve.batching.weight import weight_of
from fewstep.serve.limits import Limits
from fewstep.serve.refusals import RefusedError, Why

Standing = Literal["starting", "open", "draining", "closed", "dead"]
_REFUSALS: Final[dict[Standing, tuple[Why, str]]] = {
    "starting": ("starting", "the server is starting and takes nothing yet"),
    "draining": ("draining", "the server is going down and takes nothing more"),
    "closed": ("draining", "the server has stopped"),
    "dead": ("dead", "the device is lost"),
}


@dataclass(eq=False)
class Call:
    """A function for the thread that owns the device, between two steps.

    Attributes:
        function: called without arguments.
        model: none of whose sessions may be open meanwhile, since its weights change; None where nothing has to wait.
        future: of what the function returns.
    """

    function: Callable[[], Any]
    model: str | None = None
    future: Future[Any] = field(default_factory=Future)

    def run(self) -> None:
        """Call the function, unless nobody waits for it any more; what it raises is the future's."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(self.function())
        except Exception as error:  # whoever waits is told
            self.future.set_exception(error)

    def refuse(self, why: RefusedError) -> None:
        """It is not going to be called."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(why)


class Inbox:
    """Tickets and calls on their way to the device, and how much waits. All of it may be used by any thread.

    A ticket takes room from when it is put in until it runs or has ended.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.refused: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._standing: Standing = "starting"
        self._tickets: list[Ticket] = []
        self._calls: list[Call] = []
        self._room: dict[int, int] = {}  # bytes of each ticket that waits, by its number
        self._bytes = 0
        self._cancelled = False
        self._noticed: Standing = "starting"  # by who takes

    @property
    def standing(self) -> Standing:
        """Whether something is let in, or why not."""
        return self._standing

    @property
    def waiting(self) -> int:
        """Images that wait."""
        return len(self._room)

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the pictures, masks and words that wait."""
        return self._bytes

    def stand(self, standing: Standing, only_from: Sequence[Standing] = ("starting", "open", "draining")) -> bool:
        """Change whether something is let in; whether it stood where it may be changed from."""
        with self._changed:
            if self._standing not in only_from:
                return False
            self._standing = standing
            self._changed.notify_all()
            return True

    def put(self, tickets: Sequence[Ticket], retry_after: float = 1.0) -> None:
        """Let tickets in, all or none.

        Raises:
            RefusedError: nothing was let in, and why.
        """
        weights = [weight_of(ticket.ask.words) for ticket in tickets]
        with self._changed:
            if self._standing != "open":
                why, message = _REFUSALS[self._standing]
                self.refused[why] += len(tickets)
                raise RefusedError(why, message)
            too_many = len(self._room) + len(tickets) > self.limits.queue
            if too_many or self._bytes + sum(weights) > self.limits.queue_bytes:
                self.refused["full"] += len(tickets)
                what = f"{len(self._room)} images wait" if too_many else f"pictures of {self._bytes} bytes wait"
                most = self.limits.queue if too_many else self.limits.queue_bytes
                raise RefusedError("full", f"{what}, and {most} may", retry_after)
            for ticket, weight in zip(tickets, weights, strict=True):
                self._room[ticket.number] = weight
            self._bytes += sum(weights)
            self._tickets += tickets
            self._changed.notify_all()

    def call(self, call: Call) -> None:
        """Leave a call; refused where nobody is there to make it."""
        with self._changed:
            if self._standing not in ("closed", "dead"):
                self._calls.append(call)
                self._changed.notify_all()
                return
        call.refuse(RefusedError(*_REFUSALS[self._standing]))

    def leave(self, ticket: Ticket) -> None:
        """A ticket waits no more; its room is free."""
        with self._changed:
            self._bytes -= self._room.pop(ticket.number, 0)

    def cancelled(self, ticket: Ticket) -> None:
        """Nobody waits for a ticket any more."""
        with self._changed:
            self._bytes -= self._room.pop(ticket.number, 0)
            self._cancelled = True
            self._changed.notify_all()

    def take(self, seconds: float) -> tuple[list[Ticket], list[Call], bool]:
        """What has come, and whether somebody has left; waits for something so many seconds at most."""

        def something() -> bool:
            return bool(self._tickets or self._calls or self._cancelled or self._standing != self._noticed)

        with self._changed:
            if seconds > 0:
                self._changed.wait_for(something, seconds)
            self._noticed = self._standing
            found = self._tickets, self._calls, self._cancelled
            self._tickets, self._calls, self._cancelled = [], [], False
            return found
