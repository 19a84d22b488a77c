"""The captured graphs: least recently used first out, within a budget of bytes."""

from collections import OrderedDict
from dataclasses import dataclass

from fewstep.buffers import Signature, StaticBuffers
from fewstep.graphs.capture import Graph


@dataclass(frozen=True)
class GraphKey:
    """What a graph is captured for: the signature of its buffers, and how many steps one replay takes."""

    signature: Signature
    unroll: int


@dataclass
class Entry:
    """A graph and the buffers it reads and writes."""

    buffers: StaticBuffers
    graph: Graph
    bytes: int
    replays: int = 0


class GraphCache:
    """Graphs by key. A graph larger than the whole budget is not kept."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.evictions = 0
        self._entries: OrderedDict[GraphKey, Entry] = OrderedDict()

    def get(self, key: GraphKey) -> Entry | None:
        """The entry of a key, now the most recently used; None where there is none."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def put(self, key: GraphKey, entry: Entry) -> bool:
        """Keep an entry, evicting the least recently used until it fits. False: it can never fit, and is released."""
        if entry.bytes > self.budget_bytes:
            entry.graph.release()
            return False
        while self.bytes + entry.bytes > self.budget_bytes:
            _, oldest = self._entries.popitem(last=False)
            oldest.graph.release()
            self.evictions += 1
        self._entries[key] = entry
        return True

    @property
    def bytes(self) -> int:
        """Of all graphs kept."""
        return sum(entry.bytes for entry in self._entries.values())

    def items(self) -> list[tuple[GraphKey, Entry]]:
        """Least recently used first."""
        return list(self._entries.items())
