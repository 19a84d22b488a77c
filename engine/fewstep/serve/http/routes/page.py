"""The page at / with its files, and GET /live, which its panel asks."""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

router = APIRouter()

TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY: Final = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ]
)
"""What the page may do: run its own files and talk to the server it came from, and nothing else."""


SHOWN: Final = ("queued", "running", "slots", "finished", "queue_seconds", "run_seconds")


@dataclass(frozen=True)
class Asset:
    """A file of the page: its bytes, its type and a tag that changes with them."""

    content: bytes
    media_type: str
    tag: str


@cache
def assets() -> dict[str, Asset]:
    """The files of the page by name, read once."""
    found = {}
    for file in files("fewstep.serve").joinpath("page").iterdir():
        kind = TYPES.get(file.name[file.name.rfind(".") :])
        if kind is not None:
            content = file.read_bytes()
            found[file.name] = Asset(content, kind, f'"{hashlib.sha256(content).hexdigest()[:20]}"')
    return found


@router.get("/", include_in_schema=False)
async def page(request: Request) -> Response:
    """The page."""
    return _answer(request, "index.html")


@router.get("/page/{name}", include_in_schema=False)
async def asset(request: Request, name: str) -> Response:
    """A file of it."""
    return _answer(request, name)


@router.get("/live", include_in_schema=False)
async def live(request: Request) -> dict[str, Any]:
    """What stands where: the phase of the server, and of `Batcher.stats` what the panel shows."""
    batcher = request.app.state.batcher
    stats = batcher.stats()
    phase = getattr(batcher, "phase", "ready" if batcher.ready else "draining")
    return {"phase": phase, **{name: stats[name] for name in SHOWN if name in stats}}


def _answer(request: Request, name: str) -> Response:
    found = assets().get(name) if request.app.state.settings.page else None
    if found is None:
        raise HTTPException(404, "there is no such page")
    headers = {
        "cache-control": "no-cache",  # kept, and asked about each time: the tag answers
        "content-security-policy": POLICY,
        "etag": found.tag,
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
    if found.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(found.content, media_type=found.media_type, headers=headers)
