"""POST /v1/images/generations."""

import base64
import io
import time
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from PIL import Image
from pydantic import BaseModel, ConfigDict

from fewstep.serve.asks import Ask
from fewstep.serve.events import Failed, Finished
from fewstep.serve.http.waiting import Waiting

router = APIRouter()


class Generation(BaseModel):
    """What is asked for."""

    model_config = ConfigDict(extra="forbid")
    model: str
    n: int = 1
    labels: list[int] | None = None
    num_inference_steps: int | None = None
    seed: int = 0


@router.post("/v1/images/generations")
async def generate(body: Generation, request: Request) -> dict[str, Any]:
    """Pictures."""
    words = [{} if body.labels is None else {"labels": [body.labels[i % len(body.labels)]]} for i in range(body.n)]
    asks = [Ask(body.model, body.seed + i, words[i], body.num_inference_steps) for i in range(body.n)]
    pictures: list[Any] = [None] * body.n
    with Waiting(request.app.state.batcher, asks) as waiting:
        async for place, event in waiting.events():
            if isinstance(event, Failed):
                raise HTTPException(400 if event.reason == "invalid" else 500, event.message)
            if isinstance(event, Finished):
                file = io.BytesIO()
                Image.fromarray(event.image.squeeze(2) if event.image.shape[2] == 1 else event.image).save(file, "PNG")
                pictures[place] = {"b64_json": base64.b64encode(file.getvalue()).decode()}
    return {"created": int(time.time()), "data": pictures}
