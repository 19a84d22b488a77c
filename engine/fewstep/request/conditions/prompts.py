"""A text for each sample, and one that it is guided away from, as the embeddings that a network attends to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from fewstep.checks import integer, only, whole
from fewstep.errors import ArgumentError
from fewstep.request.conditions.words import Rows, Words, of_several

Embedding = Mapping[str, Tensor]
"""Of one text: "context" [L, W], an embedding for each token, and perhaps "pooled" [P], one for the whole."""

Encode = Callable[[str | None, bool], Embedding]
"""(text, negative) -> its embedding. A text of None asks for what stands for no text at all."""

MAX_SIDE: Final = 2**20  # pixels
SAID: Final = {"sizes": "sizes=", "control": "control_image=", "control_scale": "control_scale="}  # of inputs
SIZES: Final = ("original_size", "crops_coords_top_left", "target_size")  # as diffusers names them


@dataclass(frozen=True, eq=False)
class Prompts:
    """Texts, for a network that is called with context [B, L, W], and perhaps with pooled [B, P] and sizes [B, 6].

    Attributes:
        encode: what makes an embedding of a text, by a call for each text that a request names. One text is encoded
            without the others, so that its embedding, and with it its sample, does not depend on them.
        width: W of a token's embedding.
        pooled: P of the embedding of a whole text; None for a network that takes none.
        size: (height, width) of the image in pixels, for a network that is told sizes (SDXL, Podell et al. 2023,
            2307.01952, section 2.2); None for one that is not.
    """

    encode: Encode
    width: int
    pooled: int | None = None
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not callable(self.encode):
            raise ArgumentError("prompts.encode", self.encode, "a function of a text and whether it is negative")
        integer("prompts.width", self.width, 1, MAX_SIDE)
        if self.pooled is not None:
            integer("prompts.pooled", self.pooled, 1, MAX_SIDE)
        if self.size is not None:
            object.__setattr__(self, "size", _numbers("prompts.size", self.size, 2, "(height, width) in pixels"))

    @property
    def allowed(self) -> str:
        """What an error says is allowed."""
        return f"a text, or one for each sample; or its embedding: {self._shapes}"

    @property
    def names(self) -> tuple[str, ...]:
        """There are no classes."""
        return ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """The context, and what the network is given beside it."""
        return ("context", *("pooled",) * (self.pooled is not None), *("sizes",) * (self.size is not None))

    @property
    def taken(self) -> tuple[str, ...]:
        """The words that are taken."""
        return ("prompt", "negative_prompt", *("sizes",) * (self.size is not None))

    @property
    def guidable(self) -> bool:
        """A text has a null: the negative prompt, or what stands for none."""
        return True

    def spread(self, samples: int) -> None:
        """There are no labels to give."""
        return

    def blank(self, samples: int) -> dict[str, Any]:
        """An empty text."""
        return {"prompt": ""}

    def rows(self, words: Words, samples: int, guided: bool, by_hand: Sequence[str] = ()) -> Rows:
        """The embeddings and the sizes of the samples, each [samples, ...], and in the null those of the negatives.

        The null of sizes is the sizes themselves, so that guidance does not work on them.
        """
        words.only(self.taken, "nothing: this model takes a text, as prompt='a red fox'")
        if said := [name for name in self.inputs if name in by_hand]:
            how = SAID.get(said[0], "prompt=, which takes embeddings too")
            raise ArgumentError(f"condition[{said[0]!r}]", "a tensor", f"nothing: it is said by {how}")
        if words.prompt is None:
            raise ArgumentError("prompt", None, self.allowed)
        if words.negative_prompt is not None and not guided:
            allowed = (
                "nothing where no sample is guided by two halves: only a guidance_scale that is not 1 reads it, and no "
                "model that takes the scale as an input"
            )
            raise ArgumentError("negative_prompt", _shown(words.negative_prompt), allowed)
        condition = self._embedded("prompt", words.prompt, samples)
        null: dict[str, Tensor] = {}
        if guided:
            null = self._embedded("negative_prompt", words.negative_prompt, samples)
            tokens, others = condition["context"].shape[1], null["context"].shape[1]
            if tokens != others:
                allowed = f"{tokens} of them, as the prompt has: give both as embeddings, or both as texts"
                raise ArgumentError("negative_prompt", f"{others} tokens", allowed)
        if self.size is not None:
            condition["sizes"] = self._sizes(words.sizes, samples)
            null |= {"sizes": condition["sizes"]} if guided else {}
        return Rows(condition, null, ("sizes",), self._recorded(words, samples))

    @property
    def _shapes(self) -> str:
        context = f"floats [tokens, {self.width}], or [samples, tokens, {self.width}]"
        if self.pooled is None:
            return context
        return f"{{'context': {context}, 'pooled': floats [{self.pooled}] or [samples, {self.pooled}]}}"

    def _embedded(self, argument: str, prompt: Any, samples: int) -> dict[str, Tensor]:
        """Embeddings of texts, or those that were given, [samples, ...] each."""
        each = _each(prompt, samples)
        made: dict[str | None, Embedding] = {}
        for text in each:
            if (text is None and argument == "negative_prompt") or isinstance(text, str):
                if text not in made:
                    made[text] = self._checked(argument, self.encode(text, argument == "negative_prompt"))
            elif not isinstance(text, Tensor | Mapping):
                raise ArgumentError(argument, text, self.allowed)
        found = [made[one] if one is None or isinstance(one, str) else self._checked(argument, one) for one in each]
        tokens = [len(one["context"]) for one in found]
        if len(set(tokens)) > 1:
            other = next(count for count in tokens if count != tokens[0])
            raise ArgumentError(argument, f"embeddings of {tokens[0]} and of {other} tokens", "as many for each sample")
        return {name: torch.stack([one[name].to(first) for one in found]) for name, first in found[0].items()}

    def _checked(self, argument: str, embedding: Tensor | Embedding) -> Embedding:
        """One embedding, [L, W] and [P]; ArgumentError for other widths or other names."""
        given = {"context": embedding} if isinstance(embedding, Tensor) else dict(embedding)
        widths = {"context": self.width} | ({} if self.pooled is None else {"pooled": self.pooled})
        for name in (*widths, *given):
            if name not in given:
                raise ArgumentError(argument, f"an embedding without {name!r}", self._shapes)
            only(argument, [name], widths)
            tensor = given[name]
            fits = isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.ndim == 2 - (name == "pooled")
            if not fits or tensor.shape[-1] != widths[name] or tensor.numel() == 0:
                found = f"{tensor.dtype} {list(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
                raise ArgumentError(argument, f"{name} {found} for a sample", self._shapes)
        return {name: tensor.detach() for name, tensor in given.items()}

    def _sizes(self, sizes: Any, samples: int) -> Tensor:
        """float64 [samples, 6]: height and width of the original, top and left of the crop, height and width wanted."""
        several = isinstance(sizes, list) and not all(isinstance(each, int | float) for each in sizes)
        rows = [self._row(each) for each in (sizes if several else [sizes])]
        return torch.tensor(rows, dtype=torch.float64).expand(samples, 6)

    def _row(self, sizes: Any) -> tuple[int, ...]:
        assert self.size is not None
        allowed = f"six numbers of pixels, or pairs by name: {', '.join(SIZES)}; unsaid ones are the image's"
        usual = dict(zip(SIZES, (self.size, (0, 0), self.size), strict=True))
        if sizes is None:
            sizes = {}
        if not isinstance(sizes, Mapping):
            return _numbers("sizes", sizes, 6, allowed)
        only("sizes", sizes, SIZES)
        pairs = [
            _numbers(f"sizes[{name!r}]", sizes.get(name, usual[name]), 2, "two numbers of pixels") for name in SIZES
        ]
        return tuple(number for pair in pairs for number in pair)

    def _recorded(self, words: Words, samples: int) -> list[dict[str, object]]:
        """What was said to each sample: texts as they are, of embeddings that there were some."""
        columns: dict[str, list[object]] = {}
        for name in ("prompt", "negative_prompt"):
            if (prompt := getattr(words, name)) is not None:
                each = _each(prompt, samples)
                columns[name] = [one if one is None or isinstance(one, str) else "(embeddings)" for one in each]
        if words.sizes is not None:
            columns["sizes"] = [",".join(str(int(size)) for size in row) for row in self._sizes(words.sizes, samples)]
        return [{name: column[place] for name, column in columns.items()} for place in range(samples)]


def _each(prompt: Any, samples: int) -> list[Any]:
    """One prompt per sample."""
    if not of_several(prompt):
        return [prompt] * samples
    if isinstance(prompt, Mapping):
        several = {name for name, each in prompt.items() if of_several({name: each})}
        if any(len(prompt[name]) != samples for name in several):
            found = ", ".join(f"{name} of {len(prompt[name])} samples" for name in several)
            raise ArgumentError("prompt", found, f"as many as there are samples, {samples}")
        return [
            {name: each[place] if name in several else each for name, each in prompt.items()}
            for place in range(samples)
        ]
    return list(prompt)


def _numbers(argument: str, values: Any, count: int, allowed: str) -> tuple[int, ...]:
    listed = list(values) if isinstance(values, list | tuple) else []
    found = [whole(each) for each in listed]
    if len(listed) != count or any(each is None or not 0 <= each <= MAX_SIDE for each in found):
        raise ArgumentError(argument, values, allowed)
    return tuple(each for each in found if each is not None)


def _shown(prompt: object) -> object:
    if isinstance(prompt, list) and len(set(map(str, prompt))) == 1:
        prompt = prompt[0]
    return prompt if isinstance(prompt, str | list) else "embeddings"
