"""A replica: models, a batcher and the whole application, in an actor of its own that Ray starts and replaces."""

import logging
import os
import threading
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from ray import serve
from starlette.types import Message

from fewstep.serve.batching.batcher import Batcher
from fewstep.serve.http.app import build_app
from fewstep.serve.limits import Limits
from fewstep.serve.ray.arguments import Opening
from fewstep.serve.ray.asgi import answered
from fewstep.serve.ray.everywhere import Whole
from fewstep.serve.ray.routing import Route
from fewstep.serve.server import warm
from fewstep.serve.settings import Settings

LOST: Final = 70  # the exit status of a process that has lost its device
GRACE: Final = 1.0  # seconds in which those who wait are told before it exits

_log = logging.getLogger("fewstep.serve")


class Replica:
    """Opens the models and draws an image with each; once it is constructed Ray sends it requests.

    Args:
        opening: the models.
        limits: of this replica.
        api_key: of requests; None for no key.
    """

    def __init__(self, opening: Opening, limits: Limits, api_key: str | None = None) -> None:
        self._limits, self._dead = limits, ""
        self._batcher = Batcher(opening.families(), limits, died=self._lost)
        self._batcher.start()
        warm(self._batcher)
        # Nobody administers one replica of many: what is done to it would be undone when it is replaced.
        self._app = build_app(self._batcher, Settings(limits=limits, api_key=api_key, admin=False))

    async def answer(self, scope: Mapping[str, Any], body: bytes) -> AsyncIterator[Message]:
        """The application's answer to one request, message by message."""
        async for message in answered(self._app, scope, body):
            yield message

    async def whole(self, scope: Mapping[str, Any], body: bytes) -> Whole:
        """The answer at once, for a request that all replicas hear."""
        messages = [message async for message in answered(self._app, scope, body)]
        parts = [message.get("body", b"") for message in messages[1:]]
        name = serve.get_replica_context().replica_id.unique_id
        return Whole(name, messages[0]["status"], tuple(map(tuple, messages[0]["headers"])), b"".join(parts))

    async def routes(self) -> dict[str, Route]:
        """What an ingress has to know to route: for each served name."""
        return {name: Route.of(family, self._limits.steps) for name, family in self._batcher.families.items()}

    async def check_health(self) -> None:
        """Called by Ray, which replaces a replica that raises.

        Raises:
            RuntimeError: its device is lost, or nobody steps any more.
        """
        if self._dead or not self._batcher.ready:
            raise RuntimeError(self._dead or "the batcher has stopped")

    def __del__(self) -> None:
        """Called by Ray once the requests that it held have ended, and nothing more comes."""
        if hasattr(self, "_batcher"):
            self._batcher.drain(self._limits.drain_seconds)
            self._batcher.close()

    def _lost(self, error: BaseException) -> None:
        """Leave the process: what a lost device has left in it is of no use, and a new one starts at once."""
        self._dead = f"the device is lost: {error}"
        _log.critical("%s; the replica exits and is replaced", self._dead)
        leave = threading.Timer(GRACE, os._exit, [LOST])
        leave.daemon = True
        leave.start()
