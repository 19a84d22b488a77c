"""What becomes of a ticket is told here, once, and counted."""

import logging
import time
from typing import Any, Final

import torch

from fewstep.run.decode import Images
from fewstep.serve.asks import Ticket
from fewstep.serve.batching.inbox import Inbox
from fewstep.serve.batching.job import Job
from fewstep.serve.batching.planning import Planning
from fewstep.serve.batching.tally import Tally
from fewstep.serve.events import Admitted, Event, Failed, Finished, Progress, Reason

_log: Final = logging.getLogger("fewstep.serve")


class Delivery:
    """Tells listeners what happens to their tickets. A listener that raises is counted and harms nobody else.

    Attributes:
        open: tickets that have not ended, by number.
    """

    def __init__(self, inbox: Inbox, tally: Tally, planning: Planning) -> None:
        self._inbox, self._tally, self._planning = inbox, tally, planning
        self.open: dict[int, Ticket] = {}

    def admitted(self, job: Job) -> None:
        """A job has a slot. One that begins again is not announced twice."""
        ticket = job.ticket
        self._inbox.leave(ticket)
        if ticket.state == "queued":
            ticket.state = "running"
            said = job.member.name, job.sample.plan.sampler, job.steps, ticket.chosen, job.warnings
            self._tell(ticket, Admitted(*said))

    def progress(self, job: Job, preview: Any) -> None:
        """A job has taken a step, unless its listener has heard of that before it began again."""
        if job.done > job.told:
            job.told = job.done
            self._tell(job.ticket, Progress(job.done, job.steps, preview))

    def finished(self, job: Job, images: Images) -> None:
        """A job has come to its end."""
        ticket, plan = job.ticket, job.sample.plan
        if images.finite is not None and not bool(images.finite[0]):
            self.failed(ticket, "non_finite", "the model's answer is not finite for this image")
            return
        now, started = time.monotonic(), job.started or ticket.arrived
        log_prob = states = None
        if ticket.ask.trajectory:
            states = torch.stack(job.states).cpu()
            if images.log_prob is not None:
                log_prob = job.whole_log_prob(images.log_prob[0])[job.sample.start.index : len(plan)].cpu()
        ticket.state = "finished"
        self._forget(ticket)
        queued, ran = started - ticket.arrived, now - started
        self._tally.finished[job.member.name] += 1
        self._tally.queue_seconds += queued
        self._tally.run_seconds += ran
        image = images.values[0].cpu().numpy()
        said = job.member.name, plan.sampler, job.steps, ticket.ask.seed, queued, ran
        self._tell(ticket, Finished(image, *said, log_prob=log_prob, states=states))

    def failed(self, ticket: Ticket, reason: Reason, message: str, argument: str | None = None) -> None:
        """There will be no image of a ticket."""
        self._inbox.leave(ticket)
        self._forget(ticket)
        ticket.state = "cancelled" if reason == "cancelled" else "failed"
        self._tally.failed[reason] += 1
        self._tell(ticket, Failed(reason, message, argument))

    def _forget(self, ticket: Ticket) -> None:
        self.open.pop(ticket.number, None)
        self._planning.ended(ticket)

    def _tell(self, ticket: Ticket, event: Event) -> None:
        try:
            ticket.tell(event)
        except Exception:
            self._tally.deaf += 1
            _log.exception("a listener raised")
