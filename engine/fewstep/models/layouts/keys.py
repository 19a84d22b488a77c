"""From another code base's tensor names to ours: which tensors of a file make up each of our parameters."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fewstep.models.net.blocks import SelfAttention
from fewstep.models.net.unet import UNet


@dataclass(frozen=True)
class Piece:
    """A tensor of a file that fills some rows of one of our parameters."""

    name: str
    shape: tuple[int, ...]
    heads: int = 1  # more than one: rows come as q, k, v of head 0, then of head 1, ...; ours are all q, all k, all v

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape can be the piece; a linear layer may come as a 1x1 convolution."""
        rank = len(self.shape)
        return shape[:rank] == self.shape and (rank == 2 or len(shape) == rank) and set(shape[rank:]) <= {1}

    def ordered(self, tensor: Tensor) -> Tensor:
        """The tensor in our shape and our order of rows."""
        if self.heads == 1:
            return tensor.reshape(self.shape)
        by_head = tensor.reshape(self.heads, 3, -1, *self.shape[1:])
        return by_head.transpose(0, 1).reshape(self.shape)


Keys = dict[str, tuple[Piece, ...]]  # our parameter -> its pieces, one below the other


@dataclass(frozen=True)
class Naming:
    """How a code base names what a U-Net is made of."""

    places: Mapping[str, str]  # our module -> theirs: every residual block, attention and resampling, and the rest
    layers: Mapping[str, str]  # our layer within such a module -> theirs
    projection: str  # the layer within a residual block that projects the embedding; ours are packed into one
    qkv: tuple[str, ...]  # the layers of an attention that make q, k and v; ours are packed into one
    qkv_by_head: bool = False

    def keys(self, unet: UNet) -> Keys:
        """The pieces of every parameter of `unet`, which may be on the meta device."""
        return {name: self._pieces(unet, name, tuple(tensor.shape)) for name, tensor in unet.named_parameters()}

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
        if layer == "qkv":
            attention = unet.get_submodule(parent)
            heads = attention.heads if self.qkv_by_head and isinstance(attention, SelfAttention) else 1
            rows = (shape[0] // len(self.qkv), *shape[1:])
            return tuple(Piece(f"{self.places[parent]}.{theirs}.{kind}", rows, heads) for theirs in self.qkv)
        if module == "time.features":
            return (Piece(f"{self.places[module]}.weight", shape),)
        theirs = self.places.get(module) or f"{self.places[parent]}.{self.layers[layer]}"
        return (Piece(f"{theirs}.{kind}", shape),)


def own_keys(unet: UNet) -> Keys:
    """Our own names: each parameter is its own and only piece."""
    return {name: (Piece(name, tuple(tensor.shape)),) for name, tensor in unet.named_parameters()}
