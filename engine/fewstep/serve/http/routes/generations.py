"""POST /v1/images/generations."""

from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from fewstep.serve.http.drawing import drawn, streamed
from fewstep.serve.http.wire.answers import ImagesAnswer
from fewstep.serve.http.wire.asks import order
from fewstep.serve.http.wire.errors import PROBLEMS
from fewstep.serve.http.wire.fields import Generation, body_of, read
from fewstep.serve.http.wire.strict_json import read_object

router = APIRouter()

PICTURES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "model": ImagesAnswer,
        "description": "The pictures; or with `stream` events, the last of an image being its `completed`.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    **PROBLEMS,
}


@router.post("/v1/images/generations", responses=PICTURES, openapi_extra={"requestBody": body_of(Generation)})
async def generate(request: Request) -> Response:
    """Draw pictures."""
    body = read(Generation, await read_object(request))
    state = request.app.state
    wanted = order(state.batcher, state.settings.limits, body)
    return await (streamed(request, wanted, "image_generation") if body.stream else drawn(request, wanted))
