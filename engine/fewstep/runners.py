"""Runners: how the loop is executed. The eager one calls it; a graph runner will capture the same lines."""

from collections.abc import Iterator
from typing import Protocol

import torch

from fewstep.buffers import StaticBuffers
from fewstep.denoiser import Denoiser
from fewstep.loop import sample_loop


class Runner(Protocol):
    """Something that executes `sample_loop`."""

    def run(self, denoiser: Denoiser, buffers: StaticBuffers, steps: int) -> Iterator[int]:
        """Yield after each of `steps` steps; between two of them the caller may look, cancel or stop."""
        ...


class EagerRunner:
    """Runs the loop as it stands, on any device."""

    @torch.no_grad()
    def run(self, denoiser: Denoiser, buffers: StaticBuffers, steps: int) -> Iterator[int]:
        """Yield after each of `steps` steps."""
        yield from sample_loop(denoiser, buffers, steps)
