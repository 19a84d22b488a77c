"""Whose turn it is: the group that has had the least of the device's time."""

from collections.abc import Iterable

from fewstep.serve.batching.group import Group


class Shares:
    """Fair shares of one device, by virtual time (as in start-time fair queueing, Goyal et al. 1996).

    A group's clock counts the seconds that the device has worked for it. Who has the least is next, so groups that
    always have work get the same time, however long their steps are. One that was idle comes in where the least of
    the others stands: it has not saved up what it did not use.
    """

    def __init__(self) -> None:
        self._least = 0.0

    def enter(self, group: Group) -> None:
        """A group that had nothing to do has something."""
        group.clock = max(group.clock, self._least)

    def next(self, groups: Iterable[Group]) -> Group | None:
        """Who is to have the next step, of those that can take one."""
        chosen = min(groups, key=lambda group: group.clock, default=None)
        if chosen is not None:
            self._least = max(self._least, chosen.clock)
        return chosen

    def charge(self, group: Group, seconds: float) -> None:
        """A group has had the device for so long."""
        group.clock += seconds
