"""GET /v1/models, /v1/models/{id} and /capabilities."""

from typing import Any

from fastapi import APIRouter, Request

from fewstep.diffusion.samplers import SAMPLERS
from fewstep.serve.family import Family
from fewstep.serve.http.wire.answers import ModelData, ModelsAnswer
from fewstep.serve.http.wire.asks import family_of
from fewstep.serve.http.wire.errors import problems
from fewstep.version import __version__

router = APIRouter()


@router.get("/v1/models", response_model=ModelsAnswer, responses=problems(401, 429, 500, 503))
async def models(request: Request) -> dict[str, Any]:
    """All served names."""
    families = request.app.state.batcher.families.values()
    return {"object": "list", "data": [_model(request, family) for family in families]}


@router.get("/v1/models/{model:path}", response_model=ModelData, responses=problems(401, 404, 429, 500, 503))
async def model(request: Request, model: str) -> dict[str, Any]:
    """One of them."""
    return _model(request, family_of(request.app.state.batcher, model))


@router.get("/capabilities", responses=problems(401, 429, 500, 503))
async def capabilities(request: Request) -> dict[str, Any]:
    """What may be asked for: the models, samplers and formats, and the limits of this server."""
    state = request.app.state
    limits = state.settings.limits
    return {
        "version": __version__,
        "models": [dict(family.about()) for family in state.batcher.families.values()],
        "samplers": list(SAMPLERS),
        "output_formats": ["png", "jpeg", "webp"],
        "stream": True,
        "partial_images": 3,
        "limits": {
            "images": limits.images,
            "steps": limits.steps,
            "slots": limits.slots,
            "queue": limits.queue,
            "body_bytes": limits.body_bytes,
            "prompt_characters": limits.prompt_characters,
            "pixels": limits.pixels,
            "deadline_ms": limits.deadline_ms,
        },
    }


def _model(request: Request, family: Family) -> dict[str, Any]:
    created = request.app.state.created
    about = dict(family.about())
    return {"id": family.name, "object": "model", "created": created, "owned_by": "fewstep", "fewstep": about}
