"""From the fields of a request to the asks of a batcher, an ask for each image."""

import secrets
import time
from dataclasses import dataclass, replace

from fewstep.checks import integer, named, number
from fewstep.errors import ArgumentError
from fewstep.request.start import Image, Inpaint
from fewstep.serve.asks import Ask
from fewstep.serve.batching.batcher import Batcher
from fewstep.serve.family import Family
from fewstep.serve.http.wire.conditions import conditioned
from fewstep.serve.http.wire.errors import ProblemError
from fewstep.serve.http.wire.fields import MAX_SEED, Picturing, Sampling, ignored
from fewstep.serve.http.wire.pictures import Encoding
from fewstep.serve.limits import Limits

PASSED_ON = ("sampler", "guidance_scale", "guidance_rescale")


@dataclass(frozen=True, eq=False)
class Order:
    """What a request comes to.

    Attributes:
        family: which draws.
        asks: one for each image.
        encoding: of the pictures that are sent back.
        ignored: the fields that were not read.
    """

    family: Family
    asks: list[Ask]
    encoding: Encoding
    ignored: list[str]

    @property
    def size(self) -> str:
        """ "WxH" of the pictures."""
        return size_of(self.family)

    def from_picture(self, start: Image | Inpaint) -> "Order":
        """The same, with this start for every image."""
        return replace(self, asks=[replace(ask, words={**ask.words, "start": start}) for ask in self.asks])


def order(
    batcher: Batcher,
    limits: Limits,
    body: Sampling,
    *,
    trajectory: bool = False,
) -> Order:
    """What the fields of a request ask for.

    Args:
        batcher: who will be asked.
        limits: of the server.
        body: the fields.
        trajectory: log-probabilities and states are wanted too.

    Raises:
        ArgumentError: naming the field and what is allowed.
        ProblemError: 404, a model that is not served.
    """
    arrived = time.monotonic()
    family = family_of(batcher, body.model)
    check_size(family, body.size)
    count = _count(body, limits)
    for name in ("prompt", "negative_prompt"):
        if len(getattr(body, name) or "") > limits.prompt_characters:
            raise ArgumentError(name, f"{len(getattr(body, name))} characters", f"{limits.prompt_characters} at most")
    steps, seeds = _steps(body, limits), _seeds(body, count)
    words, unread = conditioned(family.first.model.conditions, body, count)
    passed = {name: value for name in PASSED_ON if (value := getattr(body, name)) is not None}
    deadline, previews = None, 0
    if isinstance(body, Picturing):
        previews = (body.partial_images or 0) if body.stream else 0
        if body.deadline_ms is not None:
            milliseconds = number("deadline_ms", body.deadline_ms, 1, limits.deadline_ms)
            deadline = arrived + milliseconds / 1000
    lora = tuple(sorted((body.lora or {}).items()))
    asks = [
        Ask(family.name, seed, each | passed, steps, deadline, previews, trajectory, lora)
        for seed, each in zip(seeds, words, strict=True)
    ]
    return Order(family, asks, Encoding.of(body, family.first.image_shape[0]), sorted({*ignored(body), *unread}))


def family_of(batcher: Batcher, name: str | None) -> Family:
    """The family of a name, or the only one. ProblemError 404 for one that is not served, 400 where it must be said."""
    families = batcher.families
    if name is None:
        if len(families) == 1:
            return next(iter(families.values()))
        raise ProblemError(
            400, f"model: it has to be given: {', '.join(families)}", code="missing_field", param="model"
        )
    if name not in families:
        message = f"model: got {name[:100]}; allowed: {named(families, name)}"
        raise ProblemError(404, message, code="model_not_found", param="model")
    return families[name]


def size_of(family: Family) -> str:
    """ "WxH" of a family's pictures."""
    _, height, width = family.first.image_shape
    return f"{width}x{height}"


def check_size(family: Family, size: str | None) -> None:
    """ArgumentError for another size than the model's."""
    if size not in (None, "auto", size_of(family)):
        raise ArgumentError("size", size, f"auto, or {size_of(family)}: this model draws no other size")


def _count(body: Sampling, limits: Limits) -> int:
    listed = [len(each) for each in (body.labels, body.seeds) if isinstance(each, list) and len(each) > 1]
    count = body.n if body.n is not None else max(listed, default=1)
    return integer("n", count, 1, limits.images)


def _steps(body: Sampling, limits: Limits) -> int | None:
    if body.steps is not None and body.num_inference_steps not in (None, body.steps):
        raise ArgumentError("steps", body.steps, f"{body.num_inference_steps}, as num_inference_steps says, or nothing")
    name = "steps" if body.num_inference_steps is None else "num_inference_steps"
    steps = getattr(body, name)
    return None if steps is None else integer(name, steps, 1, limits.steps)


def _seeds(body: Sampling, count: int) -> list[int]:
    if body.seeds is not None:
        if body.seed is not None:
            raise ArgumentError("seed", body.seed, "nothing beside seeds")
        if len(body.seeds) != count:
            raise ArgumentError("seeds", f"{len(body.seeds)} seeds", f"one for each of the {count} images")
        return body.seeds
    first = secrets.randbits(32) if body.seed is None else body.seed
    if first + count - 1 > MAX_SEED:
        raise ArgumentError("seed", first, f"at most {MAX_SEED - count + 1}: each of the {count} images has the next")
    return [first + place for place in range(count)]
