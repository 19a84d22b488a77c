"""GET /health and /ready, for whoever starts the server again, and for whoever sends requests to it."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

router = APIRouter()


@router.get("/health", tags=["operations"])
async def health(request: Request) -> JSONResponse:
    """Whether the process is alive: 503 once its device is lost, and it has to be started again."""
    phase = request.app.state.batcher.phase
    return JSONResponse({"status": "dead" if phase == "dead" else "alive"}, 503 if phase == "dead" else 200)


@router.get("/ready", tags=["operations"])
async def ready(request: Request) -> JSONResponse:
    """Whether requests are let in: 503 while models are opened, while it goes down, and when the device is lost."""
    phase = request.app.state.batcher.phase
    return JSONResponse(_said(phase), 200 if phase == "ready" else 503)


def _said(phase: str) -> dict[str, Any]:
    return {"status": phase}
