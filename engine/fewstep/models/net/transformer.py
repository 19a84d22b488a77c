"""The transformer behind a residual block of a text-conditioned U-Net (Rombach et al. 2022, 2112.10752, section 3.3).

Tokens are the pixels of an image, [B, L, C] with L = H W: a view of channels-last memory. The sum that a residual adds
up is taken where the next norm reads it, so that a block is eight products of matrices, two attentions and four other
launches.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import fewstep_kernels
from fewstep.models.net.blocks import GroupNorm
from fewstep.models.net.condition_config import ConditionConfig

GROUP_EPS = 1e-6  # of the norm in front, whatever the config says
LAYER_EPS = 1e-5


class LayerNorm(nn.Module):
    """layer_norm(x), or, where something is still to be added to x, that sum and its norm in one pass."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, h: Tensor, to_add: Tensor | None) -> tuple[Tensor, Tensor]:
        """h [B, L, C], to_add [B, L, C] -> h + to_add, and the norm of that."""
        if to_add is None:
            return h, fewstep_kernels.layer_norm(h, self.weight, self.bias, LAYER_EPS)
        return fewstep_kernels.add_layer_norm(to_add, h, self.weight, self.bias, LAYER_EPS)


class TokenAttention(nn.Module):
    """out(attention(q, k, v)) among the tokens of an image; q, k and v are one projection."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.out = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [B, L, C] -> [B, L, C]."""
        B, L, C = tokens.shape
        q, k, v = self.qkv(tokens).view(B, L, 3, self.heads, C // self.heads).unbind(2)
        result: Tensor = self.out(fewstep_kernels.attention(q, k, v).view(B, L, C))
        return result


class CrossAttention(nn.Module):
    """out(attention(q, k, v)), q of the tokens, k and v of the context: those are the same in every step."""

    def __init__(self, channels: int, heads: int, context_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(channels, channels, bias=False)
        self.kv = nn.Linear(context_width, 2 * channels, bias=False)
        self.out = nn.Linear(channels, channels)

    def keys_and_values(self, context: Tensor) -> Tensor:
        """context [B, Lk, W] -> [B, 2, H, Lk, D], laid out for every step that follows."""
        B, L, _ = context.shape
        k, v = self.kv(context).view(B, L, 2, self.heads, -1).unbind(2)
        return fewstep_kernels.lay_out(k, v)

    def forward(self, tokens: Tensor, kv: Tensor) -> Tensor:
        """tokens [B, L, C], kv as `keys_and_values` gives -> [B, L, C]."""
        B, L, C = tokens.shape
        q = self.q(tokens).view(B, L, self.heads, C // self.heads)
        result: Tensor = self.out(fewstep_kernels.attention_laid_out(q, kv).view(B, L, C))
        return result


class TransformerBlock(nn.Module):
    """h += attention(norm_1(h)); h += cross(norm_2(h), context); h += feed_forward(norm_3(h)).

    feed_forward is ff_out(geglu(ff_in(h))) (Shazeer, GLU Variants Improve Transformer, 2002.05202). With `only_cross`
    the first attention looks at the context as well.
    """

    def __init__(self, channels: int, heads: int, context_width: int, only_cross: bool) -> None:
        super().__init__()
        self.norm_1, self.norm_2, self.norm_3 = LayerNorm(channels), LayerNorm(channels), LayerNorm(channels)
        self.attention: TokenAttention | CrossAttention = (
            CrossAttention(channels, heads, context_width) if only_cross else TokenAttention(channels, heads)
        )
        self.cross = CrossAttention(channels, heads, context_width)
        self.ff_in = nn.Linear(channels, 8 * channels)
        self.ff_out = nn.Linear(4 * channels, channels)

    def cross_attentions(self) -> list[CrossAttention]:
        """Those that look at the context, in the order in which they run."""
        return [each for each in (self.attention, self.cross) if isinstance(each, CrossAttention)]

    def forward(self, h: Tensor, to_add: Tensor | None, kv: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """h [B, L, C], what is still to be added to it, and a kv for each of `cross_attentions` -> the same two."""
        h, normed = self.norm_1(h, to_add)
        if isinstance(self.attention, CrossAttention):
            attended = self.attention(normed, kv[0])
        else:
            attended = self.attention(normed)
        h, normed = self.norm_2(h, attended)
        h, normed = self.norm_3(h, self.cross(normed, kv[-1]))
        return h, self.ff_out(fewstep_kernels.geglu(self.ff_in(normed)))


class SpatialTransformer(nn.Module):
    """x + proj_out(blocks(proj_in(norm(x)))). A 1x1 convolution and a linear layer over pixels are the same product."""

    def __init__(
        self, config: ConditionConfig, level: int, channels: int, groups: int, depth: int, in_middle: bool = False
    ) -> None:
        super().__init__()
        only_cross = config.only_cross[level] and not in_middle  # as diffusers: in the middle pixels see each other
        own = (config.heads[level], config.context_width, only_cross)
        self.kv_start = 0  # set by the U-Net: which of its keys and values are this transformer's
        self.norm = GroupNorm(channels, groups, GROUP_EPS, activation=None)
        self.proj_in = nn.Linear(channels, channels)
        self.blocks = nn.ModuleList(TransformerBlock(channels, *own) for _ in range(depth))
        self.proj_out = nn.Linear(channels, channels)

    def cross_attentions(self) -> list[CrossAttention]:
        """Those of all its blocks, in the order in which they run."""
        return [each for block in self.blocks for each in block.cross_attentions()]  # type: ignore[operator]

    def forward(self, x: Tensor, kv: Sequence[Tensor]) -> Tensor:
        """x [B, C, H, W] and the keys and values of the whole U-Net -> [B, C, H, W]."""
        B, C, H, W = x.shape
        h: Tensor = self.proj_in(self.norm(x).permute(0, 2, 3, 1).reshape(B, H * W, C))  # a view: x is channels-last
        to_add, at = None, self.kv_start
        for block in self.blocks:
            count = len(block.cross_attentions())  # type: ignore[operator]
            h, to_add = block(h, to_add, kv[at : at + count])
            at += count
        h = self.proj_out(h if to_add is None else h + to_add)
        return x + h.view(B, H, W, C).permute(0, 3, 1, 2)
