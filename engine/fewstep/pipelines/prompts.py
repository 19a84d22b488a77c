"""A pipeline's own text encoders as what `Prompts` reads texts with, and the embeddings that were made last."""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from fewstep.checks import integer
from fewstep.errors import ArgumentError
from fewstep.run.denoiser import parameter_dtype

KEPT: Final = 64  # embeddings; one of SDXL is 0.6 MB in float32
ENCODERS: Final = ("text_encoder", "text_encoder_2")


class PromptEncoder:
    """Embeddings of texts, by `encode_prompt` of a pipeline of Stable Diffusion, SDXL or a latent consistency model.

    Tokenizers, text encoders and textual inversions are the pipeline's own, and so are its warnings of a text that is
    cut off. A text is encoded alone, so that its embedding does not depend on the others of a request.

    The embeddings made last are kept. All are dropped when a text encoder is another one than it was: its weights were
    written to in place or assigned, it was moved, or adapters of peft were added, switched, scaled or merged. What is
    written past torch's counter of changes, into the `.data` of a parameter, is not seen: `forget` drops them too.

    Args:
        pipe: the pipeline. One without text encoders reads no text; its prompts are embeddings that were made before.
        kept: how many embeddings are kept at most; 0 keeps none.
    """

    def __init__(self, pipe: Any, kept: int = KEPT) -> None:
        self._pipe, self._most = pipe, integer("kept", kept, 0, 2**31)
        self._kept: OrderedDict[tuple[str | None, bool], Mapping[str, Tensor]] = OrderedDict()
        self._made_by: object = None
        self._lock = threading.Lock()

    @property
    def encoders(self) -> list[nn.Module]:
        """The text encoders of the pipeline."""
        return [*self.named_encoders.values()]

    @property
    def named_encoders(self) -> dict[str, nn.Module]:
        """Them by the names that a pipeline and a LoRA file have for them."""
        found = {name: getattr(self._pipe, name, None) for name in ENCODERS}
        return {name: encoder for name, encoder in found.items() if encoder is not None}

    def __call__(self, text: str | None, negative: bool) -> Mapping[str, Tensor]:
        """The "context" [L, W] and, of SDXL, "pooled" [P], on the device of the pipeline.

        A negative text of None is what the pipeline guides from where no negative prompt is given: the embedding of an
        empty one, or zeros where its config says `force_zeros_for_empty_prompt`.

        Raises:
            ArgumentError: a pipeline without a text encoder or a tokenizer.
        """
        if not self.encoders or self._tokenizer is None:
            argument = "negative_prompt" if negative else "prompt"
            raise ArgumentError(argument, text, "an embedding: the pipeline has no text encoder to read a text with")
        with self._lock:
            made_by = tuple(_marks(self.encoders, self._tokenizer))
            if made_by != self._made_by:
                self._kept.clear()
                self._made_by = made_by
            key = text, negative
            if key not in self._kept:
                self._kept[key] = self._encoded(text, negative)
            self._kept.move_to_end(key)
            found = self._kept[key]
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
            return found

    def __len__(self) -> int:
        return len(self._kept)

    def forget(self) -> None:
        """Drop all embeddings that are kept."""
        with self._lock:
            self._kept.clear()

    @property
    def _tokenizer(self) -> Any:
        return getattr(self._pipe, "tokenizer", None) or getattr(self._pipe, "tokenizer_2", None)

    def _encoded(self, text: str | None, negative: bool) -> Mapping[str, Tensor]:
        options = {"device": self._pipe._execution_device, "num_images_per_prompt": 1}
        with torch.no_grad():
            if negative:
                said = {"negative_prompt": None if text is None else [text], "do_classifier_free_guidance": True}
                answer = self._pipe.encode_prompt(prompt=None, **said, **self._blank(), **options)[1::2]
            else:
                answer = self._pipe.encode_prompt(prompt=text, do_classifier_free_guidance=False, **options)[0::2]
        return {name: rows[0] for name, rows in zip(("context", "pooled"), answer, strict=False)}

    def _blank(self) -> dict[str, Tensor]:
        """The embedding of no prompt, beside which a negative one is encoded: only its shape is looked at."""
        device, dtype = self._pipe._execution_device, parameter_dtype(self.encoders[-1])
        width = self._pipe.unet.config.cross_attention_dim
        shape = (1, self._tokenizer.model_max_length, width if isinstance(width, int) else width[0])
        blank = {"prompt_embeds": torch.zeros(shape, device=device, dtype=dtype)}
        pooling = getattr(self._pipe, "text_encoder_2", None)
        if pooling is not None:
            blank["pooled_prompt_embeds"] = torch.zeros(1, pooling.config.projection_dim, device=device, dtype=dtype)
        return blank


def _marks(encoders: list[nn.Module], tokenizer: Any) -> Iterator[object]:
    """What is another after a change of the text encoders."""
    yield len(tokenizer)
    for encoder in encoders:
        for module in encoder.modules():
            yield from _adapters(module)
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None:
                    yield id(tensor), tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


def _adapters(module: Any) -> Iterator[object]:
    """The state of a layer that peft has put adapters into, as far as it is no tensor."""
    scaling = getattr(module, "scaling", None)
    if isinstance(scaling, Mapping):
        state = (getattr(module, name, None) for name in ("active_adapters", "merged_adapters", "disable_adapters"))
        yield str([*scaling.items(), *state])
