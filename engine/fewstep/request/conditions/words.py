"""What a user says of a condition, by the arguments of `Engine.sample`, and what a kind of condition makes of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from fewstep.checks import as_python, as_tensor
from fewstep.errors import ArgumentError


@dataclass(frozen=True, eq=False)
class Words:
    """A field for each argument of `Engine.sample` that a kind of condition may take; None where nothing is said.

    Attributes:
        labels: one for all samples or a list with one for each, of numbers and names.
        prompt, negative_prompt: a text, or its embedding as a tensor or as tensors by name; or a list, one for each
            sample; or the embeddings of several, which have an axis more.
        sizes: six numbers, or some of them by name; or a list, one for each sample.
        control_image: a picture as `fewstep.Image` takes it, of a ControlNet; or several, one for each sample.
        control_scale: how much of it; or a list, one for each sample.
    """

    labels: Any = None
    prompt: Any = None
    negative_prompt: Any = None
    sizes: Any = None
    control_image: Any = None
    control_scale: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", as_python(self.labels))
        object.__setattr__(self, "sizes", self.sizes if isinstance(self.sizes, Mapping) else as_python(self.sizes))
        object.__setattr__(self, "control_image", _pictures(self.control_image))
        object.__setattr__(self, "control_scale", as_python(self.control_scale))
        for name in ("prompt", "negative_prompt"):
            object.__setattr__(self, name, _texts(getattr(self, name)))

    @property
    def said(self) -> dict[str, Any]:
        """Those that are not None."""
        return {name: getattr(self, name) for name in NAMES if getattr(self, name) is not None}

    def listed(self) -> dict[str, int]:
        """How many samples each says that has one entry for each."""
        several = {
            "labels": isinstance(self.labels, list | tuple),
            "prompt": of_several(self.prompt),
            "negative_prompt": of_several(self.negative_prompt),
            "sizes": isinstance(self.sizes, list) and not _is_row(self.sizes),
            "control_image": isinstance(self.control_image, list),
            "control_scale": isinstance(self.control_scale, list),
        }
        return {name: _length(getattr(self, name)) for name, there in several.items() if there}

    def only(self, taken: Sequence[str], allowed: str) -> None:
        """ArgumentError for the first that is said and not among those that a model takes; `allowed` says what is."""
        for name, value in self.said.items():
            if name not in taken:
                allowed = NO_CONTROL if name.startswith("control") else allowed
                raise ArgumentError(name, value if isinstance(value, str | int | float) else _kind(value), allowed)


NO_CONTROL = "nothing: this model has no ControlNet"
NAMES = tuple(each.name for each in fields(Words))


@dataclass(frozen=True, eq=False)
class Rows:
    """What the words of some samples mean to the network.

    Attributes:
        condition: what it is given beside x and t, by name, each [B, ...].
        null: what takes the place of some of that in the unconditional half, each [B, ...].
        numbers: the names of those that are numbers to the network: floats keep the precision of x, which 16 bits do
            not. All other floats are in the network's dtype.
        recorded: what was said, for the record, one mapping for each sample; empty where that is said otherwise.
    """

    condition: Mapping[str, Tensor] = field(default_factory=dict)
    null: Mapping[str, Tensor] = field(default_factory=dict)
    numbers: tuple[str, ...] = ()
    recorded: Sequence[Mapping[str, object]] = ()


def of_several(prompt: object) -> bool:
    """Whether prompts are one for each sample: a list, or embeddings with an axis for the samples."""
    if isinstance(prompt, Mapping):
        return any(
            isinstance(each, Tensor) and each.ndim == (2 if name == "pooled" else 3) for name, each in prompt.items()
        )
    return prompt.ndim == 3 if isinstance(prompt, Tensor) else isinstance(prompt, list)


def by_label_alone(words: Words, by_hand: Sequence[str], allowed: str) -> bool:
    """Whether labels are said in words, and not as a tensor of the user's own among those given `by_hand`.

    Raises:
        ArgumentError: other words than labels, with what is `allowed`, or labels said twice.
    """
    words.only(("labels",), allowed)
    if "labels" in by_hand and words.labels is not None:
        raise ArgumentError("condition['labels']", "a tensor", "nothing beside `labels`")
    return "labels" not in by_hand


def _texts(prompt: object) -> Any:
    """Prompts with what is an array as a tensor, and what is an iterator as a list."""
    if isinstance(prompt, Mapping):
        return {name: as_tensor(each) for name, each in prompt.items()}
    found = as_tensor(prompt)
    if isinstance(found, Tensor):
        return found
    listed = as_python(found)
    return [_texts(each) for each in listed] if isinstance(listed, list) else listed


def _pictures(given: Any) -> Any:
    """A picture as it is, and several as a list of them; what has a batch axis of 1 is one for all."""
    if isinstance(given, tuple | Iterator):
        return list(given)
    several = getattr(given, "ndim", None) == 4 and len(given) > 1
    return list(given) if several else given


def _is_row(sizes: Sequence[object]) -> bool:
    """Whether sizes are the numbers of one for all."""
    return all(isinstance(each, int | float) for each in sizes)


def _length(value: Any) -> int:
    if not isinstance(value, Mapping):
        return len(value)
    return next(len(each) for name, each in value.items() if each.ndim == (2 if name == "pooled" else 3))


def _kind(value: object) -> object:
    """A value as an error shows it: a tensor by its shape."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    if not isinstance(value, list | Mapping):
        return f"a {type(value).__name__}"
    return f"tensors {', '.join(map(str, value))}" if isinstance(value, Mapping) else value
