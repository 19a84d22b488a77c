"""The fields of requests: OpenAI's, and ours beside them. A field that is null counts as not given."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fewstep.serve.http.wire.errors import problem_of_fields

MAX_SEED: Final = 2**64 - 1
MAX_IMAGES: Final = 10  # of OpenAI's n; a server's own limit may be lower
MAX_STEPS: Final = 1000
MAX_PICTURE: Final = 64 << 20  # characters of a picture in base64

Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Label = Annotated[int, Field(ge=-(2**31), le=2**31)] | float | Annotated[str, Field(max_length=255)]
Name = Annotated[str, Field(min_length=1, max_length=255)]
Fields = TypeVar("Fields", bound=BaseModel)

MEANINGLESS: Final = (
    "background",
    "complexity",
    "frame_count",
    "frame_duration_ms",
    "input_fidelity",
    "moderation",
    "quality",
    "safety_identifier",
    "style",
    "user",
)
"""Fields of OpenAI's that say nothing to a sampler: accepted, and named in the header `IGNORED`."""

IGNORED: Final = "x-fewstep-ignored"


class Sampling(BaseModel):
    """What any request for images may say.

    Attributes:
        model: a name that /v1/models has; may be left out where one is served.
        prompt: a text; for a model that takes labels a class, "7" or "a cat", or "any" for one after the other.
        negative_prompt: what to be guided away from.
        labels: a class by number or name, or a number, as the model takes them: one for all images, or one for each.
        n: images.
        seed: of the first image; the next have the next. Drawn unless given.
        seeds: one for each image, instead.
        num_inference_steps: model calls for each image.
        steps: the same.
        sampler: a name that /capabilities has.
        guidance_scale, guidance_rescale: w in uncond + w (cond - uncond), and phi of Lin et al. 2023.
        lora: the weight of each adapter by its name.
        output_format: of the pictures.
        output_compression: quality of a jpeg or webp, 0 to 100.
        size: "auto" or the model's own.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    model: Name | None = None
    prompt: Annotated[str, Field(max_length=32_000)] | None = None
    negative_prompt: Annotated[str, Field(max_length=32_000)] | None = None
    labels: Annotated[list[Label], Field(min_length=1, max_length=MAX_IMAGES)] | Label | None = None
    n: Annotated[int, Field(ge=1, le=MAX_IMAGES)] | None = None
    seed: Seed | None = None
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=MAX_IMAGES)] | None = None
    num_inference_steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    sampler: Name | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=1000)] | None = None
    guidance_rescale: Annotated[float, Field(ge=0, le=1)] | None = None
    lora: Annotated[dict[Name, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=16)] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    size: Annotated[str, Field(pattern=r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$")] | None = None


class Picturing(Sampling):
    """What a request may say whose answer is pictures, at once or as they come.

    Attributes:
        deadline_ms: milliseconds from now in which the images are to be there; without steps as many of the model's own
            numbers of steps are taken as that and the load allow.
        stream: answer with events.
        partial_images: previews of each image in a stream, at most.
        response_format: pictures are sent, and none are kept to be fetched.
    """

    deadline_ms: Annotated[float, Field(ge=1, le=86_400_000)] | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = None
    response_format: Literal["b64_json"] | None = None
    background: Any = None
    complexity: Any = None
    frame_count: Any = None
    frame_duration_ms: Any = None
    input_fidelity: Any = None
    moderation: Any = None
    quality: Any = None
    safety_identifier: Any = None
    style: Any = None
    user: Any = None


class Generation(Picturing):
    """POST /v1/images/generations."""


class Editing(Picturing):
    """What an edit may say beside its pictures.

    Attributes:
        strength: above 0 to 1: how much of the noise range is run. 0.75 without a mask and 1 with one, unless given.
        fit: "exact": pictures have the model's size; "resize": their middle is cut to its aspect and scaled.
    """

    strength: Annotated[float, Field(gt=0, le=1)] | None = None
    fit: Literal["exact", "resize"] | None = None


class Picture(BaseModel):
    """A picture in a request of JSON.

    Attributes:
        image_url: "data:image/png;base64,...". Nothing is ever fetched.
    """

    model_config = ConfigDict(extra="forbid", strict=True)
    image_url: Annotated[str, Field(max_length=MAX_PICTURE)]


class JsonEdit(Editing):
    """POST /v1/images/edits with JSON.

    Attributes:
        images: one.
        mask: transparent (alpha 0) where the image is generated, opaque where it is kept.
    """

    images: Annotated[list[Picture], Field(min_length=1, max_length=1)]
    mask: Picture | None = None


class FormEdit(Editing):
    """POST /v1/images/edits with a form, for its schema: `forms` takes the files out of the fields."""

    image: Annotated[str, Field(json_schema_extra={"format": "binary"})]
    mask: Annotated[str, Field(json_schema_extra={"format": "binary"})] | None = None


class Rollout(Sampling):
    """POST /v1/rollouts.

    Attributes:
        states: x before every step and at the end, as base64 of little-endian float32.
        images: the pictures too.
        require_batch_invariant: refuse where a trajectory's bits may depend on what else runs.
    """

    states: bool | None = None
    images: bool | None = None
    require_batch_invariant: bool | None = None


def read(fields: type[Fields], values: Mapping[str, Any]) -> Fields:
    """The fields of a request.

    Raises:
        ProblemError: 400, naming the first that is not as it has to be.
    """
    try:
        return fields.model_validate(values)
    except ValidationError as error:
        raise problem_of_fields(error, fields) from None


def ignored(body: Sampling) -> list[str]:
    """The fields that were given and mean nothing here."""
    said = [name for name in MEANINGLESS if getattr(body, name, None) is not None]
    if body.output_compression is not None and body.output_format in (None, "png"):
        said.append("output_compression")
    if getattr(body, "partial_images", None) and not getattr(body, "stream", None):
        said.append("partial_images")
    return sorted(said)


def body_of(fields: type[BaseModel]) -> dict[str, Any]:
    """The `requestBody` of an OpenAPI for JSON fields."""
    schema = fields.model_json_schema(ref_template="#/components/schemas/{model}")
    named = schema.pop("$defs", {})
    return {"required": True, "content": {"application/json": {"schema": _inlined(schema, named)}}}


def _inlined(schema: Any, named: Mapping[str, Any]) -> Any:
    """A schema without references: what each of them names, in its place."""
    if isinstance(schema, list):
        return [_inlined(each, named) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(named[schema["$ref"].rpartition("/")[2]], named)
    return {key: _inlined(value, named) for key, value in schema.items()}
