"""A line for each request: who is told what happened, and never what it was about."""

import json
import logging
import time
import traceback
from datetime import UTC, datetime
from typing import Any, Final

from starlette.requests import HTTPConnection, Request

from fewstep.serve.http.front import Facts, facts_of_request
from fewstep.serve.http.guard import App, Message, Receive, Scope, Send
from fewstep.serve.http.metrics import Metrics
from fewstep.serve.http.wire.errors import defect
from fewstep.serve.http.wire.request_id import HEADER, request_id

LOGGER: Final = logging.getLogger("fewstep.serve")
QUIET: Final = ("/health", "/ready", "/metrics", "/live")  # asked every few seconds by machines
HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
PAGE_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    b"font-src 'self'; manifest-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)


class Told:
    """Gives each request an id, counts it, writes its line, and answers what no route expected.

    The line has no prompt and no query. The text of an unexpected error, which may quote either, is told at debug
    level.

    Args:
        app: what follows.
        metrics: what is counted.
    """

    def __init__(self, app: App, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on, and tell."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = request_id(HTTPConnection(scope))
        facts: Facts = {}
        facts_of_request.set(facts)
        status, started = [0], time.perf_counter()

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
                message = {**message, "headers": [*message["headers"], *_headers(message, name)]}
            await send(message)

        with self._metrics.in_progress():
            try:
                await self._app(scope, receive, told)
            except Exception as error:
                unexpected(error, name)
                if status[0]:
                    raise BrokenResponseError from None  # half of it is out: the connection is closed
                await defect(Request(scope)).response()(scope, receive, told)
            finally:
                seconds, route = time.perf_counter() - started, _route(scope)
                self._metrics.answered(route, status[0], seconds)
                level = logging.DEBUG if route in QUIET and status[0] < 400 else logging.INFO
                line = {"method": scope["method"], "path": scope["path"], "status": status[0] or "client gone"}
                said = line | {"ms": round(1000 * seconds, 1), "request_id": name, **facts}
                LOGGER.log(level, "request", extra={"facts": said})


class BrokenResponseError(Exception):
    """A response that cannot be ended any more; what went wrong has been told."""


class JsonLines(logging.Formatter):
    """Each record as one line of JSON: time, level, logger, event, and its facts."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        said: dict[str, Any] = {"time": at, "level": record.levelname.lower(), "event": record.getMessage()}
        said |= getattr(record, "facts", {})
        if record.exc_info and record.exc_info[0] is not None:
            said["error"] = record.exc_info[0].__name__
            if record.levelno <= logging.DEBUG:
                said["traceback"] = self.formatException(record.exc_info)
        return json.dumps(said, default=str)


def _headers(message: Message, name: str) -> list[tuple[bytes, bytes]]:
    there = {key.lower(): value for key, value in message["headers"]}
    wanted = [(HEADER.encode(), name.encode()), *HEADERS]
    if there.get(b"content-type", b"").startswith(b"text/html"):
        wanted.append((b"content-security-policy", PAGE_POLICY))
    return [(key, value) for key, value in wanted if key not in there]


def _route(scope: Scope) -> str:
    """The route's own path, so that the metrics have as many lines as there are routes."""
    return str(getattr(scope.get("route"), "path", "none"))


def unexpected(error: Exception, name: str) -> None:
    """Where it came from and of what kind; what it says only at debug level."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{frame.filename.rpartition('/')[2]}:{frame.lineno} in {frame.name}"
    facts = {"error": type(error).__name__, "where": where, "request_id": name}
    LOGGER.error("unexpected error", extra={"facts": facts})
    LOGGER.debug("unexpected error", exc_info=error, extra={"facts": facts})
