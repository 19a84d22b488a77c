"""The captured graphs: least recently used first out, within a budget of bytes."""

from collections import OrderedDict
from dataclasses import dataclass

from fewstep.run.buffers import Signature, StaticBuffers
from fewstep.run.graphs.capture import Graph


@dataclass(frozen=True)
class GraphKey:
    """What a graph is captured for.

    Attributes:
        signature: of its buffers.
        unroll: how many steps one replay takes.
        decodes: whether the replay ends in the images too; else, where there are any to make, a second graph does.
    """

    signature: Signature
    unroll: int
    decodes: bool = False


@dataclass
class Entry:
    """A graph, the buffers it reads and writes, and the graph of what follows the last step, if that is another."""

    buffers: StaticBuffers
    graph: Graph
    bytes: int
    replays: int = 0
    decode: Graph | None = None
    leased: bool = False  # to a run, which may replay it at any time

    def release(self) -> None:
        """Give the memory of its graphs back."""
        self.graph.release()
        if self.decode is not None:
            self.decode.release()


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
        """Keep an entry, evicting the least recently used until it fits. False: it cannot fit, and is released."""
        held = sum(kept.bytes for kept in self._entries.values() if kept.leased)
        if held + entry.bytes > self.budget_bytes:
            entry.release()
            return False
        while self.bytes + entry.bytes > self.budget_bytes:
            oldest = next(key for key, kept in self._entries.items() if not kept.leased)
            self._entries.pop(oldest).release()
            self.evictions += 1
        self._entries[key] = entry
        return True

    @property
    def leased(self) -> bool:
        """Whether a run holds one of them."""
        return any(entry.leased for entry in self._entries.values())

    @property
    def bytes(self) -> int:
        """Of all graphs kept."""
        return sum(entry.bytes for entry in self._entries.values())

    def items(self) -> list[tuple[GraphKey, Entry]]:
        """Least recently used first."""
        return list(self._entries.items())
