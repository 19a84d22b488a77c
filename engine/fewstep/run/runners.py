"""Runners: how the loop is executed. The eager one calls it; the graph runner replays what it captured of it."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from fewstep.run.buffers import Signature, StaticBuffers
from fewstep.run.decode import Decoder, decode
from fewstep.run.denoiser import Denoiser
from fewstep.run.loop import sample_loop
from fewstep_kernels import StepOps, eager_step_ops


class Run(Protocol):
    """What a session steps: buffers that it fills, and the work on them."""

    @property
    def buffers(self) -> StaticBuffers:
        """Every slot idle until the caller fills it."""
        ...

    def advance(self, steps: int) -> None:
        """Take so many steps."""
        ...

    def decode(self) -> None:
        """Make the images of x, or of the one x that is final, as the signature's output says."""
        ...

    def close(self) -> None:
        """Give the buffers back."""
        ...


class Runner(Protocol):
    """Something that executes `sample_loop`."""

    def prepare(self, denoiser: Denoiser, decoder: Decoder, signature: Signature, steps: int, stepwise: bool) -> Run:
        """Buffers of a signature, and what steps them.

        Args:
            denoiser: the network.
            decoder: what makes images of x.
            signature: of the buffers.
            steps: how many are going to be taken in one go.
            stepwise: they are not: the caller acts between any two.
        """
        ...

    def warming(self) -> AbstractContextManager[None]:
        """Within it, runs are prepared as if they had been asked for often: for `Engine.warm_up`."""
        ...

    def stats(self) -> dict[str, Any]:
        """What the runner has done, for `Engine.stats`."""
        ...


@dataclass(frozen=True)
class EagerRun:
    """The loop, called."""

    denoiser: Denoiser
    decoder: Decoder
    buffers: StaticBuffers
    ops: StepOps

    def advance(self, steps: int) -> None:
        """Call the loop."""
        sample_loop(self.denoiser, self.buffers, steps, self.ops)

    def decode(self) -> None:
        """Decode, called."""
        decode(self.decoder, self.buffers)

    def close(self) -> None:
        """The buffers are the run's own."""


class EagerRunner:
    """Runs the loop as it stands, on any device, in buffers of each run's own.

    Args:
        ops: of a step; those that `eager_step_ops` gives for the device unless given.
    """

    def __init__(self, ops: StepOps | None = None) -> None:
        self._ops = ops

    def prepare(
        self, denoiser: Denoiser, decoder: Decoder, signature: Signature, steps: int, stepwise: bool
    ) -> EagerRun:
        """A run that calls the loop, for any number of steps at a time."""
        ops = self._ops or eager_step_ops(signature.device)
        return EagerRun(denoiser, decoder, StaticBuffers.allocate(signature), ops)

    def warming(self) -> AbstractContextManager[None]:
        """There is nothing to prepare."""
        return nullcontext()

    def stats(self) -> dict[str, Any]:
        """It keeps nothing."""
        return {"runner": "eager"}
