"""Capture: turning a piece of work on fixed buffers into something that repeats it.

What is captured is the eager call itself; what varies between two replays is a tensor the work reads.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

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
    """Captures on a CUDA device, on the calling thread.

    Other threads may go on using the device meanwhile: the capture minds this thread's calls alone.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def capture(self, work: Callable[[], None]) -> CudaGraph:
        """Warm-up and capture are the same line, under a side stream and then under the capture."""
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        warm: list[AbstractContextManager[object]] = [torch.cuda.stream(side) for _ in range(WARM_UPS)]
        captured = torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local")
        for context in (*warm, captured):
            with context:
                work()
        torch.cuda.current_stream(self.device).wait_stream(side)
        return CudaGraph(graph, pool)

    def seconds(self, work: Callable[[], None]) -> float:
        """By the host's clock around a synchronised run: what a caller waits for, launches included."""
        times = []
        for _ in range(TIMED_RUNS):
            torch.cuda.synchronize(self.device)
            started = time.perf_counter()
            work()
            torch.cuda.synchronize(self.device)
            times.append(time.perf_counter() - started)
        return sorted(times)[len(times) // 2]
