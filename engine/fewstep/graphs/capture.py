"""Capture: turning a piece of work on fixed buffers into something that repeats it.

What is captured is the eager call itself; what varies between two replays is a tensor the work reads.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import ClassVar, Protocol

import torch

WARM_UPS = 2  # the first run of a kernel loads it and picks its algorithm, which a capture forbids
TIMED_RUNS = 5


class Graph(Protocol):
    """A captured piece of work."""

    @property
    def bytes(self) -> int:
        """Memory it holds on to, in bytes."""
        ...

    def replay(self) -> None:
        """Do the work again, on the same buffers."""
        ...

    def release(self) -> None:
        """Give its memory back; it cannot be replayed any more."""
        ...


class Capturer(Protocol):
    """Something that captures, and can tell whether it was worth it."""

    def capture(self, work: Callable[[], None]) -> Graph:
        """Run `work` to warm it up, then capture it."""
        ...

    def seconds(self, work: Callable[[], None]) -> float:
        """The median time of one run of `work`, in seconds."""
        ...


class CudaGraph:
    """A torch.cuda.CUDAGraph with a memory pool of its own, so that evicting it frees what it held."""

    def __init__(self, graph: torch.cuda.CUDAGraph, pool: tuple[int, int]) -> None:
        self._graph, self._pool = graph, pool

    @property
    def bytes(self) -> int:
        """Bytes of the segments in the graph's pool."""
        segments = torch.cuda.memory_snapshot()
        return sum(segment["total_size"] for segment in segments if tuple(segment["segment_pool_id"]) == self._pool)

    def replay(self) -> None:
        """Launch the whole graph on the current stream."""
        self._graph.replay()

    def release(self) -> None:
        """Free the graph and its pool."""
        self._graph.reset()


class CudaCapturer:
    """Captures on a CUDA device, on the calling thread and on one stream, the same for every capture.

    The stream is one because cuBLAS keeps a workspace for every stream that it has worked on, 32 MiB on Hopper, outside
    the graphs' pools and so outside their budget. All graphs of a capturer point into that workspace:

    - Only one of them may run at a time. An engine sees to it: it holds its lock until its work is done. That is why
      each engine has a capturer, hence a stream, of its own: two engines may well be replayed at once.
    - It has to outlive each of them. But in torch 2.13, for one, a graph that is released frees the workspaces of the
      stream its capture began on (pytorch issue 193402). So a capture begins on a stream on which nothing ever runs,
      and the work branches off to the stream that has the workspace.

    While one thread captures, other threads may go on launching, copying, allocating and waiting for their streams.
    They may not, until the capture is over,

    - draw from the device's default generator, as torch.randn does without `generator`: every capture holds it, and
      torch raises "Offset increment outside graph capture" on any thread;
    - wait for the whole device with torch.cuda.synchronize, which CUDA forbids while any stream of it captures;
    - capture by themselves: torch allows one capture at a time in a process. Capturers wait for each other.
    """

    _turn: ClassVar = threading.Lock()  # of the process: whoever captures holds it

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @cached_property
    def _streams(self) -> tuple[torch.cuda.Stream, torch.cuda.Stream]:
        """Where a capture begins, and where its work runs.

        The first is of another priority because torch has 32 streams of each and hands them out again and again: so it
        is no other capturer's second. Nothing runs on it, so its priority changes nothing.
        """
        return torch.cuda.Stream(self.device, priority=-1), torch.cuda.Stream(self.device)

    def capture(self, work: Callable[[], None]) -> CudaGraph:
        """Warm-up and capture are the same line, on the same stream."""
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        with self._turn:
            first, side = self._streams
            captured = torch.cuda.graph(graph, pool=pool, stream=first, capture_error_mode="thread_local")
            side.wait_stream(torch.cuda.current_stream(self.device))
            for context in (*(torch.cuda.stream(side) for _ in range(WARM_UPS)), self._branch(captured)):
                with context:
                    work()
            torch.cuda.current_stream(self.device).wait_stream(side)
        return CudaGraph(graph, pool)

    @contextmanager
    def _branch(self, captured: AbstractContextManager[object]) -> Iterator[None]:
        """A capture of what runs on the second stream, from where the first is to where the first goes on."""
        first, side = self._streams
        with captured:
            side.wait_stream(first)
            try:
                with torch.cuda.stream(side):
                    yield
            finally:
                first.wait_stream(side)

    def seconds(self, work: Callable[[], None]) -> float:
        """By the host's clock around a run that is waited for: what a caller waits, launches included."""
        stream = torch.cuda.current_stream(self.device)  # not the device: another thread may be capturing on it
        times = []
        for _ in range(TIMED_RUNS):
            stream.synchronize()
            started = time.perf_counter()
            work()
            stream.synchronize()
            times.append(time.perf_counter() - started)
        return sorted(times)[len(times) // 2]
