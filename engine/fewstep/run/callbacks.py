"""What a callback sees between two steps, and what it may do: look, keep a sample, cancel some, stop the run."""

from collections.abc import Callable, Sequence

from torch import Tensor

from fewstep.checks import whole
from fewstep.errors import ArgumentError
from fewstep.run.decode import Images
from fewstep.run.sample import Sample
from fewstep.run.session import Session


class Step:
    """One step just done.

    Attributes:
        index: which model call of this run it was, from 0.
        total: how many model calls this run makes.
        samples: which samples of the request run here, by their place in it; a large request runs in several batches.
    """

    def __init__(self, session: Session, index: int, total: int, samples: Sequence[int], cancelled: set[int]) -> None:
        self.index, self.total, self.samples = index, total, tuple(samples)
        self._session, self._cancelled = session, cancelled

    @property
    def x_0(self) -> Tensor:
        """The estimate of x_0 after this step, [len(samples), C, H, W]: a preview. A copy."""
        preview = self._session.buffers.preview
        assert preview is not None  # a run with a callback allocates it
        return preview[: len(self.samples)].clone()

    @property
    def x(self) -> Tensor:
        """The noisy samples, [len(samples), C, H, W]. A copy."""
        return self._session.buffers.x[: len(self.samples)].clone()

    @property
    def log_prob(self) -> Tensor:
        """log p(x' | x) of this step, [len(samples)], in nats; NaN where it added no noise, or a sample was done.

        A copy. Raises ArgumentError in a run that was not asked for it.
        """
        kept = self._session.buffers.log_prob
        if kept is None:
            raise ArgumentError("log_prob", "a run that was not asked for it", "Engine.sample(..., log_prob=True)")
        return kept.gather(1, self._session.buffers.step[:, None])[: len(self.samples), 0]

    def state(self, sample: int) -> Sample:
        """A sample as it stands: `Engine.sample(start=Resume([...]))` goes on from it, in any batch."""
        return self._session.sample(self._slot(sample))

    def cancel(self, sample: int) -> None:
        """Take a sample out of the run from the next step on. The others come out as if it had stayed."""
        slot = self._slot(sample)
        self._session.cancel(slot)
        self._cancelled.add(self.samples[slot])

    def _slot(self, sample: int) -> int:
        place = whole(sample)
        if place is None or place not in self.samples:
            raise ArgumentError("sample", sample, f"one of {list(self.samples)}")
        return self.samples.index(place)


Callback = Callable[[Step], bool | None]
"""Called after each step; returning False stops the run, leaving its samples unfinished and marked cancelled."""


def counting(advance: Callable[[int, int], None], samples: int) -> Callback:
    """Tells `advance(done, total)` the model calls of single samples, for a request of so many.

    A large request runs in several batches, one behind the other: those before are done.
    """

    def count(step: Step) -> None:
        done = step.samples[0] * step.total + (step.index + 1) * len(step.samples)
        advance(done, samples * step.total)

    return count


class Following:
    """How far a request has come, and what its callback has done to it.

    Args:
        total: samples of the request.
        callback: None where nobody looks.
    """

    def __init__(self, total: int, callback: Callback | None) -> None:
        self.callback, self._total = callback, total
        self.cancelled: set[int] = set()  # by their place in the request
        self.calls = 0  # of the network
        self.parts: list[Images] = []  # of the batches that are done
        self.backends: list[str] = []  # what executed the network, for each sample of these
        self._ended = False

    @property
    def stopped(self) -> bool:
        """Whether nothing more is to be done: the callback said so, or every sample was cancelled."""
        return self._ended or len(self.cancelled) == self._total

    def follow(self, session: Session, places: Sequence[int]) -> None:
        """Take a batch to its end, or to where its callback stops it."""
        total = session.left
        if self.callback is None:
            session.advance()
            self.calls += total
            return
        for i in range(total):
            if session.left == 0:  # all that ran here were cancelled, one by one
                return
            session.advance(1)
            self.calls += 1
            if self.callback(Step(session, i, total, places, self.cancelled)) is False:
                self.cancelled.update(places[slot] for slot in session.running)
                self.cancelled.update(range(places[-1] + 1, self._total))
                self._ended = True
                return


def check_callback(callback: object) -> None:
    """ArgumentError unless it can be called, or is None."""
    if callback is not None and not callable(callback):
        raise ArgumentError("callback", callback, "a function of a Step, or None")
