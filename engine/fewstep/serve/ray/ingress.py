"""The ingress: takes a request in, looks for the replica where it is warm, and passes on what that answers."""

import asyncio
import logging
import math
from collections.abc import Mapping
from typing import Any, Final

from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from fewstep.serve.http.guard import KeyGuard
from fewstep.serve.http.wire import sse
from fewstep.serve.http.wire.errors import ProblemError
from fewstep.serve.limits import Limits
from fewstep.serve.ray.asgi import sendable
from fewstep.serve.ray.everywhere import Whole, is_for_all, together
from fewstep.serve.ray.routing import Route, key_of

BETWEEN: Final = 0.2  # seconds before the next try of a request, times the number of tries
PATIENCE: Final = 10.0  # seconds for all replicas to answer
STATELESS: Final = "/health"
OWN: Final = (b"content-length", b"x-request-id")  # headers that are not a replica's to say

_log = logging.getLogger("fewstep.serve")


class LostError(Exception):
    """A replica that will not answer: another may."""


class Ingress:
    """An actor without models, which Ray's proxies hand their requests to.

    Args:
        engine: the handle of the replicas.
        limits: what a request may be.
        retries: how often a request goes to another replica when its own died before it had answered.
        retry_after_s: what a refusal says.
        api_key: that a request has to bear before a replica hears of it; None for no key.
    """

    def __init__(
        self, engine: Any, limits: Limits, retries: int, retry_after_s: float, api_key: str | None = None
    ) -> None:
        self._app = KeyGuard(Forwarding(engine, limits, retries, retry_after_s), api_key)

    def __serve_build_asgi_app__(self) -> KeyGuard:
        """What Ray asks for once the ingress is constructed."""
        return self._app


class Forwarding:
    """The ASGI application of an `Ingress`, behind the key."""

    def __init__(self, engine: Any, limits: Limits, retries: int, retry_after_s: float) -> None:
        self._engine, self._limits, self._retries, self._retry_after = engine, limits, retries, retry_after_s
        self._routes: Mapping[str, Route] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        try:
            if path == STATELESS:
                await JSONResponse({"status": "ok"})(scope, receive, send)
                return
            body = await self._body(scope, receive)
            if is_for_all(path):
                await (await self._everywhere(path, scope, body))(scope, receive, send)
                return
            await self._somewhere(path, scope, body, send)
        except ProblemError as problem:
            await problem.response()(scope, receive, send)

    async def _somewhere(self, path: str, scope: Scope, body: bytes, send: Send) -> None:
        """Ask one replica, and where that dies before it has answered the next.

        Raises:
            ProblemError: none has answered.
        """
        key, again = await self._key(path, scope, body), {"Retry-After": str(math.ceil(self._retry_after))}
        for attempt in range(self._retries + 1):
            last = attempt == self._retries
            try:
                # Another key, since the one that it had led to the replica that is lost.
                await self._once(sendable(scope), body, f"{key}#{attempt}" if attempt else key, send, last)
                return
            except BackPressureError:
                message = "as many requests wait as may; try again later"
                raise ProblemError(429, message, code="full", headers=again) from None
            except LostError as error:
                if last:
                    raise ProblemError(503, str(error), code="replica_lost", headers=again) from error
            except (RayError, RayServeException) as error:
                _log.exception("a replica failed")
                raise ProblemError(500, "the replica failed; its log says more", code="replica_failed") from error
            await asyncio.sleep(BETWEEN * (attempt + 1))

    async def _everywhere(self, path: str, scope: Scope, body: bytes) -> Response:
        """Ask all replicas, and make one answer of theirs."""
        asked = self._engine.broadcast("whole", sendable(scope), body)
        try:
            said = await asked.results_async(timeout_s=PATIENCE, return_exceptions=True)
        except TimeoutError:
            said = []
        answers = [answer for answer in said if isinstance(answer, Whole)]
        if not answers:
            raise ProblemError(503, "no replica is there to answer", code="starting")
        answer = together(path, answers)
        response = Response(answer.body, answer.status)
        response.raw_headers = [
            *response.raw_headers,
            *((name, value) for name, value in answer.headers if name not in OWN),
        ]
        return response

    async def _once(self, scope: Mapping[str, Any], body: bytes, key: str, send: Send, last: bool) -> None:
        """One try, the last of which passes on that a replica goes down.

        Raises:
            LostError: there is no answer, and nothing of one has been sent.
        """
        messages = self._engine.options(stream=True, session_id=key, method_name="answer").remote(scope, body)
        begun: Message | None = None
        ended = False
        try:
            async for message in messages:
                if begun is None and not last and message["status"] == 503:
                    raise LostError("the replica goes down")
                begun = begun or message
                await send(_ours(message))
            ended = True
        except (RayError, RayServeException) as error:
            ended = True
            if begun is None and isinstance(error, RayActorError | DeploymentUnavailableError):
                raise LostError("the replica died before it answered, and so did those tried after it") from error
            if begun is None:
                raise
            if not _is_stream(begun):
                raise ConnectionError("the replica died in the middle of its answer") from error
            problem = ProblemError(503, "the replica died while it drew; ask again", code="replica_lost")
            await send({"type": "http.response.body", "body": sse.event("error", problem.envelope)})
        finally:
            if not ended:  # the client has gone, or the answer is of no use
                messages.cancel()

    async def _key(self, path: str, scope: Scope, body: bytes) -> str:
        if not body:
            return ""  # nothing to be warm for: Ray spreads such requests
        if self._routes is None:
            try:
                self._routes = await self._engine.options(method_name="routes").remote()
            except (RayError, RayServeException):
                return ""
        kind = next((value for name, value in scope["headers"] if name.lower() == b"content-type"), b"")
        return key_of(path, kind.decode("latin-1"), body, self._routes or {})

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The body of a request.

        Raises:
            ProblemError: it is too long; no more of it is read than may be.
        """
        most = self._limits.body_bytes
        long = ProblemError(413, f"the body has more than {most} bytes", code="body_too_large")
        said = next((value for name, value in scope["headers"] if name.lower() == b"content-length"), b"0")
        if said.isdigit() and int(said) > most:
            raise long
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise asyncio.CancelledError
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > most:
                raise long
            more = message.get("more_body", False)
        return b"".join(parts)


def _ours(message: Message) -> Message:
    """Without the request's id, which Ray's proxy adds to every answer."""
    if message["type"] != "http.response.start":
        return message
    kept = [(name, value) for name, value in message["headers"] if name.lower() != b"x-request-id"]
    return dict(message) | {"headers": kept}


def _is_stream(start: Message) -> bool:
    return any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in start["headers"])


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
