"""The U-Net: what all have in common, and those of the pixel DDPM / ADM family."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fewstep.errors import ArgumentError
from fewstep.models.net.blocks import GroupNorm, ResidualBlock, SelfAttention, activated
from fewstep.models.net.config import UNetConfig
from fewstep.models.net.embeddings import TimeEmbedding, guidance_embedding, label_embedding, second_embedding
from fewstep.models.net.levels import NOTHING, DownLevel, UpLevel
from fewstep.models.net.residuals import Residuals
from fewstep.models.net.transformer import SpatialTransformer


class UNet(nn.Module):
    """Predicts what its training asked for (eps, x_0, v, ...) from a noisy image and its time.

        e          = time(t) + label(labels) + guidance(guidance) + second(r)      those that the model has
        modulation = project(act(e)), the columns of all residual blocks side by side
        image      = conv_out(up(mid(down(conv_in(x), modulation), modulation), modulation))

    The topology is that of ADM (Dhariwal and Nichol 2021) and diffusers' UNet2DModel; fields of the config make it that
    of DDPM++ and NCSN++ (Song et al. 2021; Karras et al. 2022). It works in channels-last memory, whatever the
    input's. Nothing looks at values on the host, so a CUDA graph or `torch.compile(fullgraph=True)` takes it whole. One
    with a second time is a `FlowMapUNet`, one with cross-attention a `ConditionalUNet`: see `net.build`.
    """

    conditional = False  # whether its call takes a context

    def __init__(self, config: UNetConfig) -> None:
        if config.second_time is not None and not isinstance(self, FlowMapUNet):
            raise ArgumentError("second_time", config.second_time, "None, or a FlowMapUNet, whose call takes r")
        if config.condition is not None and not self.conditional:
            raise ArgumentError(
                "condition", "a ConditionConfig", "None, or a ConditionalUNet, whose call takes a context"
            )
        super().__init__()
        self.config = config
        channels = config.channels
        self.time = TimeEmbedding(config, joined=config.second_time == "joined")
        self.label = label_embedding(config, self.time.width)
        self.conv_in = nn.Conv2d(config.in_channels, config.stem_width, 3, padding=1)
        entering = [config.stem_width, *channels[:-1]]
        self.down = nn.ModuleList(DownLevel(config, level, width) for level, width in enumerate(entering))
        coarsest = channels[-1]
        if config.mid_block:
            self.mid_1 = ResidualBlock(config, coarsest, coarsest, divisor=config.mid_scale)
            self.mid_attention = (
                SelfAttention(config, coarsest, config.mid_attention_groups, config.mid_scale)
                if config.mid_attention
                else nn.Identity()
            )
            self.mid_transformer: SpatialTransformer | None = None
            if config.condition is not None and config.condition.mid:
                groups, last = config.groups_of(coarsest), config.levels - 1
                self.mid_transformer = SpatialTransformer(
                    config.condition, last, coarsest, groups, config.condition.mid, in_middle=True
                )
            self.mid_2 = ResidualBlock(config, coarsest, coarsest, divisor=config.mid_scale)
        kept = config.kept
        self.up = nn.ModuleList(  # coarsest first, in the order in which they run
            UpLevel(config, level, channels[min(level + 1, config.levels - 1)], kept)
            for level in reversed(range(config.levels))
        )
        outer = config.outer_activation
        self.norm_out = GroupNorm(channels[0], config.groups_of(channels[0]), config.eps, outer)
        self.conv_out = nn.Conv2d(channels[0], config.out_channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        self.project = nn.Linear(config.embed_width, self._pack())
        # The last two, so that a seed gives the rest the weights it gives without them.
        self.guidance = guidance_embedding(config)
        self.second = second_embedding(config)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _pack(self) -> int:
        """Give each residual block its columns of the modulation; the number of columns."""
        start = 0
        for block in self.residual_blocks().values():
            block.modulation_start = start
            start += block.modulation_width
        return start

    def residual_blocks(self) -> dict[str, ResidualBlock]:
        """Every residual block by name, in the order in which they run and the modulation packs them."""
        return {name: module for name, module in self.named_modules() if isinstance(module, ResidualBlock)}

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights and of the prediction."""
        return self.conv_in.weight.dtype

    def modulation(
        self,
        t: Tensor,  # [B] of any real dtype, as all below
        labels: Tensor | None = None,
        guidance: Tensor | None = None,
        r: Tensor | None = None,  # t itself, where the model has a second time
    ) -> Tensor:  # [B, M]
        """What the residual blocks take from t, labels, guidance and r; the image has no part in it.

        Raises ArgumentError where labels or guidance are missing, or where any of these is given to a model without.
        """
        check_condition("labels", labels, "labels", self.label)
        check_condition("guidance", guidance, "guidance input", self.guidance)
        if self.config.second_time is None and r is not None:
            raise ArgumentError("r", "a tensor", "None: the model has no second time")
        r = t if r is None else r
        label = None if self.label is None else self.label(labels)
        if self.config.label_place == "features":
            embedding = self.time(t, r, label)
        else:
            embedding = self.time(t, r) if label is None else self.time(t, r) + label
        if self.guidance is not None:
            embedding = embedding + self.guidance(guidance)
        if self.second is not None:
            embedding = embedding + self.second(r)
        return self.modulated(embedding)

    def modulated(self, embedding: Tensor) -> Tensor:
        """The embedding e [B, embed_width] as all residual blocks take it, [B, M]: project(act(e))."""
        result: Tensor = self.project(activated(embedding, self.config.activation))
        return result

    def forward(
        self,
        x: Tensor,  # [B, C_in, H, W]
        t: Tensor,  # [B] of any real dtype
        labels: Tensor | None = None,  # [B] integer classes, or floats for a continuous label
        modulation: Tensor | None = None,  # [B, M], where `modulation(t, labels, guidance)` is already known
        guidance: Tensor | None = None,  # [B] of any real dtype: the guidance scale, where it is an input
    ) -> Tensor:  # [B, C_out, H, W] in the weights' dtype
        """The prediction. Raises ArgumentError on a shape that the U-Net does not take."""
        self._check(x, t)
        if modulation is None:
            modulation = self.modulation(t, labels, guidance)
        prediction = self.predict(x, modulation)
        if self.config.time_embedding == "fourier":
            prediction = prediction / t.to(prediction.dtype)[:, None, None, None]
        return prediction

    def predict(
        self,
        x: Tensor,  # [B, C_in, H, W]
        modulation: Tensor,  # [B, M]
        kv: Sequence[Tensor] = NOTHING,  # each [B, 2, H, Lk, D]: the keys and values of every cross-attention, in order
        residuals: Residuals | None = None,  # what a ControlNet adds
    ) -> Tensor:  # [B, C_out, H, W]
        """conv_out(up(mid(down(conv_in(x))))), steered by what has been made of the condition."""
        image = x.to(self.dtype, memory_format=torch.channels_last)
        image = 2 * image - 1 if self.config.center_input else image
        h, entered = self.conv_in(image), image
        kept = [h]
        for level in self.down:
            h = entered = level(h, modulation, kept, entered, kv)
        if residuals is not None:
            kept = residuals.added_to(kept)
        if self.config.mid_block:
            h = self.mid_attention(self.mid_1(h, modulation))
            h = self.mid_2(h if self.mid_transformer is None else self.mid_transformer(h, kv), modulation)
        if residuals is not None:
            h = h + residuals.mid
        for level in self.up:
            h = level(h, modulation, kept, kv)
        prediction: Tensor = self.conv_out(self.norm_out(h))
        return prediction

    def _check(self, x: Tensor, t: Tensor) -> None:
        channels, multiple = self.config.in_channels, self.config.size_multiple
        if x.ndim != 4 or x.shape[1] != channels or x.shape[2] % multiple or x.shape[3] % multiple:
            allowed = f"[B, {channels}, H, W] with H and W multiples of {multiple}"
            raise ArgumentError("x", list(x.shape), allowed)
        if t.shape != x.shape[:1]:
            raise ArgumentError("t", list(t.shape), f"[{x.shape[0]}], one for each image")


