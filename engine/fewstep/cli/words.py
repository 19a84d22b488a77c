"""What is asked for of each sample, as it is typed: labels or prompts, seeds, and how many samples that means."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fewstep.cli.labels import read_labels
from fewstep.cli.shared import MAX_SEED, whole_numbers
from fewstep.errors import ArgumentError
from fewstep.request.asked import MAX_SAMPLES

if TYPE_CHECKING:
    from fewstep.engine import Engine
    from fewstep.request.conditions import Condition

T = TypeVar("T")
READERS = (
    "what does is the folder of a StableDiffusionPipeline or StableDiffusionXLPipeline, also with a ControlNet, or of "
    "a LatentConsistencyModelPipeline, that diffusers saved"
)
UNLABELLED = "none"  # --labels of samples of no class


@dataclass(frozen=True)
class Typed:
    """The options that say what to make, as they were given."""

    n: int | None
    seed: int | None
    seeds: str | None
    labels: str | None
    prompt: list[str] | None
    negative_prompt: list[str] | None


@dataclass(frozen=True)
class Made:
    """What they mean.

    Attributes:
        request: arguments of `Engine.sample`.
        chosen: labels that nobody named.
        unlabelled: it was said that no class is asked for.
    """

    request: dict[str, Any]
    chosen: Sequence[float] | None = None
    unlabelled: bool = False

    @property
    def count(self) -> int:
        """How many samples."""
        return int(self.request["n"])


def meant(typed: Typed, conditions: "Condition") -> Made:
    """What options say of a model's samples. ArgumentError for what does not go together."""
    unlabelled = typed.labels == UNLABELLED and UNLABELLED not in conditions.names
    labels = None if typed.labels is None or unlabelled else read_labels(typed.labels, conditions.names)
    if typed.seed is not None and typed.seeds is not None:
        raise ArgumentError("seed", typed.seed, "either --seed or --seeds")
    if typed.n is not None and not 1 <= typed.n <= MAX_SAMPLES:
        raise ArgumentError("n", typed.n, f"an integer from 1 to {MAX_SAMPLES}")
    seeds = None if typed.seeds is None else whole_numbers("seeds", typed.seeds)
    count = typed.n or max(len(each or [0]) for each in (labels, seeds, typed.prompt))
    if typed.seed is not None:
        if not 0 <= typed.seed <= MAX_SEED - count + 1:
            raise ArgumentError("seed", typed.seed, "an integer from 0 to 2^64 - 1")
        seeds = [typed.seed + index for index in range(count)]
    chosen = conditions.spread(count) if typed.labels is None else None
    request: dict[str, Any] = {"n": count, "seeds": _spread("seeds", seeds, count)}
    request["labels"] = chosen or _spread("labels", labels, count)
    for name in ("prompt", "negative_prompt"):
        if (texts := getattr(typed, name)) is not None:
            request[name] = _spread(name, texts, count)
    return Made(request, chosen, unlabelled)


def check_kind(typed: Typed, reads: bool) -> None:
    """ArgumentError for labels of a model that reads prompts, and the other way round; asked before it is opened."""
    if reads and typed.labels is not None:
        raise ArgumentError("labels", typed.labels, "nothing: this model reads a text, by --prompt")
    if reads and not typed.prompt:
        raise ArgumentError("prompt", None, "a text: this model draws what --prompt says")
    for name in ("prompt", "negative_prompt"):
        if not reads and (texts := getattr(typed, name)):
            raise ArgumentError(name, texts[0], f"nothing: this model reads no prompts; {READERS}")


def _spread(argument: str, values: list[T] | None, count: int) -> list[T] | None:
    """One value for all, or one for each."""
    if values is None or len(values) == count:
        return values
    if len(values) != 1:
        allowed = f"one for all, or one for each of {count} samples"
        raise ArgumentError(argument, f"{len(values)} values", allowed)
    return values * count


def load_loras(engine: "Engine", loras: Sequence[str]) -> None:
    """Merge LoRAs into an engine's network: each FILE, or FILE:WEIGHT. ArgumentError for another form, or no file."""
    for index, text in enumerate(loras):
        path, weight = _weighted(text)
        if not Path(path).exists():
            allowed = "a .safetensors file that is there, or FILE:WEIGHT such as style.safetensors:0.8"
            raise ArgumentError("lora", text, allowed)
        names = [Path(_weighted(each)[0]).stem for each in loras]
        stem = Path(path).stem
        engine.load_lora(path, f"{stem}-{index}" if names.count(stem) > 1 else stem, weight)


def _weighted(text: str) -> tuple[str, float]:
    path, colon, number = text.rpartition(":")
    if not colon or Path(text).exists():
        return text, 1.0
    try:
        return path, float(number)
    except ValueError:
        return text, 1.0
