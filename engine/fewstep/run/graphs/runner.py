"""The graph runner: the loop captured once per key, replayed per request.

    unroll = N <= 8   the whole run is one graph, with the decode and the pixels where asked for: lowest latency
    unroll = 1        one step is a graph, replayed N times: any N, and the caller may act between the steps; what
                      makes images of the last x is a second one

A key is served eagerly twice and captured before its third run; while `warming`, before its first.
A graph is kept only if replaying it is faster than calling the loop, measured right after the capture.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
    """A run by replay. `buffers` belong to the graph: whatever is to outlive the run is copied out of them."""

    entry: Entry
    unroll: int
    count: int

    @property
    def buffers(self) -> StaticBuffers:
        """The graph's own."""
        return self.entry.buffers

    def steps(self) -> Iterator[int]:
        """Yield after each step; an unrolled run takes them all before the first is yielded."""
        for i in range(self.count):
            if i % self.unroll == 0:
                self.entry.graph.replay()
                self.entry.replays += 1
            yield i

    def decode(self) -> None:
        """Replay the graph that decodes; an unrolled run has done so."""
        if self.entry.decode is not None:
            self.entry.decode.replay()


class GraphRunner:
    """Replays captured graphs, and runs eagerly what is not captured yet or not worth it.

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

    def prepare(self, denoiser: Denoiser, decoder: Decoder, signature: Signature, steps: int, watched: bool) -> Run:
        """A run by replay where the key is captured, or has now been used often enough to be; else an eager one."""
        key = self.key(signature, steps, watched)
        entry = self.cache.get(key)
        self._uses[key] += 1
        if entry is None and self._uses[key] > self._eager_uses and key not in self._dropped:
            entry = self._capture(denoiser, decoder, key)
        if entry is None:
            self._counts["eager runs"] += 1
            return self._eager.prepare(denoiser, decoder, signature, steps, watched)
        self._counts["hits"] += 1
        entry.buffers.clear()
        return GraphRun(entry, key.unroll, steps)

    @contextmanager
    def warming(self) -> Iterator[None]:
        """Within it a key is captured at its first use."""
        self._eager_uses = 0
        try:
            yield
        finally:
            self._eager_uses = EAGER_USES

    def stats(self) -> dict[str, Any]:
        """Graphs with their lanes, steps, bytes and replays; and counts of hits, captures, drops and evictions."""
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
            "hits": self._counts["hits"],
            "eager_runs": self._counts["eager runs"],
            "dropped": len(self._dropped),
            "evictions": self.cache.evictions,
        }

    @staticmethod
    def key(signature: Signature, steps: int, watched: bool) -> GraphKey:
        """Which graph serves a run. Each can draw noise: a row that adds none masks it, at no cost in launches."""
        by_step = watched or steps > MAX_UNROLL
        decodes = signature.output is not None and not by_step
        return GraphKey(replace(signature, stochastic=True), 1 if by_step else steps, decodes)

    def _capture(self, denoiser: Denoiser, decoder: Decoder, key: GraphKey) -> Entry | None:
        """Capture with every slot idle, so that warming up works on nobody's sample."""
        buffers = StaticBuffers.allocate(key.signature)
        buffers.clear()

        @torch.no_grad()
        def work() -> None:
            for _ in sample_loop(denoiser, buffers, key.unroll):
                pass
            if key.decodes:
                decode(decoder, buffers)

        @torch.no_grad()
        def decoding() -> None:
            decode(decoder, buffers)

        graph = self._capturer.capture(work)
        self._counts["captures"] += 1
        faster = self._capturer.seconds(graph.replay) < KEEP_BELOW * self._capturer.seconds(work)
        entry = Entry(buffers, graph, graph.bytes)
        if faster and key.signature.output is not None and not key.decodes:
            entry.decode = self._capturer.capture(decoding)
            entry.bytes += entry.decode.bytes
        if not faster:
            entry.release()
        if not faster or not self.cache.put(key, entry):
            self._dropped.add(key)
            return None
        return entry
