"""What the steps of one run share: made of its conditioning once, and kept while that stays the same tensors."""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.errors import ArgumentError
from fewstep.models.net.conditional import ConditionalUNet


@dataclass(frozen=True)
class Conditioning:
    """What a call of a UNet2DConditionModel is given beside the image and its time.

    Attributes:
        context: encoder_hidden_states, [B, L, W].
        scale: timestep_cond, [B, channels], the sinusoid of the guidance scale.
        labels: class_labels, [B], or [B, W] a vector in their place.
        pooled: text_embeds of added_cond_kwargs, [B, P].
        sizes: time_ids of added_cond_kwargs, [B, n].
    """

    context: Tensor | None
    scale: Tensor | None
    labels: Tensor | None
    pooled: Tensor | None
    sizes: Tensor | None

    def tensors(self) -> list[Tensor | None]:
        """All of them, in their order."""
        return [self.context, self.scale, self.labels, self.pooled, self.sizes]


@dataclass(frozen=True)
class Steady:
    """What does not depend on x and t.

        e = time(t, beside) + added         beside = linear(scale), added = label(labels) + added(pooled, sizes)

    Attributes:
        kv: the keys and values of each cross-attention, [B, 2, H, L, D].
        beside: [B, width] or None, what the guidance scale adds to the features of t.
        added: each [B, embed_width], what labels, and pooled text with sizes, add to the embedding of t.
    """

    kv: Sequence[Tensor]
    beside: Tensor | None
    added: Sequence[Tensor]

    @classmethod
    def of(cls, network: ConditionalUNet, given: Conditioning) -> "Steady":
        """By the network's own layers. ArgumentError for a width that it does not take."""
        features = network.guidance_features
        beside = None if features is None or given.scale is None else features(given.scale)
        added = [] if network.label is None else [network.label(given.labels)]
        if network.added is not None:
            if given.pooled is None or given.sizes is None:
                raise ArgumentError("added_cond_kwargs", "no text_embeds or no time_ids", "both: the U-Net takes them")
            added.append(network.added.of(given.pooled, given.sizes))
        return cls(network.keys_and_values(given.context), beside, added)

    def modulation(self, network: ConditionalUNet, t: Tensor) -> Tensor:
        """t [B] -> [B, M], what the residual blocks take."""
        embedding = network.time(t, label=self.beside)
        for each in self.added:
            embedding = embedding + each
        return network.modulated(embedding)


class Kept:
    """The `Steady` of the last conditioning, for as long as that and the weights it was made with are the same.

    The same is: the same tensors over the same memory, which are held by weak references alone, and nothing written
    into one of them since, nor into the weights, as torch counts it. Tensors of inference mode are not counted, and
    those that ask for a gradient have a graph behind them, so of such nothing is kept. `drop` forgets what is kept, for
    whoever writes past that count: through `.data`, through a numpy array's memory, or as torch's fused optimizers.
    """

    def __init__(self) -> None:
        self.drop()

    def drop(self) -> None:
        """Forget: the next call makes it anew."""
        self._entry: tuple[list[weakref.ref[Tensor] | None], tuple[object, ...], Steady] | None = None

    def of(self, network: ConditionalUNet, given: Conditioning, weights: Sequence[Tensor]) -> Steady:
        """What is kept, or else made now and kept.

        Args:
            network: whose layers make it.
            given: of this call.
            weights: every tensor that the layers, or those they share their memory with, may be written through.
        """
        tensors = given.tensors()
        counted = [each for each in tensors if each is not None] + [*weights]
        if any(each.is_inference() for each in counted) or _needs_gradient(tensors):
            self.drop()
            return Steady.of(network, given)
        kind = network.conv_in.weight.device.type
        cast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        places = [(each.data_ptr(), each.shape, each.stride()) for each in tensors if each is not None]
        state = (torch.is_inference_mode_enabled(), cast, places, [each._version for each in counted])
        entry = self._entry
        if entry is not None and entry[1] == state and all(map(_is, entry[0], tensors)):
            return entry[2]
        self.drop()
        steady = Steady.of(network, given)
        self._entry = ([None if each is None else weakref.ref(each) for each in tensors], state, steady)
        return steady


def _is(kept: "weakref.ref[Tensor] | None", tensor: Tensor | None) -> bool:
    return tensor is None if kept is None else kept() is tensor and tensor is not None


def _needs_gradient(tensors: Sequence[Tensor | None]) -> bool:
    return torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in tensors)
