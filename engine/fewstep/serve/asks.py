"""What somebody asks of a server for one image, in words, and the ticket that stands for it."""

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from fewstep.serve.events import Event

State = Literal["queued", "running", "finished", "failed", "cancelled"]
_numbers: Final = itertools.count(1)


@dataclass(frozen=True, eq=False)
class Ask:
    """One image to be.

    Attributes:
        model: the served name.
        seed: of its noise.
        words: further arguments of `Engine.samples` for one sample, such as {"labels": [3], "sampler": "ddpm"}; see
            `Family.samples`, which they are handed to.
        steps: model calls; the model's own number unless given, or as many as the deadline allows.
        deadline: when it is to be done, as `time.monotonic` says it; None for whenever.
        previews: partial images that somebody wants to see on the way, at most.
        trajectory: x before every step, and log p of each step, are wanted beside the image.
        lora: name and weight of each adapter that is merged into the weights while it runs, sorted by name.
    """

    model: str
    seed: int
    words: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None
    deadline: float | None = None
    previews: int = 0
    trajectory: bool = False
    lora: tuple[tuple[str, float], ...] = ()


Listener = Callable[["Ticket", Event], None]
"""Told of each event of a ticket, on the thread that owns the device: it hands over and returns at once."""


@dataclass(eq=False)
class Ticket:
    """An ask that was let in. Any thread may cancel it; all else is written by the thread that owns the device.

    Attributes:
        ask: what was asked.
        listener: whom to tell.
        number: of the ticket, in the order of arrival, from 1; no two of a process have the same.
        arrived: when, by `time.monotonic`.
        state: where it stands.
        abandoned: nobody waits for it any more: it leaves at the next step.
        left: called once it is cancelled, on the thread that does so.
        steps: model calls that it is to have, as things stand; None for the model's own number.
        chosen: they were chosen by its deadline.
    """

    ask: Ask
    listener: Listener
    number: int = field(default_factory=lambda: next(_numbers))
    arrived: float = field(default_factory=time.monotonic)
    state: State = "queued"
    abandoned: bool = False
    left: Callable[["Ticket"], None] | None = None
    steps: int | None = None
    chosen: bool = False

    def cancel(self) -> None:
        """Leave: at once where it is queued, at the next step where it runs. To cancel what has ended does nothing."""
        if self.abandoned or self.state in ("finished", "failed", "cancelled"):
            return
        self.abandoned = True
        if self.left is not None:
            self.left(self)

    def tell(self, event: Event) -> None:
        """Hand an event to the listener."""
        self.listener(self, event)
