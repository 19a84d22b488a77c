"""What a callback sees between two steps, and what it may do: look, keep a state, cancel samples, stop the run."""

from collections.abc import Callable, Sequence

from torch import Tensor

from fewstep.errors import ArgumentError
from fewstep.run.buffers import State, StaticBuffers


class Step:
    """One step just done.

    Attributes:
        index: which model call of this run it was, from 0.
        total: how many model calls this run makes.
        samples: which samples of the request run here, by their place in it; a large request runs in several batches.
    """

    def __init__(
        self, buffers: StaticBuffers, index: int, total: int, samples: Sequence[int], cancelled: set[int]
    ) -> None:
        self.index, self.total, self.samples = index, total, tuple(samples)
        self._buffers, self._cancelled = buffers, cancelled

    @property
    def x_0(self) -> Tensor:
        """The estimate of x_0 after this step, [len(samples), C, H, W] in [-1, 1]: a preview. A copy."""
        preview = self._buffers.preview
        assert preview is not None  # a run with a callback allocates it
        return preview[: len(self.samples)].clone()

    @property
    def x(self) -> Tensor:
        """The noisy samples, [len(samples), C, H, W]. A copy."""
        return self._buffers.x[: len(self.samples)].clone()

    def state(self, sample: int) -> State:
        """Where a sample stands; `Engine.sample(resume=...)` goes on from it."""
        return self._buffers.state(self._slot(sample))

    def cancel(self, sample: int) -> None:
        """Take a sample out of the run from the next step on. The others come out as if it had stayed."""
        self._buffers.cancel(self._slot(sample))
        self._cancelled.add(sample)

    def _slot(self, sample: int) -> int:
        if sample not in self.samples:
            raise ArgumentError("sample", sample, f"one of {list(self.samples)}")
        return self.samples.index(sample)


Callback = Callable[[Step], bool | None]
"""Called after each step; returning False stops the run, leaving its samples unfinished and marked cancelled."""
