"""From another code base's tensor names to ours: which tensors of a file make up each of our parameters."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from fewstep.models.net.blocks import SelfAttention
from fewstep.models.net.unet import UNet


@dataclass(frozen=True)
class Piece:
    """A tensor of a file that fills some rows of one of our parameters."""

    name: str
    shape: tuple[int, ...]
    heads: int = 1
    order: "Order" = "kind"

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape can be the piece; a linear layer may come as a 1x1 convolution."""
        rank = len(self.shape)
        return shape[:rank] == self.shape and (rank == 2 or len(shape) == rank) and set(shape[rank:]) <= {1}

    def ordered(self, tensor: Tensor) -> Tensor:
        """The tensor in our shape and our order of rows."""
        if self.order == "kind":
            return tensor.reshape(self.shape)
        if self.order == "head":
            return tensor.reshape(self.heads, 3, -1, *self.shape[1:]).transpose(0, 1).reshape(self.shape)
        return tensor.reshape(self.heads, -1, 3, *self.shape[1:]).movedim(2, 0).reshape(self.shape)

    def ordered_rows(self, tensor: Tensor) -> Tensor:
        """The rows of a tensor [rows, ...], whatever its other sizes, in our order."""
        if self.order == "kind":
            return tensor
        order = replace(self, shape=self.shape[:1]).ordered(torch.arange(len(tensor)))
        return tensor[order.to(tensor.device)]


# The rows of q, k and v in one tensor: all of q, of k, of v, as ours are; or so for each head, or each channel of it.
Order = Literal["kind", "head", "channel"]
Keys = dict[str, tuple[Piece, ...]]  # our parameter -> its pieces, one below the other
Joins = Mapping[str, Callable[[list[Tensor]], Tensor]]  # our parameter -> how its pieces make it, where it is otherwise


@dataclass(frozen=True)
class Naming:
    """How a code base names what a U-Net is made of."""

    places: Mapping[str, str]  # our module -> theirs: every residual block, attention and resampling, and the rest
    layers: Mapping[str, str]  # our layer within such a module -> theirs
    projection: str  # the layer within a residual block that projects the embedding; ours are packed into one
    qkv: tuple[str, ...]  # the layers of an attention that make q, k and v; ours are packed into one
    qkv_order: Order = "kind"
    kv: tuple[str, ...] = ()  # the layers of a cross-attention that make k and v; ours are packed into one

    def keys(self, unet: UNet) -> Keys:
        """The pieces of every parameter of `unet`, which may be on the meta device."""
        return {name: self._pieces(unet, name, tuple(tensor.shape)) for name, tensor in unet.named_parameters()}

    def known_keys(self, unet: UNet) -> Keys:
        """Those of the parameters that the code base has a name for: a config may say layers that it lacks."""
        known: Keys = {}
        for name, tensor in unet.named_parameters():
            with suppress(KeyError):
                known[name] = self._pieces(unet, name, tuple(tensor.shape))
        return known

    def _pieces(self, unet: UNet, name: str, shape: tuple[int, ...]) -> tuple[Piece, ...]:
        module, _, kind = name.rpartition(".")
        parent, _, layer = module.rpartition(".")
        if module == "project":
            return tuple(
                Piece(
                    f"{self.places[block_name]}.{self.projection}.{kind}",
                    (block.modulation_width, *shape[1:]),
                )
                for block_name, block in unet.residual_blocks().items()
            )
        if layer in ("qkv", "kv"):
            packed, attention = self.qkv if layer == "qkv" else self.kv, unet.get_submodule(parent)
            heads = attention.heads if isinstance(attention, SelfAttention) else 1
            rows = (shape[0] // len(packed), *shape[1:])
            return tuple(
                Piece(f"{self.places[parent]}.{theirs}.{kind}", rows, heads, self.qkv_order) for theirs in packed
            )
        if module == "time.features":
            return (Piece(f"{self.places[module]}.weight", shape),)
        theirs = self.places.get(module) or f"{self.places[parent]}.{self.layers[layer]}"
        return (Piece(f"{theirs}.{kind}", shape),)


def own_keys(unet: UNet) -> Keys:
    """Our own names: each parameter is its own and only piece."""
    return {name: (Piece(name, tuple(tensor.shape)),) for name, tensor in unet.named_parameters()}
