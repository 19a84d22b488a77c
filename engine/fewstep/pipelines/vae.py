"""Autoencoders of diffusers as views that run fused ops: AutoencoderKL, and AutoencoderTiny (TAESD)."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from fewstep.errors import ArgumentError
from fewstep.pipelines.vae_layers import (
    FirstConv,
    LastConv,
    Norm,
    NormSilu,
    PixelAttention,
    ResidualBlock,
    TinyBlock,
)
from fewstep.pipelines.views import shared_view

SUPPORTED = "AutoencoderKL or AutoencoderTiny of diffusers"


def accelerated_vae(vae: nn.Module) -> nn.Module:
    """A view of an autoencoder of diffusers that encodes and decodes the same in fewer launches and passes over memory.

    The view is of the same class, and shares all tensors with `vae`, which stays as it is: see `pipelines.views`. So
    `encode`, `decode`, `.config`, tiling, slicing and a cast to float32 around a decode work as before; answers are
    contiguous.

        AutoencoderKL     each norm is one op with its SiLU and the bias of the convolution before it; the residual is
                          added with the bias of the one behind it; attention is one op; on a GPU channels-last
                          between the first and the last convolution
        AutoencoderTiny   it has no norms: channels-last on a GPU, and the residual is added with the bias

    An attention keeps its processor unless that is one of diffusers' own that only compute it in another way.

    Raises:
        ArgumentError: another module, by its name; or one that `views.shared_view` refuses.
    """
    kind = kind_of(vae)
    classes = dict(_of_kl(vae) if kind == "AutoencoderKL" else _of_tiny(vae))
    view = shared_view(vae, classes, "vae")
    for part in view.modules():
        if _is_pixel_attention(part):
            setattr(part, "processor", PixelAttention())  # noqa: B010  the view's alone: the original keeps its own
    return view


def kind_of(vae: object) -> str:
    """AutoencoderKL or AutoencoderTiny, of which it is one or a subclass.

    Raises:
        ArgumentError: it is neither.
    """
    for cls in type(vae).__mro__:
        if cls.__module__.startswith("diffusers.") and cls.__name__ in ("AutoencoderKL", "AutoencoderTiny"):
            return cls.__name__
    raise ArgumentError("vae", type(vae).__name__, SUPPORTED)


Classes = Iterator[tuple[nn.Module, type[nn.Module]]]


def _of_kl(vae: nn.Module) -> Classes:
    """The modules of an AutoencoderKL that run code of ours, and their classes."""
    from diffusers.models.autoencoders.vae import Decoder, Encoder
    from diffusers.models.resnet import ResnetBlock2D

    part: Any
    for part in vae.modules():
        if isinstance(part, (Encoder, Decoder)):
            yield from _norm_and_activation(part.conv_norm_out, part.conv_act)
            yield from _channels_last(part.conv_in, part.conv_out)
        elif type(part) is ResnetBlock2D and _is_without_time(part):
            yield part, ResidualBlock
            yield from _norm_and_activation(part.norm1, part.nonlinearity)
            yield from _norm_and_activation(part.norm2, part.nonlinearity)
        elif _is_pixel_attention(part):
            yield part.group_norm, Norm


def _of_tiny(vae: nn.Module) -> Classes:
    """The modules of an AutoencoderTiny that run code of ours, and their classes."""
    from diffusers.models.autoencoders.vae import DecoderTiny, EncoderTiny
    from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock

    for part in vae.modules():
        if isinstance(part, (EncoderTiny, DecoderTiny)):
            yield from _channels_last(part.layers[0], part.layers[-1])
        elif type(part) is AutoencoderTinyBlock:
            yield part, TinyBlock


def _norm_and_activation(norm: nn.Module, activation: nn.Module) -> Classes:
    if type(norm) is not nn.GroupNorm:
        return
    if type(activation) is nn.SiLU:
        yield norm, NormSilu
        yield activation, nn.Identity
    else:
        yield norm, Norm


def _channels_last(first: nn.Module, last: nn.Module) -> Classes:
    if type(first) is nn.Conv2d and type(last) is nn.Conv2d:
        yield first, FirstConv
        yield last, LastConv


def _is_without_time(block: Any) -> bool:
    """Whether a ResnetBlock2D is what `ResidualBlock` computes, as those of an autoencoder are."""
    plain = block.time_emb_proj is None and block.time_embedding_norm in ("default", "group")
    norms = all(type(norm) is nn.GroupNorm and norm.affine for norm in (block.norm1, block.norm2))
    return plain and norms and block.upsample is None and block.downsample is None


def _is_pixel_attention(part: Any) -> bool:
    """Whether it is an Attention that `PixelAttention` computes, with a processor that it may take the place of."""
    from diffusers.models import attention_processor as processors

    replaced = (
        processors.AttnProcessor,
        processors.AttnProcessor2_0,
        processors.SlicedAttnProcessor,
        processors.XFormersAttnProcessor,
    )
    if not isinstance(part, processors.Attention) or type(part.processor) not in replaced:
        return False
    further = (part.spatial_norm, part.norm_q, part.norm_k, part.added_kv_proj_dim)
    alone = all(each is None for each in further) and not part.is_cross_attention
    return alone and isinstance(part.group_norm, nn.GroupNorm)
