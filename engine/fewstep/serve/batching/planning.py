"""What the batcher asks of costs and deadlines: who is let in, in how many steps, in what order and beside whom."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fewstep.serve.asks import Ask, Ticket
from fewstep.serve.batching.admission import Admission, Book, Choice, Load
from fewstep.serve.batching.costs import Costs
from fewstep.serve.batching.group import Group
from fewstep.serve.batching.job import Job
from fewstep.serve.family import Family
from fewstep.serve.limits import Limits


class Planning:
    """Keeps the load of every ticket that has not ended, and decides by it and by what steps cost.

    Args:
        families: by served name.
        limits: of the server.
        costs: of the steps of each member; filled as steps are taken.
    """

    def __init__(self, families: Mapping[str, Family], limits: Limits, costs: Costs) -> None:
        self.costs, self.admission, self.book = costs, Admission(families, costs, limits), Book()
        self.lock = threading.Lock()  # of those who are let in: what was checked is still so when it is booked

    def check(self, asks: Sequence[Ask]) -> None:
        """Whether asks can be done in time. Any thread may ask, within the lock.

        Raises:
            RefusedError: "late".
        """
        if any(ask.deadline is not None for ask in asks):
            self.admission.check(asks, self.book.loads())

    def let_in(self, ticket: Ticket) -> None:
        """A ticket has come: how many steps it is to have so far. Any thread may, within the lock."""
        rate = self.book.came(ticket.arrived)
        choice = self.admission.choose(ticket.ask, self.book.loads(), rate=rate)
        ticket.steps, ticket.chosen = choice.steps, choice.chosen
        self.book.put(ticket.number, self.admission.load(ticket.ask, choice.steps))

    def ended(self, ticket: Ticket) -> None:
        """A ticket has ended, or nobody waits for it."""
        self.book.remove(ticket.number)

    def enqueue(self, job: Job, group: Group) -> None:
        """A job takes its place in the queue of its group: who has to begin first is first."""
        load = self._load(job)
        self.book.put(job.ticket.number, load)
        job.urgency = self.admission.urgency(job.ticket.arrived, load)
        place = len(group.waiting)
        while place and group.waiting[place - 1].urgency > job.urgency:
            place -= 1
        group.waiting.insert(place, job)

    def choose_again(self, job: Job) -> Choice | None:
        """Fewer steps for a job that is about to begin, where its deadline asks for that; None where all is well."""
        ticket = job.ticket
        if not ticket.chosen or job.started is not None:
            return None
        choice = self.admission.choose(ticket.ask, self.book.loads(beside=ticket.number), most=ticket.steps)
        return None if choice.steps == ticket.steps else choice

    def may_join(self, job: Job, group: Group) -> bool:
        """Whether a job may have a slot now: nobody is late because of it, and the step is not much longer for few."""
        if not group.running or group.runs_apart:
            return True
        rows = group.rows
        if not group.member.engine.batch_invariant:
            wanted = rows + sum(each.lanes for each in [*group.waiting][: max(1, group.limit - len(group.running))])
            if rows + job.lanes > self.costs.best_lanes(group.member.name, rows, wanted):
                return False
        loads = self.book.loads(beside=job.ticket.number)
        return all(each.due is None for each in loads) or self.admission.may_join(self._load(job), loads)

    def next(self, groups: Sequence[Group], fair: Group) -> Group:
        """Which group steps: the one whose turn it is, unless a deadline needs another."""
        if len(groups) < 2:
            return fair
        loads = self.book.loads()
        if all(each.due is None for each in loads):
            return fair
        name = self.admission.next_up(loads, fair.member.name)
        if name == fair.member.name:
            return fair
        return min((each for each in groups if each.member.name == name), key=lambda each: each.clock, default=fair)

    def began(self, job: Job) -> None:
        """A job has a slot."""
        self.book.put(job.ticket.number, replace(self._load(job), running=True))

    def stepped(self, job: Job) -> None:
        """A job has taken a step."""
        self.book.stepped(job.ticket.number)

    def begins_again(self, job: Job) -> None:
        """A job has all its steps before it."""
        self.book.put(job.ticket.number, self._load(job))

    def step(self, group: Group, lanes: int, seconds: float) -> None:
        """A step took so long."""
        self.costs.observe(group.member.name, lanes, seconds)

    def image(self, job: Job, began: float) -> None:
        """An image is out of its session; beside its steps it took the time since `began`, and to make its sample."""
        self.costs.observe_image(job.member.name, job.build_seconds + time.perf_counter() - began)

    def _load(self, job: Job) -> Load:
        return Load(job.member.name, job.steps, job.lanes, job.ticket.ask.deadline)
