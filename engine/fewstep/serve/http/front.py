"""Where requests are handed over: there from the first moment, before the models are open, and it keeps count."""

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final, Literal

from fewstep.serve.asks import Ask, Listener, Ticket
from fewstep.serve.batching.batcher import Batcher
from fewstep.serve.events import Admitted, Event, Failed, Finished
from fewstep.serve.family import Family
from fewstep.serve.refusals import RefusedError, Why

Phase = Literal["starting", "ready", "draining", "dead"]
End = Literal["draining", "dead"]
Facts = dict[str, Any]
SAID: Final = {
    "starting": "the models are being opened",
    "draining": "the server is going down and takes nothing more",
    "dead": "the device is lost; the server is about to end",
}
facts_of_request: Final[ContextVar[Facts | None]] = ContextVar("facts_of_request", default=None)


class Front:
    """A batcher, or the place where one will be.

    What is not said here is the batcher's own.

    Args:
        batcher: who runs what is asked; none before `open`.
        heard: told of every event of every ticket, on the thread that owns the device.
        refused: told why something was not let in.

    Attributes:
        families: by served name; none before `open`.
    """

    def __init__(
        self,
        batcher: Batcher | None = None,
        heard: Callable[[Ticket, Event], None] = lambda ticket, event: None,
        refused: Callable[[str], None] = lambda why: None,
    ) -> None:
        self._batcher, self._heard, self._refused = batcher, heard, refused
        self._ended: End | None = None
        self.families: Mapping[str, Family] = {} if batcher is None else batcher.families

    def __getattr__(self, name: str) -> Any:
        batcher = self.__dict__.get("_batcher")
        if batcher is None or name.startswith("_"):
            raise AttributeError(f"there is no {name} before the models are open")
        return getattr(batcher, name)

    def open(self, batcher: Batcher) -> None:
        """From now on there is a batcher, which has been started."""
        self._batcher, self.families = batcher, batcher.families

    def end(self, phase: End) -> None:
        """Nothing more is let in, and why; a dead one stays dead."""
        self._ended = "dead" if self._ended == "dead" else phase

    @property
    def phase(self) -> Phase:
        """Where the server stands."""
        if self._ended is not None:
            return self._ended
        if self._batcher is None:
            return "starting"
        if self._batcher.ready:
            return "ready"
        state = self._batcher.stats().get("state")
        return "dead" if state == "dead" else "starting" if state == "starting" else "draining"

    @property
    def ready(self) -> bool:
        """Whether asks are let in."""
        return self.phase == "ready"

    def submit(self, asks: Sequence[Ask], listener: Listener) -> list[Ticket]:
        """Let some asks in, all or none of them; see `Batcher.submit`."""
        current = facts_of_request.get()
        facts: Facts = {} if current is None else current
        facts |= {"model": asks[0].model, "n": len(asks)} if asks else {}

        def told(ticket: Ticket, event: Event) -> None:
            _note(facts, event)
            self._heard(ticket, event)
            listener(ticket, event)

        try:
            if self._batcher is None or self._ended is not None:
                why: Why = "starting" if self._ended is None else self._ended
                raise RefusedError(why, SAID[why], retry_after=2.0 if why == "starting" else None)
            return self._batcher.submit(asks, told)
        except RefusedError as error:
            facts["refused"] = error.why
            self._refused(error.why)
            raise

    def stats(self) -> dict[str, Any]:
        """Of the batcher; nothing before there is one."""
        return {} if self._batcher is None else self._batcher.stats()


def _note(facts: Facts, event: Event) -> None:
    """What the log says of a request: of several images the most steps and the longest wait."""
    if isinstance(event, Admitted):
        facts["steps"] = max(event.steps, facts.get("steps", 0))
    elif isinstance(event, Finished):
        facts["queue_ms"] = max(round(1000 * event.queue_seconds, 1), facts.get("queue_ms", 0))
        facts["run_ms"] = max(round(1000 * event.run_seconds, 1), facts.get("run_ms", 0))
    elif isinstance(event, Failed):
        facts["failed"] = event.reason
