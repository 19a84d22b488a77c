"""Runners: how the loop is executed. The eager one calls it; the graph runner replays what it captured of it."""

from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Protocol

import torch

from fewstep.run.buffers import Signature, StaticBuffers
from fewstep.run.decode import Decoder, decode
from fewstep.run.denoiser import Denoiser
from fewstep.run.loop import sample_loop
from fewstep_kernels import StepOps, eager_step_ops

SIZES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # of the network's batch: few, since each may be made ready
KEPT: Final = 4  # buffers, of
KEPT_BYTES: Final = 1 << 20  # at most: what is larger has a network beside which its allocation is nothing


class Run(Protocol):
    """What a session steps: buffers that it fills, and the work on them."""

    @property
    def buffers(self) -> StaticBuffers:
        """Every slot idle until the caller fills it."""
        ...

    def narrow(self, slots: int, lanes: int) -> None:
        """From the next step on nobody has a slot or a lane behind so many; a slot before them that idles has none."""
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


class EagerRun:
    """The loop, called; on a CPU over the part of the buffers that somebody has."""

    def __init__(
        self,
        denoiser: Denoiser,
        decoder: Decoder,
        buffers: StaticBuffers,
        ops: StepOps,
        give_back: Callable[["EagerRun"], None] | None = None,
    ) -> None:
        self.denoiser, self.decoder, self.buffers, self.ops, self.give_back = denoiser, decoder, buffers, ops, give_back
        self._used: StaticBuffers = buffers
        self._parts: dict[tuple[int, int], StaticBuffers] = {}

    def narrow(self, slots: int, lanes: int) -> None:
        """Leave out the slots and lanes behind; on a CPU, where a lane costs its share of the network's time."""
        whole = self.buffers.signature
        if whole.device.type != "cpu":
            return
        lanes = min(next((size for size in SIZES if size >= lanes), whole.lanes), whole.lanes)
        if (slots, lanes) == (whole.samples, whole.lanes):
            self._used = self.buffers
            return
        part = self._parts.get((slots, lanes))
        if part is None:
            part = self._parts[slots, lanes] = self.buffers.part(slots, lanes)
        part.lanes_of(self.buffers)
        self._used = part

    def advance(self, steps: int) -> None:
        """Call the loop."""
        if len(self._used.x):
            sample_loop(self.denoiser, self._used, steps, self.ops)

    def decode(self) -> None:
        """Decode, called."""
        decode(self.decoder, self.buffers)

    def close(self) -> None:
        """Leave the buffers to a later run, where they are the runner's."""
        if self.give_back is not None:
            self.give_back(self)


class EagerRunner:
    """Runs the loop as it stands, on any device.

    A few small buffers are kept, each for one run at a time: to allocate a digit's took 40 us, and a network that finds
    its inputs where they were needs not be told where they are. A run that somebody looks into has its own.

    Args:
        ops: of a step; those that `eager_step_ops` gives for the device unless given.
    """

    def __init__(self, ops: StepOps | None = None) -> None:
        self._ops = ops
        self._free: OrderedDict[Signature, tuple[StaticBuffers, StepOps]] = OrderedDict()

    def prepare(
        self, denoiser: Denoiser, decoder: Decoder, signature: Signature, steps: int, stepwise: bool
    ) -> EagerRun:
        """A run that calls the loop, for any number of steps at a time."""
        kept = None if stepwise else self._free.pop(signature, None)
        if kept is None:
            with torch.inference_mode(False):  # the next run may be outside of it, where those could not be written
                buffers, ops = StaticBuffers.allocate(signature), self._ops or eager_step_ops(signature.device)
        else:
            buffers, ops = kept
            buffers.clear()
        return EagerRun(denoiser, decoder, buffers, ops, None if stepwise else self._keep)

    def _keep(self, run: EagerRun) -> None:
        if run.buffers.nbytes <= KEPT_BYTES:
            self._free[run.buffers.signature] = run.buffers, run.ops
            while len(self._free) > KEPT:
                self._free.popitem(last=False)

    def warming(self) -> AbstractContextManager[None]:
        """There is nothing to prepare."""
        return nullcontext()

    def stats(self) -> dict[str, Any]:
        """What it is."""
        return {"runner": "eager"}
