"""A contender that takes part: made ready for a batch size, then asked for images, then timed."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from fewstep.bench.contenders.case import Case
from fewstep.bench.contenders.contender import Contender
from fewstep.bench.subjects import Subject


class Absent(Exception):  # noqa: N818
    """Why a contender takes no part: it is not installed, or it cannot."""


class Racer(ABC):
    """One contender on one network.

    Attributes:
        contender: who it is.
        subject: the network in its dtype, the engine on its backend.
        lacks: why it takes no part; "" if it does.
        batch: the one batch size that it takes part at; None for all.
        ready: seconds that the first image at a batch size took beyond those after it, by batch size: to compile,
            convert or capture.
    """

    def __init__(self, contender: Contender, subject: Subject, lacks: str = "") -> None:
        self.contender, self.subject, self.lacks = contender, subject, lacks
        self.batch: int | None = None
        self.ready: dict[int, float] = {}

    @abstractmethod
    def images(self, case: Case, seed: int) -> Tensor:
        """[B, C, ...] from torch's noise of a seed (`case.normals`), not clamped, to compare with the reference.

        Raises:
            Absent: it cannot.
        """

    @abstractmethod
    def run(self, case: Case) -> Callable[[int], object]:
        """What is timed: one run of the case, by seed, as its users call it."""

    @property
    def networks(self) -> Sequence[nn.Module]:
        """The modules whose calls the clock counts as the network's."""
        return ()

    def absent(self, case: Case) -> str:
        """Why it takes no part in a case; "" if it does."""
        if not self.lacks and self.batch not in (None, case.batch):
            return f"measured at batch {self.batch} alone: it takes minutes for each"
        return self.lacks

    def figures(self) -> dict[str, float]:
        """What else is known of it once it has run, by the name of its column in `results.Row`."""
        return {}

    def prepare(self, case: Case) -> None:
        """Make it ready for the case's batch size, once; what cannot be is absent from then on."""
        if self.absent(case) or case.batch in self.ready:
            return
        try:
            run, seconds = self.run(case), []
            for seed in range(2):
                started = time.perf_counter()
                run(seed)
                seconds.append(time.perf_counter() - started)
            self.ready[case.batch] = max(0.0, seconds[0] - seconds[1])
        except Absent as why:
            self.lacks = str(why)
