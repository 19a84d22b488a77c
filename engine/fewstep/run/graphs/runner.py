"""The graph runner: the loop captured once per key, replayed per request.

    unroll = N <= 8   the whole run is one graph, with the decode and the pixels where asked for: lowest latency
    unroll = 1        one step is a graph, replayed N times: any N, and the caller may act between the steps; what
                      makes images of the last x is a second one

A key is served eagerly twice and captured before its third run; while `warming`, before its first.
A graph is kept only if replaying it is faster than calling the loop, measured right after the capture.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from fewstep.run.buffers import Signature, StaticBuffers
from fewstep.run.decode import Decoder, decode
from fewstep.run.denoiser import Denoiser
from fewstep.run.graphs.cache import Entry, GraphCache, GraphKey
from fewstep.run.graphs.capture import Capturer
from fewstep.run.loop import sample_loop
from fewstep.run.runners import EagerRunner, Run

MAX_UNROLL = 8  # fifty unrolled SDXL steps are 92,000 nodes
EAGER_USES = 2
KEEP_BELOW = 0.98  # of the eager time; a graph that wins less is not worth its memory


@dataclass(frozen=True)
class GraphRun:
    """Steps by replay, on the buffers of a graph that is leased until the run is closed.

    Whatever is to outlive the run is copied out of the buffers.
    """

    entry: Entry
    unroll: int
    denoiser: Denoiser
    decoder: Decoder

    @property
    def buffers(self) -> StaticBuffers:
        """The graph's own."""
        return self.entry.buffers

    def narrow(self, slots: int, lanes: int) -> None:
        """What a graph computes was fixed when it was captured."""

    def advance(self, steps: int) -> None:
        """Replay the graph as often as it takes; call the loop for a part of a graph of several steps."""
        if steps % self.unroll:
            sample_loop(self.denoiser, self.buffers, steps)
            return
        for _ in range(steps // self.unroll):
            self.entry.graph.replay()
            self.entry.replays += 1

    def decode(self) -> None:
        """Replay the graph that decodes; an unrolled run has done so."""
        if self.entry.decode is not None:
            self.entry.decode.replay()

    def close(self) -> None:
        """End the lease."""
        self.entry.leased = False


class GraphRunner:
    """Replays captured graphs, and runs eagerly what is not captured yet or not worth it.

    A graph and its buffers are leased to one run at a time, and neither shared nor evicted while they are. Nothing is
    captured while a run has a lease: a capture takes seconds, and a session that admits waits between two steps.

    Args:
        capturer: what captures on the device.
        budget_bytes: memory the graphs' pools may hold together.
    """

    def __init__(self, capturer: Capturer, budget_bytes: int) -> None:
        self.cache = GraphCache(budget_bytes)
        self._capturer = capturer
        self._eager = EagerRunner()
        self._eager_uses = EAGER_USES
        self._uses: Counter[GraphKey] = Counter()
        self._dropped: set[GraphKey] = set()
        self._counts: Counter[str] = Counter()
        self._capture_seconds = 0.0

    def prepare(self, denoiser: Denoiser, decoder: Decoder, signature: Signature, steps: int, stepwise: bool) -> Run:
        """A run by replay where the key is captured, or has now been used often enough to be; else an eager one."""
        key = self.key(signature, steps, stepwise)
        entry = self.cache.get(key)
        self._uses[key] += 1
        if entry is None and self._wanted(key):
            entry = self._capture(denoiser, decoder, key)
        if entry is None or entry.leased:
            self._counts["eager runs"] += 1
            return self._eager.prepare(denoiser, decoder, signature, steps, stepwise)
        self._counts["hits"] += 1
        entry.leased = True
        entry.buffers.clear()
        return GraphRun(entry, key.unroll, denoiser, decoder)

    def _wanted(self, key: GraphKey) -> bool:
        """Whether a key is to be captured now."""
        return self._uses[key] > self._eager_uses and key not in self._dropped and not self.cache.leased

    @contextmanager
    def warming(self) -> Iterator[None]:
        """Within it a key is captured at its first use."""
        self._eager_uses = 0
        try:
            yield
        finally:
            self._eager_uses = EAGER_USES

    def stats(self) -> dict[str, Any]:
        """Graphs with their lanes, steps, bytes and replays; counts of hits, captures, drops, evictions; seconds."""
        graphs = [
            {
                "lanes": key.signature.lanes,
                "samples": key.signature.samples,
                "shape": list(key.signature.shape),
                "unroll": key.unroll,
                "bytes": entry.bytes,
                "replays": entry.replays,
            }
            for key, entry in self.cache.items()
        ]
        return {
            "runner": "graph",
            "graphs": graphs,
            "bytes": self.cache.bytes,
            "budget_bytes": self.cache.budget_bytes,
            "captures": self._counts["captures"],
            "capture_seconds": self._capture_seconds,
            "hits": self._counts["hits"],
            "eager_runs": self._counts["eager runs"],
            "dropped": len(self._dropped),
            "evictions": self.cache.evictions,
        }

    @staticmethod
    @lru_cache(64)
    def key(signature: Signature, steps: int, stepwise: bool) -> GraphKey:
        """Which graph serves a run. Each can draw noise: a row that adds none masks it, at no cost in launches."""
        by_step = stepwise or steps > MAX_UNROLL
        decodes = signature.output is not None and not signature.output.each and not by_step
        return GraphKey(replace(signature, stochastic=True), 1 if by_step else steps, decodes)

    def _capture(self, denoiser: Denoiser, decoder: Decoder, key: GraphKey) -> Entry | None:
        """Capture with every slot idle, so that warming up works on nobody's sample."""
        buffers = StaticBuffers.allocate(key.signature)
        buffers.clear()

        @torch.no_grad()
        def work() -> None:
            sample_loop(denoiser, buffers, key.unroll)
            if key.decodes:
                decode(decoder, buffers)

        @torch.no_grad()
        def decoding() -> None:
            decode(decoder, buffers)

        started = time.perf_counter()
        graph = self._capturer.capture(work)
        self._counts["captures"] += 1
        faster = self._capturer.seconds(graph.replay) < KEEP_BELOW * self._capturer.seconds(work)
        entry = Entry(buffers, graph, graph.bytes)
        if faster and key.signature.output is not None and not key.decodes:
            entry.decode = self._capturer.capture(decoding)
            entry.bytes += entry.decode.bytes
        self._capture_seconds += time.perf_counter() - started
        if not faster:
            entry.release()
        if not faster or not self.cache.put(key, entry):
            self._dropped.add(key)
            return None
        return entry
