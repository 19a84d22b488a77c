"""Weights inside something else: what wrappers put before a network's names, and the checkpoint it is a part of."""

from collections.abc import Collection, Mapping
from typing import Final

from torch import Tensor

from fewstep.errors import ModelError, some_of
from fewstep.fields import shown
from fewstep.models.layouts.foreign import what_it_is
from fewstep.models.safe_load import TensorSource

MAX_NAMED: Final = 4  # prefixes that a message lists


class Beneath:
    """The tensors of a source whose names begin with a prefix, without it."""

    def __init__(self, source: TensorSource, prefix: str) -> None:
        self.path, self._source, self._prefix = source.path, source, prefix
        self.shapes: Mapping[str, tuple[int, ...]] = {
            name.removeprefix(prefix): shape for name, shape in source.shapes.items() if name.startswith(prefix)
        }

    def read(self, name: str) -> Tensor:
        """The tensor, on the CPU, in the file's dtype."""
        return self._source.read(self._prefix + name)


def unwrapped(source: TensorSource, names: Collection[str]) -> TensorSource:
    """The source as if it held nothing but a network with tensors of these names.

    Wrappers put a prefix before every name (DataParallel "module.", torch.compile "_orig_mod.", a latent diffusion
    model "model.diffusion_model.", a training script "state_dict." or "ema."): the prefix beneath which all names are
    found is taken away, with all that lies elsewhere. A source that needs none of it is returned as it is.

    Raises:
        ModelError: the network is there several times, or only parts of several.
    """
    missing = [name for name in names if name not in source.shapes]
    if not missing:
        return source
    first = missing[0]
    ends = "." + first
    prefixes = sorted(name.removesuffix(first) for name in source.shapes if name.endswith(ends))
    if len(missing) < len(names):
        if prefixes:
            there = shown(prefixes[0] + first)
            raise ModelError(
                f"{source.path}: tensor {shown(first)} is missing; there is {there}, while others have no prefix"
            )
        return source
    whole = [prefix for prefix in prefixes if all(prefix + name in source.shapes for name in names)]
    if len(whole) > 1:
        times = f"{len(whole)} times, as {_listed(whole)}"
        raise ModelError(f"{source.path}: holds the network {times}; allowed: one of them alone")
    if not whole and len(prefixes) > 1:
        raise ModelError(f"{source.path}: holds parts of networks as {_listed(prefixes)}; allowed: a whole one")
    chosen = whole or prefixes
    if not chosen:
        holds = f"the file's first is {shown(next(iter(source.shapes)))}" if source.shapes else "the file holds none"
        if what := what_it_is(source.shapes):
            holds = f"the file is {what}"
        raise ModelError(f"{source.path}: tensor {shown(first)} is missing; {holds}")
    return Beneath(source, chosen[0])


def _listed(prefixes: list[str]) -> str:
    return some_of([shown(prefix) for prefix in prefixes], MAX_NAMED)
