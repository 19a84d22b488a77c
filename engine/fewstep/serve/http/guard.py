"""What a request passes before any route reads it: the key, the size and time of its body, the depth of its JSON."""

import asyncio
import hashlib
import hmac
import json
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final, TypeAlias

from fewstep.serve.http.front import SAID, Front
from fewstep.serve.http.wire.errors import ProblemError
from fewstep.serve.limits import Limits

Message: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

# What needs no key: whether the server is alive, and the page's own files, which say nothing of anybody.
KEYLESS: Final = ("/", "/health", "/ready")
KEYLESS_FOLDERS: Final = ("/page/",)
LINGER_SECONDS: Final = 2.0
_TOKEN: Final = re.compile(rb'"(?:[^"\\]+|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


class KeyGuard:
    """Refuses who does not bear the key, as `Authorization: Bearer` or `x-api-key`.

    Without a key everybody on this machine may ask, but not the page of another site in somebody's browser, which says
    in `Sec-Fetch-Site` that it is one.

    Args:
        app: what follows.
        key: the key; None lets everybody in.
    """

    def __init__(self, app: App, key: str | None) -> None:
        self._app, self._key = app, None if key is None else _digest(key.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 or 403, or hand on."""
        if scope["type"] == "http" and self._key is None and _is_of_another_site(scope):
            message = "another site's page may not ask a server without a key"
            await answer(send, 403, message, "cross_site", {"connection": "close"})
            return
        if scope["type"] != "http" or self._key is None or keyless(scope["path"]) or self._bears(scope):
            await self._app(scope, receive, send)
            return
        message = "an API key is needed: send it as 'Authorization: Bearer KEY' or as 'x-api-key: KEY'"
        await answer(send, 401, message, "invalid_api_key", {"www-authenticate": "Bearer"})

    def _bears(self, scope: Scope) -> bool:
        said = header(scope, b"authorization") or b""
        scheme, _, key = said.partition(b" ")
        offered = [key.strip()] if scheme.lower() == b"bearer" else []
        offered += [other] if (other := header(scope, b"x-api-key")) is not None else []
        assert self._key is not None
        return any([hmac.compare_digest(_digest(each), self._key) for each in offered])  # noqa: C419 # compares them all


def _is_of_another_site(scope: Scope) -> bool:
    return scope["method"] not in ("GET", "HEAD", "OPTIONS") and header(scope, b"sec-fetch-site") == b"cross-site"


class BodyGuard:
    """Refuses a body that is too large, too slow, or JSON that nests too deep; and all work that is not let in.

    Args:
        app: what follows; it finds the body whole.
        limits: how much is too much.
        front: whose phase says whether work is let in.
    """

    def __init__(self, app: App, limits: Limits, front: Front) -> None:
        self._app, self._limits, self._front = app, limits, front
        self._held = 0  # bytes of all bodies; touched by the event loop alone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 400, 408, 413, 429, 431 or 503, or hand on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if sum(len(name) + len(value) for name, value in scope["headers"]) > self._limits.header_bytes:
            message = f"the headers are larger than {self._limits.header_bytes} bytes"
            await answer(send, 431, message, "headers_too_large", {"connection": "close"})
            return
        phase = self._front.phase
        if phase != "ready" and scope["method"] == "POST" and is_work(scope["path"]):
            headers = {"connection": "close"} | ({"retry-after": "2"} if phase == "starting" else {})
            await answer(send, 503, SAID[phase], phase, headers)
            return
        if phase in ("draining", "dead"):
            send = _closing(send)
        limit, claimed = self._limits.body_bytes, header(scope, b"content-length") or b"0"
        if not claimed.isdigit() or len(claimed) > 18 or int(claimed) > limit:
            await self._too_large(scope, receive, send)
            return
        if self._held + int(claimed) > self._limits.bodies_bytes:
            await self._busy(send)
            return
        body = _Body()
        try:
            await self._with_body(scope, receive, send, body)
        finally:
            self._held -= body.size

    async def _with_body(self, scope: Scope, receive: Receive, send: Send, body: "_Body") -> None:
        limits = self._limits
        try:
            async with asyncio.timeout(limits.body_seconds):
                async for piece in _pieces(receive):
                    self._held += len(piece)
                    body.add(piece)
                    if body.size > limits.body_bytes or self._held > limits.bodies_bytes:
                        break
        except TimeoutError:
            message = f"the body did not arrive within {limits.body_seconds:g} s"
            await answer(send, 408, message, "body_timeout", {"connection": "close"})
            return
        except ConnectionError:  # the client has hung up
            return
        if body.size > limits.body_bytes:
            await self._too_large(scope, receive, send)
            return
        if self._held > limits.bodies_bytes:
            await self._busy(send)
            return
        whole = body.whole()
        if b"json" in (header(scope, b"content-type") or b"").lower():
            why = self._too_deep(whole)
            if why is not None:
                await answer(send, 400, why, "json_too_deep")
                return
        await self._app(scope, _replay(whole, receive), send)

    async def _busy(self, send: Send) -> None:
        message = "the server holds as many bytes of requests as it may"
        await answer(send, 429, message, "full", {"connection": "close", "retry-after": "1"})

    async def _too_large(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say so while the client may still be sending, and take a little more of it, so that it gets to read that."""
        message = f"the body is larger than {self._limits.body_bytes} bytes"
        await answer(send, 413, message, "body_too_large", {"connection": "close"}, more=True)
        left = 2 * self._limits.body_bytes
        if header(scope, b"expect") is None:
            try:
                async with asyncio.timeout(LINGER_SECONDS):
                    while left > 0:
                        message_in = await receive()
                        left -= len(message_in.get("body", b""))
                        if not message_in.get("more_body"):
                            break
            except TimeoutError:
                pass
        await send({"type": "http.response.body", "body": b""})

    def _too_deep(self, body: bytes) -> str | None:
        depth = json_depth(body, self._limits.json_tokens)
        if depth <= self._limits.json_depth:
            return None
        if depth == math.inf:
            return f"the JSON has more than {self._limits.json_tokens} strings and brackets"
        return f"the JSON nests deeper than {self._limits.json_depth}"


async def answer(
    send: Send, status: int, message: str, code: str, headers: Mapping[str, str] | None = None, *, more: bool = False
) -> None:
    """Answer in the envelope before any route does; with `more` an empty body has to end it."""
    body = json.dumps(ProblemError(status, message, code=code).envelope).encode()
    told = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    pairs = [(name.encode(), value.encode()) for name, value in told.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body, "more_body": more})


def json_depth(body: bytes, tokens: int) -> float:
    """How deep brackets nest outside strings; infinite where there are more strings and brackets than `tokens`."""
    deepest = depth = 0
    for count, found in enumerate(_TOKEN.finditer(body)):
        if count >= tokens:
            return math.inf
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(found[0][:1], 0)
        deepest = max(deepest, depth)
    return deepest


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of a name, in lower case; None without one."""
    return next((bytes(value) for key, value in scope["headers"] if key.lower() == name), None)


def keyless(path: str) -> bool:
    """Whether a path is answered without a key."""
    return path in KEYLESS or path.startswith(KEYLESS_FOLDERS)


class _Body:
    """What has arrived of one."""

    def __init__(self) -> None:
        self._parts, self.size = list[bytes](), 0

    def add(self, piece: bytes) -> None:
        """Some more."""
        self._parts.append(piece)
        self.size += len(piece)

    def whole(self) -> bytes:
        """All of it."""
        self._parts = [b"".join(self._parts)]
        return self._parts[0]


def is_work(path: str) -> bool:
    """Whether a POST to a path is work to be let in."""
    return path.startswith("/v1/") and not path.endswith("/cancel")


async def _pieces(receive: Receive) -> AsyncIterator[bytes]:
    """The pieces of a body. ConnectionError where the client hangs up before its end."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client has hung up")
        more = bool(message.get("more_body"))
        yield message.get("body", b"")


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body as one message, then what comes after it: that the client has hung up."""
    left = [body]

    async def again() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return again


def _closing(send: Send) -> Send:
    """The connection is not used again."""

    async def closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [(name, value) for name, value in message["headers"] if name.lower() != b"connection"]
            message = {**message, "headers": [*kept, (b"connection", b"close")]}
        await send(message)

    return closing


def _digest(key: bytes) -> bytes:
    """Of one length whatever the key's, so that a comparison tells nothing of it."""
    return hashlib.sha256(key).digest()