class FlowMapUNet(UNet):
    """A U-Net with a second time: u(x_t, t, r), as x_r = x_t - (t - r) u (Geng et al., Mean Flows, 2505.13447)."""

    def forward(
        self,
        x: Tensor,  # [B, C_in, H, W]
        t: Tensor,  # [B] of any real dtype
        labels: Tensor | None = None,  # as of a `UNet`
        modulation: Tensor | None = None,  # [B, M], where `modulation(t, labels, guidance, r)` is already known
        guidance: Tensor | None = None,  # as of a `UNet`
        r: Tensor | None = None,  # [B], counted as t is; None: t itself, for the instantaneous velocity u(x_t, t, t)
    ) -> Tensor:  # [B, C_out, H, W] in the weights' dtype
        """The prediction. Raises ArgumentError on a shape that the U-Net does not take."""
        if r is not None and r.shape != t.shape:
            raise ArgumentError("r", list(r.shape), f"{list(t.shape)}, one for each t")
        if modulation is None:
            self._check(x, t)
            modulation = self.modulation(t, labels, guidance, r)
        return super().forward(x, t, modulation=modulation)


def check_condition(name: str, given: Tensor | None, what: str, embedding: nn.Module | None) -> None:
    """ArgumentError where what a model has an embedding for is missing, or is given to a model without."""
    if (given is None) != (embedding is None):
        allowed = f"None: the model has no {what}" if embedding is None else f"a tensor [B]: the model has {what}"
        raise ArgumentError(name, None if given is None else "a tensor", allowed)


def kept_numbers(config: UNetConfig, height: int, width: int) -> int:
    """How many numbers the way down keeps of one image for the way up: all of them are there at once in the middle."""
    total, places = config.stem_width * height * width, height * width
    for level, channels in enumerate(config.channels):
        total += config.layers * channels * places
        if level < config.levels - 1:
            places //= 4
            total += channels * places
    return total


def count_parameters(module: nn.Module) -> int:
    """Numbers in all parameters, from shapes alone."""
    return sum(parameter.numel() for parameter in module.parameters())
