"""An application answers a request that came from another process: a scope that can be sent, and messages back."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

from starlette.types import ASGIApp, Message, Scope

SENT = ("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path", "headers")
ADDRESSES = ("client", "server")
PATIENCE: Final = 5.0  # seconds for an application to end whose client has gone


def sendable(scope: Scope) -> dict[str, Any]:
    """What of a scope can be sent to another process: text, bytes and numbers."""
    sent = {name: scope[name] for name in SENT if name in scope}
    sent["headers"] = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
    return sent | {name: tuple(scope[name]) for name in ADDRESSES if scope.get(name)}


async def answered(app: ASGIApp, scope: Mapping[str, Any], body: bytes) -> AsyncGenerator[Message]:
    """The messages with which the application answers.

    Leaving it early tells the application that its client is gone.

    Raises:
        Exception: what the application raised before its answer was complete.
    """
    messages: asyncio.Queue[Message | Exception | None] = asyncio.Queue()
    gone = asyncio.Event()
    asked = False

    async def receive() -> Message:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def run() -> None:
        try:
            await app(dict(scope), receive, messages.put)
        except Exception as error:
            messages.put_nowait(error)
        else:
            messages.put_nowait(None)

    task = asyncio.create_task(run())
    try:
        while (message := await messages.get()) is not None:
            if isinstance(message, Exception):
                raise message
            yield message
            if is_last(message):
                await asyncio.wait([task])  # what it does after its answer; its error has been told by the answer
                return
    finally:
        gone.set()
        if not task.done():
            await asyncio.wait([task], timeout=PATIENCE)  # it leaves by itself once it hears that nobody listens
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def is_last(message: Message) -> bool:
    """Whether it completes an answer."""
    return message["type"] == "http.response.body" and not message.get("more_body", False)
