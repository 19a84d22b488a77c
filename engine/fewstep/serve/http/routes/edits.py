"""POST /v1/images/edits: images from an image, and what is under a mask anew."""

from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response
from torch import Tensor

from fewstep.errors import ArgumentError
from fewstep.request.start import Image, Inpaint
from fewstep.serve.http.drawing import drawn, streamed
from fewstep.serve.http.routes.generations import PICTURES
from fewstep.serve.http.wire.asks import order
from fewstep.serve.http.wire.errors import ProblemError
from fewstep.serve.http.wire.fields import Editing, FormEdit, JsonEdit, body_of, read
from fewstep.serve.http.wire.forms import read_form
from fewstep.serve.http.wire.pictures import Desk, Opening, of_data_url
from fewstep.serve.http.wire.strict_json import read_object

router = APIRouter()
STRENGTH: Final = 0.75  # of an image without a mask; a mask is filled from noise alone
REQUEST: Final[dict[str, Any]] = body_of(JsonEdit)
REQUEST["content"]["multipart/form-data"] = body_of(FormEdit)["content"]["application/json"]


@router.post("/v1/images/edits", responses=PICTURES, openapi_extra={"requestBody": REQUEST})
async def edit(request: Request) -> Response:
    """Draw pictures from a picture: as far from it as `strength` says, or under a mask."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body, image, mask = await (_of_form(request) if kind == "multipart/form-data" else _of_json(request, kind))
    state = request.app.state
    wanted = order(state.batcher, state.settings.limits, body)
    desk: Desk = state.desk
    opening = Opening(wanted.family.first.image_shape, state.settings.limits.pixels, body.fit == "resize")
    opened = await desk(opening.image, "image", image)
    wanted = wanted.from_picture(_start(body, opened, None if mask is None else await desk(opening.mask, "mask", mask)))
    return await (streamed(request, wanted, "image_edit") if body.stream else drawn(request, wanted))


def _start(body: Editing, image: Tensor, mask: Tensor | None) -> Image | Inpaint:
    if mask is None:
        return Image(image, STRENGTH if body.strength is None else body.strength)
    return Inpaint(image, mask, 1.0 if body.strength is None else body.strength)


async def _of_form(request: Request) -> tuple[Editing, bytes, bytes | None]:
    fields, files = await read_form(request)
    for name in files:
        if name not in ("image", "mask"):
            raise ProblemError(400, f"{name}: no such file; allowed: image and mask", code="unknown_field", param=name)
    for name in ("image", "mask"):
        if name in fields:
            raise ArgumentError(name, fields[name], "a file")
    body = read(Editing, fields)
    images, masks = files.get("image", []), files.get("mask", [])
    if len(images) != 1:
        raise ArgumentError("image", f"{len(images)} files", "one")
    if len(masks) > 1:
        raise ArgumentError("mask", f"{len(masks)} files", "one at most")
    return body, images[0], masks[0] if masks else None


async def _of_json(request: Request, kind: str) -> tuple[Editing, bytes, bytes | None]:
    if kind not in ("application/json", ""):
        allowed = "multipart/form-data or application/json"
        raise ProblemError(415, f"content-type: got {kind[:80]}; allowed: {allowed}", param="content-type")
    body = read(JsonEdit, await read_object(request))
    desk: Desk = request.app.state.desk
    image = await desk(of_data_url, "images", body.images[0].image_url)
    return body, image, None if body.mask is None else await desk(of_data_url, "mask", body.mask.image_url)
