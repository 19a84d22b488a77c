"""The part of an engine that is made ready ahead, and tells what it holds and has done."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from fewstep.request import manifest
from fewstep.request.seen import Seen
from fewstep.run.backends import Network
from fewstep.run.runners import Runner
from fewstep.run.weights_lock import WeightsLock
from fewstep.warming import key_of, warm

if TYPE_CHECKING:
    from fewstep.engine import Engine


class Warmed:
    """What an engine has served, said in words that it can be warmed up by."""

    _lock: WeightsLock
    _runner: Runner
    _network: Network
    _seen: Seen

    def warm_up(self, requests: str | os.PathLike[str] | Sequence[Mapping[str, Any]]) -> None:
        """Sample once per kind of request, so that the first real one finds its graph captured and its memory there.

        Args:
            requests: arguments of `sample`, one mapping per kind: {"n": 4, "steps": 4, "guidance_scale": 3.0}. Labels
                need not be given; True stands for any `callback` or `noise`, and "inpaint": True for a start with a
                mask. {"session": {"slots": 8, ...}} has arguments of `session`. Or a file that `manifest` wrote. Where
                the graphs' budget does not hold them all, the first ones are kept.

        Raises:
            ArgumentError: as `sample` does, naming the entry.
            ModelError: a file that is no manifest, naming the entry and the field.
        """
        with self._lock, self._runner.warming(), self._seen.paused():
            warm(cast("Engine", self), requests)

    def manifest(self, path: str | os.PathLike[str] | None = None) -> list[dict[str, Any]]:
        """The kinds of request served so far, most used first, for `warm_up`; also written to `path` if given, as JSON.

        One entry per graph, such as {"n": 4, "steps": 4, "sampler": "ddim", "guidance_scale": 3.0}. Not listed:
        warm-ups, and what cannot be said so, which is requests with `condition`, with unlike plans, or resumed.

        Raises:
            OutputError: naming the path and the reason.
        """
        with self._lock, self._seen.paused():
            requests = self._seen.requests(partial(key_of, cast("Engine", self)))
        if path is not None:
            manifest.write(path, requests)
        return requests

    def stats(self) -> dict[str, Any]:
        """What the runner holds and has done: graphs, bytes, hits, captures, replays; and what executes the network."""
        return {**self._runner.stats(), "backend": self._network.stats()}
