"""Pictures of an order: all in one answer, or in events as they come."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any, Final, Literal

from fastapi import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from fewstep.errors import ArgumentError
from fewstep.serve.asks import Ask
from fewstep.serve.events import Event, Failed, Finished, Progress
from fewstep.serve.http.jobs import Jobs
from fewstep.serve.http.logs import unexpected
from fewstep.serve.http.waiting import GoneError, Waiting
from fewstep.serve.http.wire import sse
from fewstep.serve.http.wire.answers import NO_TOKENS, Story, now
from fewstep.serve.http.wire.asks import Order
from fewstep.serve.http.wire.errors import defect, problem_of, problem_of_failed
from fewstep.serve.http.wire.fields import IGNORED
from fewstep.serve.http.wire.pictures import Desk
from fewstep.serve.http.wire.request_id import request_id

Kind = Literal["image_generation", "image_edit"]
FACTS: Final = "x-fewstep"  # what JSON has as `fewstep`, beside a file
PROMPT: Final = 1.0  # seconds that a stream waits for its first news, to answer what is invalid with a status


async def finished(request: Request, asks: list[Ask]) -> list[Story]:
    """Draw asks to their end.

    Raises:
        ProblemError: what became of the first that failed; the others are cancelled.
        GoneError: the client has gone, and all are cancelled.
    """
    stories = [Story(index, ask) for index, ask in enumerate(asks)]
    waiting = Waiting(request.app.state.batcher, asks)
    jobs: Jobs = request.app.state.jobs
    with jobs.held(request_id(request), waiting):
        gone = asyncio.create_task(_hung_up(request))
        told = asyncio.create_task(_listen(waiting, stories))
        try:
            await asyncio.wait({gone, told}, return_when=asyncio.FIRST_COMPLETED)
            if not told.done():
                raise GoneError
            await told
        finally:
            gone.cancel()
            told.cancel()
    return stories


async def drawn(request: Request, order: Order) -> Response:
    """All pictures in one answer, or the file of the only one where that is what `Accept` asks for."""
    as_file = wants_file(request.headers.get("accept", ""))
    if as_file and len(order.asks) != 1:
        raise ArgumentError("n", len(order.asks), "1 where the header Accept asks for an image: it is the whole answer")
    stories = await finished(request, order.asks)
    data = [await _image(request.app.state.desk, order, story) for story in stories]
    if as_file:
        about = {**headers(order), FACTS: json.dumps(data[0]["fewstep"])}
        return Response(base64.b64decode(data[0]["b64_json"]), 200, about, f"image/{order.encoding.format}")
    answer = {
        "created": now(),
        "data": data,
        "output_format": order.encoding.format,
        "size": order.size,
        "background": "opaque",
        "usage": NO_TOKENS,
    }
    return JSONResponse(answer, headers=headers(order))


def wants_file(accept: str) -> bool:
    """Whether an `Accept` names images and neither JSON nor everything: then the answer is the file itself."""
    kinds = [kind.partition(";")[0].strip().lower() for kind in accept.split(",")]
    return any(kind.startswith("image/") for kind in kinds) and not {"application/json", "*/*"} & {*kinds}


async def streamed(request: Request, order: Order, kind: Kind) -> Response:
    """Pictures as they come, with previews on the way; what is invalid is answered as without a stream."""
    waiting = Waiting(request.app.state.batcher, order.asks)
    try:
        first = await waiting.news(PROMPT)
        for _, event in first:
            if isinstance(event, Failed) and event.reason == "invalid":
                raise problem_of_failed(event)
    except BaseException:
        waiting.cancel()
        raise
    events = _events(request, waiting, first, order, kind)
    return _Stream(request.app.state.jobs, request_id(request), waiting, events, headers(order))


def headers(order: Order) -> dict[str, str]:
    """Beside the pictures."""
    return {IGNORED: ", ".join(order.ignored)} if order.ignored else {}


class _Stream(StreamingResponse):
    """Events, for as long as somebody reads them: who stops, cancels."""

    def __init__(
        self, jobs: Jobs, name: str, waiting: Waiting, events: AsyncIterator[bytes], headers: dict[str, str]
    ) -> None:
        super().__init__(
            events,
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **headers},
            media_type="text/event-stream",
        )
        self._jobs, self._name, self._waiting = jobs, name, waiting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._jobs.held(self._name, self._waiting):
            await super().__call__(scope, receive, send)


async def _events(
    request: Request, waiting: Waiting, first: list[tuple[int, Event]], order: Order, kind: Kind
) -> AsyncIterator[bytes]:
    stories = [Story(index, ask) for index, ask in enumerate(order.asks)]
    sent = [0] * len(stories)  # previews of each image
    about = {"output_format": order.encoding.format, "size": order.size, "background": "opaque", "quality": "auto"}
    desk: Desk = request.app.state.desk
    news = first
    try:
        while True:
            for place, event in news:
                story = stories[place]
                story.heard(event)
                if isinstance(event, Failed):
                    raise problem_of_failed(event)
                if isinstance(event, Progress) and event.preview is not None and sent[place] < story.ask.previews:
                    picture = await desk(order.encoding, event.preview)
                    said = {"index": place, "step": event.step, "steps": event.steps}
                    partial = {"b64_json": picture, "partial_image_index": sent[place], "fewstep": said}
                    sent[place] += 1
                    yield _event(f"{kind}.partial_image", about | partial)
                if isinstance(event, Finished):
                    yield _event(f"{kind}.completed", about | await _image(desk, order, story) | {"usage": NO_TOKENS})
            if waiting.over:
                return
            news = await waiting.news(request.app.state.heartbeat)
            if not news:
                yield sse.HEARTBEAT
    except Exception as error:
        # The status is sent already, so what went wrong is the last event. A defect goes to the log too.
        problem = problem_of(error)
        if problem is None:
            problem = defect(request)
            unexpected(error, request_id(request))
        yield sse.event("error", problem.envelope)


def _event(name: str, data: dict[str, Any]) -> bytes:
    return sse.event(name, {"type": name, "created_at": now()} | data)


async def _image(desk: Desk, order: Order, story: Story) -> dict[str, Any]:
    done = story.finished
    assert done is not None
    return {"b64_json": await desk(order.encoding, done.image), "fewstep": story.facts(done)}


async def _listen(waiting: Waiting, stories: list[Story]) -> None:
    async for place, event in waiting.events():
        stories[place].heard(event)
        if isinstance(event, Failed):
            raise problem_of_failed(event)


async def _hung_up(request: Request) -> None:
    """Returns when the client has gone; its body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
