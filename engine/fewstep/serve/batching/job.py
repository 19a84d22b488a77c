"""A ticket with its sample: what waits in a group, runs in a slot, and may have to begin again."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fewstep.run.sample import Sample
from fewstep.serve.asks import Ticket
from fewstep.serve.batching.needs import Needs
from fewstep.serve.family import Member


@dataclass(eq=False)
class Job:
    """One ticket on its way through the device.

    Attributes:
        ticket: whose.
        member: which model draws it.
        sample: as it begins; what runs of it is in the session.
        needs: of a session.
        warnings: what there is to say of its plan.
        build_seconds: that it took to make its sample.
        urgency: by which its group's queue is sorted, least first.
        started: when it was first admitted; None while it never was.
        done: steps that it has taken since it began, or began again.
        told: steps that its listener has heard of.
        states: x before each step so far, and behind the last; of a trajectory.
        kept: [N] log p of the rows that it took in an earlier session, NaN elsewhere.
    """

    ticket: Ticket
    member: Member
    sample: Sample
    needs: Needs
    warnings: tuple[str, ...] = ()
    build_seconds: float = 0.0
    urgency: float = 0.0
    started: float | None = None
    done: int = 0
    told: int = 0
    states: list[Tensor] = field(default_factory=list)
    kept: Tensor | None = None

    @property
    def steps(self) -> int:
        """Model calls, of all."""
        return self.sample.calls

    @property
    def lanes(self) -> int:
        """Rows of the network's batch."""
        return self.sample.lanes

    def begin_again(self) -> None:
        """Forget what it has done; what its listener has heard is not told again."""
        self.done = 0
        self.states.clear()
        self.kept = None

    def is_previewed(self) -> bool:
        """Whether the step that is done is one of those whose estimate is wanted."""
        return self.done in preview_steps(self.steps, self.ticket.ask.previews)

    def keep_log_prob(self, rows: Tensor) -> None:
        """What its session says of the rows so far, [N]; another session will not know of them."""
        self.kept = self.whole_log_prob(rows.clone())

    def whole_log_prob(self, rows: Tensor) -> Tensor:
        """[N] with what earlier sessions said."""
        if self.kept is None:
            return rows
        count = min(len(rows), len(self.kept))
        return torch.where(torch.isnan(rows[:count]), self.kept[:count], rows[:count])


def preview_steps(steps: int, previews: int) -> list[int]:
    """After which steps, from 1, there is a partial image: so many, evenly spaced, never after the last.

    >>> preview_steps(8, 3)
    [2, 4, 6]
    """
    count = max(0, min(previews, steps - 1))
    return [place * steps // (count + 1) for place in range(1, count + 1)]
