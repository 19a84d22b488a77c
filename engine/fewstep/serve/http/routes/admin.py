"""/admin/lora: adapters come and go while the server runs. There only with --admin and a key."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from fewstep.errors import ArgumentError
from fewstep.serve.http.wire.errors import ProblemError, problems

router = APIRouter(tags=["admin"], responses=problems(400, 401, 404, 500, 503))

Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._-]+$")]


class Loading(BaseModel):
    """An adapter to be loaded.

    Attributes:
        model: the served name.
        file: a .safetensors file in the folder of --lora-folder, by its path from there.
        name: what requests call it; the file's name unless given.
    """

    model_config = ConfigDict(extra="forbid", strict=True)
    model: str
    file: Annotated[str, Field(min_length=1, max_length=500)]
    name: Name | None = None


@router.get("/admin/lora")
async def listed(request: Request) -> dict[str, Any]:
    """The adapters that requests may name, of each model."""
    batcher = request.app.state.batcher
    models = list(batcher.families)
    loaded = [await asyncio.wrap_future(batcher.loras(model)) for model in models]
    return {"data": [{"model": model, "names": names} for model, names in zip(models, loaded, strict=True)]}


@router.post("/admin/lora")
async def load(request: Request, body: Loading) -> dict[str, Any]:
    """Load one; what runs on the model comes to its end before."""
    file = in_folder(request.app.state.settings.lora_folder, body.file)
    _check(request, body.model)
    loaded = await asyncio.wrap_future(request.app.state.batcher.load_lora(body.model, file, body.name or file.stem))
    return {"model": body.model, "name": loaded.name}


@router.delete("/admin/lora")
async def unload(request: Request, model: Annotated[str, Query()], name: Annotated[str, Query()]) -> dict[str, Any]:
    """Take one away."""
    _check(request, model)
    await asyncio.wrap_future(request.app.state.batcher.unload_lora(model, name))
    return {"model": model, "name": name, "deleted": True}


def in_folder(folder: str | None, name: str) -> Path:
    """A file of a folder; links and ".." do not lead out of it.

    Raises:
        ArgumentError: no such file there, or one that is no .safetensors.
    """
    if folder is None:
        raise ArgumentError("file", name, "nothing: the server was started without --lora-folder")
    allowed = "the path of a .safetensors file in the folder that the server was started with"
    inside = Path(folder).resolve()
    try:
        file = (inside / name).resolve()
        there = file.is_relative_to(inside) and file.suffix == ".safetensors" and file.is_file()
    except (OSError, ValueError):  # too long, or with a null byte
        there = False
    if not there or Path(name).is_absolute():
        raise ArgumentError("file", name, allowed)
    return file


def _check(request: Request, model: str) -> None:
    served = request.app.state.batcher.families
    if model not in served:
        message = f"model: got {model[:100]}; allowed: {', '.join(served)}"
        raise ProblemError(404, message, code="model_not_found", param="model")
