"""One engine: which adapters its weights have, the groups that run with them, and who waits for others."""

import time
import warnings
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from typing import Final, TypeAlias

from fewstep.errors import FewstepError
from fewstep.run.buffers import Schema
from fewstep.run.features import schema
from fewstep.serve.asks import Ticket
from fewstep.serve.batching.group import Group
from fewstep.serve.batching.needs import Needs
from fewstep.serve.family import Member
from fewstep.serve.limits import Limits

LoraSet: TypeAlias = tuple[tuple[str, float], ...]
TURNS: Final = 4  # times the slots: images that a set may still admit while others wait for theirs
SECONDS: Final = 5.0  # and for how long


class Weights:
    """Of one engine. Adapters are merged into its weights, so only tickets of one set of them run at a time.

    While tickets of another set wait, the current one may go on for so many images or seconds; then it admits nothing
    more, what runs comes to its end, the sessions are closed and the adapters changed. The set that has waited longest
    is next, and the one that was put off waits behind all others.

    Args:
        member: the engine.
        limits: of the server.
    """

    def __init__(self, member: Member, limits: Limits) -> None:
        self.member, self.engine, self.limits = member, member.engine, limits
        self.current: LoraSet = ()
        self.groups: dict[Needs, Group] = {}
        self.others: OrderedDict[LoraSet, deque[Ticket]] = OrderedDict()
        self.held = False  # nothing is admitted, since the weights are to be changed from outside
        self._base = dict(self.engine.loras)
        self._admitted = 0  # since others wait
        self._since: float | None = None

    @property
    def busy(self) -> bool:
        """Whether anything runs or waits."""
        return bool(self.others) or any(group.busy for group in self.groups.values())

    @property
    def quiet(self) -> bool:
        """Whether nothing runs, nor begins again."""
        return not any(group.began for group in self.groups.values())

    @property
    def is_due(self) -> bool:
        """Whether another set is to have its turn."""
        if not self.others or self._since is None:
            return False
        if not any(group.busy for group in self.groups.values()):
            return True
        return self._admitted >= TURNS * self.limits.slots or time.monotonic() - self._since >= SECONDS

    @property
    def admits(self) -> bool:
        """Whether jobs that have not run yet may begin."""
        return not self.held and not self.is_due

    @cached_property
    def usual(self) -> Schema | None:
        """The condition that a session is opened for if it is told of none; None where the model cannot say."""
        with warnings.catch_warnings(), suppress(FewstepError):
            warnings.simplefilter("ignore")
            blank = self.engine.model.conditions.blank(1)
            return schema(self.engine.samples(1, seeds=0, **blank)[0].condition)
        return None

    def group(self, needs: Needs) -> Group:
        """The group of some needs."""
        if needs not in self.groups:
            self.groups[needs] = Group(needs, self.member, self.limits, needs.condition == self.usual)
        return self.groups[needs]

    def count(self) -> None:
        """A job of the current set has begun."""
        self._admitted += bool(self.others)

    def put_off(self, ticket: Ticket) -> None:
        """A ticket waits for its adapters."""
        if not self.others:
            self._admitted, self._since = 0, time.monotonic()
        self.others.setdefault(ticket.ask.lora, deque()).append(ticket)

    def tickets(self) -> Iterator[Ticket]:
        """Those that wait for other adapters."""
        for waiting in self.others.values():
            yield from waiting

    def forget(self, ticket: Ticket) -> None:
        """A ticket waits for its adapters no more."""
        for lora in [lora for lora, waiting in self.others.items() if ticket in waiting]:
            self.others[lora].remove(ticket)
            if not self.others[lora]:
                del self.others[lora]

    def swap(self) -> list[Ticket]:
        """Give the set that has waited longest its adapters, where nothing runs; its tickets.

        Raises:
            FewstepError: it cannot have them. Its tickets are still those that wait longest.
        """
        put_off = self.empty()
        if put_off:
            self.others[self.current] = deque([*put_off, *self.others.pop(self.current, ())])
        wanted = next(iter(self.others))
        self.apply(wanted)
        self._admitted, self._since = 0, time.monotonic()
        return list(self.others.pop(wanted))

    def empty(self) -> list[Ticket]:
        """Close all sessions, where nothing runs; the tickets that waited, whose samples are of the old weights."""
        tickets = []
        for group in self.groups.values():
            group.close()
            tickets += [job.ticket for job in group.waiting]
            group.waiting.clear()
        return sorted(tickets, key=lambda ticket: ticket.number)

    def apply(self, wanted: LoraSet) -> None:
        """Change the adapters in the weights, where no session is open; no adapters are those of the beginning.

        Raises:
            FewstepError: an adapter that is not loaded.
        """
        known = self.engine.loras
        weights = {name: 0.0 if wanted else self._base.get(name, 0.0) for name in known} | dict(wanted)
        if weights != known:
            self.engine.set_lora(weights)
        self.current = wanted

    def close_idle(self, seconds: float) -> None:
        """Close the sessions that nobody has used for so long, and forget their groups."""
        before = time.monotonic() - seconds
        for needs, group in list(self.groups.items()):
            if not group.busy and group.last_used <= before:
                group.close()
                del self.groups[needs]
