"""Which requests run, by their ids, so that another request may cancel them."""

from collections.abc import Iterator
from contextlib import contextmanager

from fewstep.serve.http.waiting import Waiting


class Jobs:
    """What is awaited under each id. Two requests may have the same, since their clients choose it."""

    def __init__(self) -> None:
        self._held: dict[str, list[Waiting]] = {}

    @contextmanager
    def held(self, name: str, waiting: Waiting) -> Iterator[Waiting]:
        """Under this name for as long as somebody waits; leaving cancels what has not ended."""
        self._held.setdefault(name, []).append(waiting)
        try:
            with waiting:
                yield waiting
        finally:
            self._held[name].remove(waiting)
            if not self._held[name]:
                del self._held[name]

    def cancel(self, name: str) -> int | None:
        """Cancel what runs under a name; how many images that were, or None where nothing does."""
        if name not in self._held:
            return None
        for waiting in self._held[name]:
            waiting.cancel()
        return sum(len(waiting.tickets) for waiting in self._held[name])
