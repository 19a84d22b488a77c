"""What is answered: the shapes of OpenAI's answers, and ours in `fewstep` beside each image."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from fewstep.serve.asks import Ask
from fewstep.serve.events import Admitted, Event, Finished

NO_TOKENS: Mapping[str, Any] = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


class Facts(BaseModel):
    """How an image came to be.

    Attributes:
        index: which of the request's images it is, from 0.
        seed, steps, sampler, label: what draws it again, with the request's other fields.
        model: which of the models of the served name drew it.
        queue_ms, run_ms: milliseconds before its first step, and from there on.
        chosen_by_deadline: whether its steps were.
        warnings: such as steps that the model was not trained for.
    """

    model_config = ConfigDict(protected_namespaces=())
    index: int
    seed: int
    steps: int
    sampler: str
    model: str
    label: int | float | str | None
    queue_ms: float
    run_ms: float
    chosen_by_deadline: bool
    warnings: list[str]


class ImageData(BaseModel):
    """One image."""

    b64_json: str
    fewstep: Facts


class ImagesAnswer(BaseModel):
    """The answer of an endpoint for images. No tokens are counted, and `usage` says 0."""

    created: int
    data: list[ImageData]
    output_format: str
    size: str
    background: str
    usage: dict[str, Any]


class TrajectoryData(BaseModel):
    """One trajectory.

    Attributes:
        log_prob: of each step in nats; null where the step added no noise.
        states: base64 of little-endian float32, `states_shape` [steps + 1, C, H, W].
    """

    b64_json: str | None
    fewstep: Facts
    prompt: str | None
    log_prob: list[float | None]
    states: str | None
    states_shape: list[int] | None


class RolloutsAnswer(BaseModel):
    """The answer of /v1/rollouts.

    Attributes:
        batch_invariant: the bits of each trajectory do not depend on what else ran.
    """

    created: int
    model: str
    batch_invariant: bool
    data: list[TrajectoryData]


class CancelAnswer(BaseModel):
    """The answer of a cancellation. `images` are those of the request, some of which may have been done."""

    request_id: str
    cancelled: bool
    images: int = Field(ge=0)


class ModelData(BaseModel):
    """One served name, in OpenAI's form; `fewstep` is what `Family.about` says."""

    id: str
    object: str
    created: int
    owned_by: str
    fewstep: dict[str, Any]


class ModelsAnswer(BaseModel):
    """All served names."""

    object: str
    data: list[ModelData]


@dataclass
class Story:
    """What is known of one image so far."""

    index: int
    ask: Ask
    admitted: Admitted | None = None
    finished: Finished | None = field(default=None, repr=False)

    def heard(self, event: Event) -> None:
        """One more event of it."""
        if isinstance(event, Admitted):
            self.admitted = event
        elif isinstance(event, Finished):
            self.finished = event

    @property
    def label(self) -> int | float | str | None:
        """Of its model; None without."""
        labels = self.ask.words.get("labels")
        return labels[0] if labels else None

    def facts(self, done: Finished) -> dict[str, Any]:
        """Of `Facts`."""
        return {
            "index": self.index,
            "seed": done.seed,
            "steps": done.steps,
            "sampler": done.sampler,
            "model": done.member,
            "label": self.label,
            "queue_ms": round(1000 * done.queue_seconds, 3),
            "run_ms": round(1000 * done.run_seconds, 3),
            "chosen_by_deadline": self.admitted is not None and self.admitted.chosen,
            "warnings": [] if self.admitted is None else list(self.admitted.warnings),
        }


def now() -> int:
    """The Unix time of an answer, in seconds."""
    return int(time.time())
