"""A server for tests of the load generator: it has no model, and does what it is told."""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from PIL import Image

METRICS = """fewstep_batch_rows{model="a"} 3.0
fewstep_batch_rows{model="b"} 1.0
fewstep_queue_depth 5.0
"""


@dataclass
class Manners:
    """How it answers.

    Attributes:
        seconds: that each picture takes.
        one_at_a_time: pictures wait for each other.
        refuse: every n-th request is refused with 429.
        break_every: every n-th picture is no picture.
        size: of the pictures; what it says of itself is 28x28.
        forgetful: one seed gives another picture each time.
        redirect: where it sends every request to, if anywhere.
        bodies: what was asked for, in the order of arrival.
    """

    seconds: float = 0.0
    one_at_a_time: bool = False
    refuse: int = 0
    break_every: int = 0
    size: tuple[int, int] = (28, 28)
    forgetful: bool = False
    redirect: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)

    def picture(self, seed: int) -> str:
        """Base64 of a PNG."""
        number = len(self.bodies)
        if self.break_every and number % self.break_every == 0:
            return base64.b64encode(b"no picture").decode()
        file = io.BytesIO()
        Image.new("L", self.size, (seed + 40 * number * self.forgetful) % 256).save(file, "PNG")
        return base64.b64encode(file.getvalue()).decode()


def polite(manners: Manners) -> FastAPI:
    """The application."""
    app, turn = FastAPI(), asyncio.Lock()

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "stub"}, {"id": "other"}]}

    @app.get("/capabilities")
    async def capabilities() -> dict[str, Any]:
        about = {"id": "stub", "classes": 10, "image_shape": [1, 28, 28], "conditions": "classes"}
        return {"models": [about], "limits": {"slots": 8}}

    @app.get("/metrics")
    async def metrics() -> Response:
        steps = len(manners.bodies)
        counted = f"fewstep_steps_total {steps}\nfewstep_step_rows_total {4 * steps}\n"
        return Response(METRICS + counted, media_type="text/plain")

    @app.post("/v1/images/generations")
    async def generations(request: Request) -> Response:
        body = await request.json()
        manners.bodies.append(body)
        manners.keys.append(request.headers.get("authorization"))
        if manners.redirect:
            return Response(status_code=307, headers={"Location": manners.redirect})
        if manners.refuse and len(manners.bodies) % manners.refuse == 0:
            said = {"error": {"message": "full", "type": "rate_limit_error", "param": None, "code": None}}
            return JSONResponse(said, 429, headers={"Retry-After": "1"})
        if manners.one_at_a_time:
            async with turn:
                await asyncio.sleep(manners.seconds)
        else:
            await asyncio.sleep(manners.seconds)
        picture = {"b64_json": manners.picture(body["seed"]), "fewstep": _about(body)}
        if body.get("stream"):
            return StreamingResponse(_stream(picture, body["partial_images"]), media_type="text/event-stream")
        return JSONResponse({"created": 0, "data": [picture]})

    return app


def _about(body: dict[str, Any]) -> dict[str, Any]:
    return {"steps": body.get("num_inference_steps", 4), "queue_ms": 1.5, "run_ms": 2.5}


async def _stream(picture: dict[str, Any], previews: int) -> AsyncIterator[str]:
    yield ": a comment\n\n"
    for index in range(previews):
        yield _event({"type": "image_generation.partial_image", "partial_image_index": index, **picture})
    yield _event({"type": "image_generation.completed", **picture})
    yield "data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> str:
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n"
