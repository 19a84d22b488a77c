"""The part of an engine that changes its network's weights: LoRA files in, out and in other shares."""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from fewstep.callers import outside
from fewstep.errors import ArgumentError, UnusedPartWarning
from fewstep.models.lora.adapters import Adapters, Loaded
from fewstep.models.lora.read import Lora, read_lora
from fewstep.models.model import Model
from fewstep.pipelines.prompts import PromptEncoder
from fewstep.run.weights_lock import WeightsLock


class Adapting:
    """LoRA adapters of an engine's network, merged into its weights where they lie.

    A change waits until no session is open. No tensor moves, so captured graphs are replayed as before, with the new
    weights. Where the engine runs a view of its caller's module (see `Engine`), that module has the same weights and is
    changed with it, as is every other engine on it: give the engine a `copy.deepcopy` where that is not wanted.
    """

    model: Model
    module: nn.Module
    _lock: WeightsLock
    _adapters: Adapters | None = None
    _watching: tuple[Callable[[], object], ...] = ()

    @property
    def loras(self) -> dict[str, float]:
        """The weight of each adapter by name, in the order in which they were loaded."""
        with self._lock:
            return {} if self._adapters is None else self._adapters.weights

    def load_lora(
        self, source: str | os.PathLike[str] | Mapping[str, Tensor] | Lora, name: str | None = None, weight: float = 1.0
    ) -> Loaded:
        """Merge a LoRA into the weights; what it was found to be.

        W = W_0 + weight * (alpha / r) * up @ down for every layer in the file, which may be PEFT's, diffusers' or
        kohya's. W_0 is kept beside W, which takes as many bytes as those layers.

        Args:
            source: a .safetensors file, a folder with one, or a dict of such tensors.
            name: of the adapter, for `set_lora` and `unload_lora`; the file's unless given.
            weight: how much of it. At 0 it is only made ready.

        Raises:
            ModelError: a file that cannot be read, or is for another model: it names the layers. Nothing has changed.
            ArgumentError: a name that is taken, a weight that is no finite number, or a session that this thread has
                open, for which it would wait for ever.

        Warns:
            UnusedPartWarning: the file has parts for text encoders, and the engine is of no pipeline: they are applied
                to nothing. Those of a pipeline (`Engine.from_pipeline`) are changed with its U-Net.
        """
        lora = read_lora(source)
        with self._changing() as adapters:
            loaded = adapters.load(lora, name, weight)
        if loaded.unused:
            parts = " and ".join(f"{part} ({count} layers)" for part, count in loaded.unused.items())
            warnings.warn(f"{lora.where}: {parts}: applied to nothing", UnusedPartWarning, stacklevel=outside())
        return loaded

    def set_lora(self, weights: Mapping[str, float]) -> None:
        """Give adapters other weights, all in one change: {"a": 0, "b": 1} swaps b in for a. Others keep theirs.

        Raises:
            ArgumentError: an unknown name, a weight that is no finite number, or a session that this thread has open.
        """
        with self._changing() as adapters:
            adapters.set(weights)

    def unload_lora(self, name: str | None = None) -> None:
        """Take an adapter out, or all of them. With the last, the weights are what they were, bit for bit.

        Raises:
            ArgumentError: an unknown name, or a session that this thread has open.
        """
        with self._changing() as adapters:
            adapters.unload(name)

    def when_weights_change(self, forget: Callable[[], object]) -> None:
        """Have a function called after each change: it drops what its owner has computed from the weights and kept."""
        if not callable(forget):
            raise ArgumentError("forget", forget, "a function without arguments")
        self._watching = (*self._watching, forget)

    def _new_adapters(self) -> Adapters:
        encode = getattr(self.model.conditions, "encode", None)
        return Adapters(self.module, text_encoders=encode.named_encoders if isinstance(encode, PromptEncoder) else {})

    @contextmanager
    def _changing(self) -> Iterator[Adapters]:
        with self._lock.changing():
            if self._adapters is None:
                self._adapters = self._new_adapters()
            try:
                yield self._adapters
            finally:
                for forget in self._watching:
                    forget()
