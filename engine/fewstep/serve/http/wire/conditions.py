"""What is asked of a model's condition: the prompt, or a label for each image."""

import re
from collections.abc import Sequence
from typing import Any, Final

from fewstep.errors import ArgumentError
from fewstep.request.conditions import Condition
from fewstep.serve.http.wire.fields import Sampling

ANY: Final = ("", "*", "any")  # prompts for one label after the other
_ARTICLE: Final = re.compile(r"^(an?|the)\s+", re.IGNORECASE)
_NUMBER: Final = re.compile(r"[+-]?\d{1,9}(\.\d{1,9})?")


def conditioned(condition: Condition, body: Sampling, count: int) -> tuple[list[dict[str, Any]], list[str]]:
    """The words for each of `count` images, and the names of fields that were not read.

    Raises:
        ArgumentError: a prompt that is no label of the model, or labels where it takes none.
    """
    if "context" in condition.inputs:
        return [_text(body)] * count, []
    if "labels" not in condition.inputs:
        if body.labels is not None:
            raise ArgumentError("labels", body.labels, condition.allowed)
        return [_negative(body)] * count, [] if body.prompt is None else ["prompt"]
    unread = [] if body.labels is None or body.prompt is None else ["prompt"]
    labels = _spoken(condition, body.prompt, count) if body.labels is None else _listed(body.labels, count)
    return [{"labels": [label]} | _negative(body) for label in labels], unread


def _text(body: Sampling) -> dict[str, Any]:
    if body.labels is not None:
        raise ArgumentError("labels", body.labels, "nothing: this model takes a prompt")
    if body.prompt is None:
        raise ArgumentError("prompt", None, "a text: this model reads prompts")
    return {"prompt": body.prompt} | _negative(body)


def _negative(body: Sampling) -> dict[str, Any]:
    return {} if body.negative_prompt is None else {"negative_prompt": body.negative_prompt}


def _listed(labels: Any, count: int) -> list[Any]:
    each: list[Any] = labels if isinstance(labels, list) else [labels]
    if len(each) not in (1, count):
        raise ArgumentError("labels", f"{len(each)} labels", f"one, or one for each of the {count} images")
    return each * count if len(each) == 1 else each


def _spoken(condition: Condition, prompt: str | None, count: int) -> Sequence[float | str]:
    """The label that a prompt names, for all images; one after the other where it names any."""
    said = _ARTICLE.sub("", (prompt or "").strip()).rstrip(" .!")
    if said.lower() in ANY:
        return condition.spread(count) or []
    names = {name.casefold(): name for name in condition.names}
    if said.casefold() in names:
        return [names[said.casefold()]] * count
    if _NUMBER.fullmatch(said):
        return [float(said) if "." in said else int(said)] * count
    allowed = f"a label of this model, which reads no texts ({condition.allowed}), or * for one after the other"
    raise ArgumentError("prompt", prompt, allowed)
