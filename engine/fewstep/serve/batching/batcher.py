"""The batcher: one thread owns the device, lets asks in between two steps and takes the steps of all who run."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewstep.errors import ArgumentError, FewstepError
from fewstep.run.decode import to_pixels
from fewstep.run.session import Session
from fewstep.serve.asks import Ask, Listener, Ticket
from fewstep.serve.events import Admitted, Failed, Finished, Progress
from fewstep.serve.family import Family, Member
from fewstep.serve.limits import Limits
from fewstep.serve.refusals import RefusedError

FEATURES = ("stochastic", "statistics", "preview")


@dataclass(eq=False)
class _Running:
    ticket: Ticket
    sampler: str
    steps: int
    started: float
    done: int = 0


class Batcher:
    """Runs asks of several families on one device.

    Args:
        families: by served name.
        limits: how much it takes on.
        died: called once, on the device's thread, when the device is lost and nothing more can run.

    `start` it, `submit` to it from any thread, `drain` and `close` it.
    """

    def __init__(
        self,
        families: Mapping[str, Family],
        limits: Limits | None = None,
        *,
        died: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        self.families, self.limits, self._died = dict(families), limits or Limits(), died
        self._wake = threading.Condition()
        self._queue: list[Ticket] = []
        self._stopping: str | None = None  # "draining" or "closed"
        self._sessions: dict[Member, tuple[Session, dict[int, _Running]]] = {}
        self._thread = threading.Thread(target=self._serve, name="fewstep-device", daemon=True)
        self._finished = 0

    @property
    def ready(self) -> bool:
        """Whether asks are let in."""
        return self._thread.is_alive() and self._stopping is None

    def start(self) -> None:
        """Start the thread that owns the device."""
        self._thread.start()

    def submit(self, asks: Sequence[Ask], listener: Listener) -> list[Ticket]:
        """Let some asks in, all or none of them. Any thread may.

        What is wrong with an ask is told to the listener, as `Failed` with the reason "invalid".

        Raises:
            ArgumentError: a model that is not served.
            RefusedError: nothing was let in, and why.
        """
        for ask in asks:
            if ask.model not in self.families:
                raise ArgumentError("model", ask.model, f"one of {', '.join(self.families)}")
        tickets = [Ticket(ask, listener) for ask in asks]
        with self._wake:
            if self._stopping is not None:
                raise RefusedError("draining", "the server is going down and takes nothing more")
            if len(self._queue) + len(tickets) > self.limits.queue:
                raise RefusedError("full", f"{len(self._queue)} images wait, as many as may", retry_after=1.0)
            self._queue += tickets
            self._wake.notify_all()
        return tickets

    def drain(self, seconds: float | None = None) -> bool:
        """Let nothing more in, and wait for what was; whether all of it came to its end."""
        with self._wake:
            self._stopping = self._stopping or "draining"
            self._wake.notify_all()
        self._thread.join(self.limits.drain_seconds if seconds is None else seconds)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Stop at the next step; who still waits is told."""
        with self._wake:
            self._stopping = "closed"
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def stats(self) -> dict[str, Any]:
        """What stands where: for /metrics and the page."""
        running = {member.name: len(held) for member, (_, held) in list(self._sessions.items())}
        return {
            "queued": len(self._queue),
            "running": running,
            "slots": self.limits.slots,
            "finished": self._finished,
        }

    def _serve(self) -> None:
        while True:
            with self._wake:
                while not self._queue and not self._busy() and self._stopping is None:
                    self._wake.wait(1.0)
                if self._stopping == "closed" or (self._stopping and not self._queue and not self._busy()):
                    break
                waiting, self._queue = self._queue, []
            kept = [ticket for ticket in waiting if not self._admit(ticket)]
            with self._wake:
                self._queue = kept + self._queue
            for member in list(self._sessions):
                self._step(member)
        for _, held in self._sessions.values():
            for each in held.values():
                each.ticket.tell(Failed("dead", "the server has stopped"))
        for ticket in self._queue:
            ticket.tell(Failed("dead", "the server has stopped"))

    def _busy(self) -> bool:
        return any(held for _, held in self._sessions.values())

    def _admit(self, ticket: Ticket) -> bool:
        """Whether it has left the queue."""
        if ticket.abandoned:
            ticket.state = "cancelled"
            ticket.tell(Failed("cancelled", "cancelled"))
            return True
        family = self.families[ticket.ask.model]
        member = family.member(ticket.ask.steps)
        if member not in self._sessions:
            slots = self.limits.slots
            features = FEATURES + (("log_prob",) if ticket.ask.trajectory else ())
            opened = member.engine.session(slots, steps=self.limits.steps, history=4, features=features)
            self._sessions[member] = opened, {}
        session, held = self._sessions[member]
        try:
            sample, warnings = family.samples(ticket.ask, member, ticket.ask.steps)
        except FewstepError as error:
            ticket.state = "failed"
            ticket.tell(Failed("invalid", str(error), getattr(error, "argument", None)))
            return True
        if not session.accepts(sample):
            return False
        slot = session.admit(sample)[0]
        ticket.state = "running"
        held[slot] = _Running(ticket, sample.plan.sampler, sample.calls, time.monotonic())
        ticket.tell(Admitted(member.name, sample.plan.sampler, sample.calls, warnings=warnings))
        return True

    def _step(self, member: Member) -> None:
        session, held = self._sessions[member]
        if not held:
            return
        done = session.advance(1)
        for slot, each in list(held.items()):
            each.done += 1
            if each.ticket.abandoned:
                session.cancel(slot)
                del held[slot]
                each.ticket.state = "cancelled"
                each.ticket.tell(Failed("cancelled", "cancelled"))
                continue
            preview = None
            if each.ticket.ask.previews:
                preview = to_pixels(session.preview(slot)[None])[0].numpy()
            each.ticket.tell(Progress(each.done, each.steps, preview))
            if slot in done:
                self._finish(member, session, held, slot)

    def _finish(self, member: Member, session: Session, held: dict[int, _Running], slot: int) -> None:
        each, now = held.pop(slot), time.monotonic()
        images = session.take(slot)
        each.ticket.state = "finished"
        self._finished += 1
        queued, ran = each.started - each.ticket.arrived, now - each.started
        image = to_pixels(images.values)[0].numpy()
        seed = each.ticket.ask.seed
        log_prob = None if images.log_prob is None else images.log_prob[0]
        each.ticket.tell(Finished(image, member.name, each.sampler, each.steps, seed, queued, ran, log_prob))
