"""Runners: how the loop is executed. The eager one calls it; the graph runner replays what it captured of it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from fewstep.run.buffers import Signature, StaticBuffers
from fewstep.run.decode import Decoder, decode
from fewstep.run.denoiser import Denoiser
from fewstep.run.loop import sample_loop
from fewstep_kernels import StepOps, eager_step_ops


class Run(Protocol):
    """One batch about to be sampled: fill the buffers, take the steps, then decode."""

    @property
    def buffers(self) -> StaticBuffers:
        """Every slot idle until the caller fills it."""
        ...

    def steps(self) -> Iterator[int]:
        """Take the steps; between two that are yielded the caller may look, cancel or stop."""
        ...

    def decode(self) -> None:
        """Make the images of x as it stands, where the signature asks for an output; call it once, after the steps."""
        ...


class Runner(Protocol):
    """Something that executes `sample_loop`."""

    def prepare(self, denoiser: Denoiser, decoder: Decoder, signature: Signature, steps: int, watched: bool) -> Run:
        """A run of `steps` steps.

        `watched`: the caller wants to act between the steps, so they may not be taken in one go.
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
    count: int
    ops: StepOps

    def steps(self) -> Iterator[int]:
        """Yield after each step."""
        return sample_loop(self.denoiser, self.buffers, self.count, self.ops)

    def decode(self) -> None:
        """Decode, called."""
        decode(self.decoder, self.buffers)


class EagerRunner:
    """Runs the loop as it stands, on any device, in buffers of each run's own.

    Args:
        ops: of a step; those that `eager_step_ops` gives for the device unless given.
    """

    def __init__(self, ops: StepOps | None = None) -> None:
        self._ops = ops

    def prepare(
        self, denoiser: Denoiser, decoder: Decoder, signature: Signature, steps: int, watched: bool
    ) -> EagerRun:
        """A run that calls the loop; watched or not, it yields after each step."""
        ops = self._ops or eager_step_ops(signature.device)
        return EagerRun(denoiser, decoder, StaticBuffers.allocate(signature), steps, ops)

    def warming(self) -> AbstractContextManager[None]:
        """There is nothing to prepare."""
        return nullcontext()

    def stats(self) -> dict[str, Any]:
        """It keeps nothing."""
        return {"runner": "eager"}
