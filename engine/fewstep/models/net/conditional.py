"""The U-Net of Stable Diffusion: conditioned by concatenation, by cross-attention and by modulation."""

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from fewstep.errors import ArgumentError
from fewstep.models.net.condition_config import ConditionConfig
from fewstep.models.net.config import UNetConfig
from fewstep.models.net.embeddings import AddedEmbedding, GuidanceFeatures
from fewstep.models.net.residuals import Residuals
from fewstep.models.net.transformer import SpatialTransformer
from fewstep.models.net.unet import UNet, check_condition

MAX_TABLE: Final = 64  # times whose modulation is made ahead; a longer plan's is made in each step
MODULATIONS, TIMES = "modulations", "times"
STEERING: Final = ("labels", "pooled", "sizes", "guidance")


class ConditionalUNet(UNet):
    """A U-Net that is told what to draw, in the three ways that there are:

        concatenation      image = [x, concat]                                           along the channels
        cross-attention    h    += attention(q(h), k(context), v(context))               in each transformer block
        modulation         e     = time(t, guidance) + label(labels) + added(pooled, sizes)    for each residual block

    Rombach et al. 2022 (2112.10752): Stable Diffusion 1 and 2; Podell et al. 2023 (2307.01952): SDXL; and what has been
    distilled from them. The topology is that of diffusers' UNet2DConditionModel.

    Only x and t change from step to step. `prepare_condition` makes the keys and values of every cross-attention, and
    the modulation at every time of a plan, so that no step multiplies a matrix by what does not depend on x.
    """

    conditional = True

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        own = self.condition
        self.context_in = None if own.context_input is None else nn.Linear(own.context_input, own.context_width)
        self.added = None if own.added_width is None else AddedEmbedding(config, own)
        width = own.guidance_channels
        self.guidance_features = None if width is None else GuidanceFeatures(width, self.time.width)
        for block in self.residual_blocks().values():
            block.bias_in_modulation = not config.scale_shift
        self.cross_attentions = 0  # how many there are
        for transformer in self.transformers().values():
            transformer.kv_start = self.cross_attentions
            self.cross_attentions += len(transformer.cross_attentions())

    @property
    def condition(self) -> ConditionConfig:
        """Its part of the config."""
        assert self.config.condition is not None
        return self.config.condition

    def transformers(self) -> dict[str, SpatialTransformer]:
        """Every transformer by name, in the order in which they run."""
        return {name: module for name, module in self.named_modules() if isinstance(module, SpatialTransformer)}

    def keys_and_values(self, context: Tensor | None) -> list[Tensor]:
        """The context [B, L, W] as each cross-attention takes it, [B, 2, H, L, D], in the order in which they run.

        Raises:
            ArgumentError: a context that is missing, or is not as wide as this model's.
        """
        if not self.cross_attentions:
            return []
        width = self.condition.given_width
        if context is None or context.ndim != 3 or context.shape[2] != width or context.shape[1] == 0:
            given = None if context is None else list(context.shape)
            raise ArgumentError("context", given, f"[B, L, {width}]: this model's text embeddings are {width} wide")
        context = context.to(self.dtype)
        context = context if self.context_in is None else self.context_in(context)
        return [
            cross.keys_and_values(context)
            for transformer in self.transformers().values()
            for cross in transformer.cross_attentions()
        ]

    def embedding(
        self,
        t: Tensor,  # [B] of any real dtype
        labels: Tensor | None = None,  # [B] integer classes, or [B, W] a vector in their place
        guidance: Tensor | None = None,  # [B] the guidance scale w, or its sinusoid [B, channels]
        pooled: Tensor | None = None,  # [B, P] the pooled text
        sizes: Tensor | None = None,  # [B, n] the sizes and crops, in pixels
    ) -> Tensor:  # [B, embed_width]
        """e = time(t, guidance) + label(labels) + added(pooled, sizes), of those that the model has.

        Raises ArgumentError where labels, pooled or sizes are missing, or one of the four is given to a model without,
        or for another number of images.
        """
        check_condition("labels", labels, "labels", self.label)
        check_condition("pooled", pooled, "pooled text", self.added)
        check_condition("sizes", sizes, "sizes", self.added)
        for name, rows in zip(STEERING, (labels, pooled, sizes, guidance), strict=True):
            if rows is not None and (rows.ndim == 0 or rows.shape[0] not in (1, t.shape[0])):
                raise ArgumentError(name, list(rows.shape), f"[{t.shape[0]}, ...], one for each image")
        if guidance is not None and self.guidance_features is None:
            raise ArgumentError("guidance", "a tensor", "None: the model has no guidance input")
        beside = None if guidance is None or self.guidance_features is None else self.guidance_features(guidance)
        embedding = self.time(t, label=beside)
        if self.label is not None:
            embedding = embedding + self.label(labels)
        if self.added is not None and pooled is not None and sizes is not None:
            embedding = embedding + self.added.of(pooled, sizes)
        result: Tensor = embedding
        return result

    def prepare_condition(self, condition: Mapping[str, Tensor], times: Tensor) -> dict[str, Tensor]:
        """What every step of one sample shares: `forward` takes it, with a row for each lane, beside x and t.

        Args:
            condition: as the arguments of `forward`, each without its batch: context [L, W], pooled [P], and so on.
            times: [N] every t that it will be called with.

        Returns:
            dict: kv_0, kv_1, ... each [2, H, L, D]; modulations [N, M] at `times` [N], for at most 64 of them; and
            what is taken in each step: concat [C', H, W], and for a longer plan what it is modulated by.

        Raises:
            ArgumentError: something that the model does not take, or lacks.
        """
        for name in condition:
            if name not in (*STEERING, "context", "concat"):
                allowed = f"context, concat, {', '.join(STEERING)}"
                raise ArgumentError("condition", name, f"what the network takes for a whole run: {allowed}")
        one = {name: rows[None] for name, rows in condition.items()}
        steering = {name: rows for name, rows in one.items() if name in STEERING}
        prepared = {f"kv_{i}": kv[0] for i, kv in enumerate(self.keys_and_values(one.get("context")))}
        prepared |= {"concat": condition["concat"]} if "concat" in condition else {}
        if len(times) > MAX_TABLE:
            return prepared | {name: condition[name] for name in steering}
        spread = {name: rows.expand(len(times), *rows.shape[1:]) for name, rows in steering.items()}
        return prepared | {MODULATIONS: self.modulation(times, **spread), TIMES: times.clone()}

    def modulation(
        self,
        t: Tensor,  # [B], and the rest as `embedding` takes it
        labels: Tensor | None = None,
        guidance: Tensor | None = None,
        pooled: Tensor | None = None,
        sizes: Tensor | None = None,
    ) -> Tensor:  # [B, M]
        """What the residual blocks take from all that steers them; the image has no part in it."""
        return self.modulated(self.embedding(t, labels, guidance, pooled, sizes))

    def modulated(self, embedding: Tensor) -> Tensor:
        """project(act(e)) [B, M], and what each block adds to conv_1 besides: its bias, where both are added there.

        On a GPU the bias of a convolution is a launch of its own, which each of the blocks then goes without.
        """
        modulation = super().modulated(embedding)
        if self.config.scale_shift:
            return modulation
        return modulation + torch.cat([block.conv_1.get_parameter("bias") for block in self.residual_blocks().values()])

    def forward(  # type: ignore[override]
        self,
        x: Tensor,  # [B, C, H, W]
        t: Tensor,  # [B] of any real dtype
        concat: Tensor | None = None,  # [B, C_in - C, H, W] further input channels: a mask, a masked image, an image
        context: Tensor | None = None,  # [B, L, W] the text embedding
        labels: Tensor | None = None,  # as `embedding` takes it, and so the next three
        guidance: Tensor | None = None,
        pooled: Tensor | None = None,
        sizes: Tensor | None = None,
        down_residuals: Sequence[Tensor] | None = None,  # of a ControlNet, each [B, C, H, W]
        mid_residual: Tensor | None = None,  # [B, C, H, W]
        **prepared: Tensor,  # what `prepare_condition` gave, with a row for each lane: then no context, and no steering
    ) -> Tensor:  # [B, C_out, H, W] in the weights' dtype
        """The prediction. Raises ArgumentError on what the U-Net does not take."""
        image = x if concat is None else self._beside(x, concat)
        self._check(image, t)
        kv = [prepared[name] for name in (f"kv_{i}" for i in range(self.cross_attentions)) if name in prepared]
        if not kv:
            kv = self.keys_and_values(context)
        self._check_prepared(prepared, kv, x.shape[0])  # a length would be one number in a graph of any batch
        table, times = prepared.get(MODULATIONS), prepared.get(TIMES)
        if table is None or times is None:
            modulation = self.modulation(t, labels, guidance, pooled, sizes)
        else:
            modulation = _at(t, times, table)
        return self.predict(image, modulation, kv, Residuals.given(down_residuals, mid_residual))

    def _check_prepared(self, prepared: Mapping[str, Tensor], kv: Sequence[Tensor], batch: int) -> None:
        known = {MODULATIONS, TIMES, *(f"kv_{i}" for i in range(self.cross_attentions))}
        if unknown := [name for name in prepared if name not in known]:
            allowed = f"x, t, concat, context, {', '.join(STEERING)}, down_residuals, mid_residual"
            raise ArgumentError("condition", unknown[0], f"what the network's call takes: {allowed}")
        if len(kv) != self.cross_attentions:
            raise ArgumentError(
                "condition", f"{len(kv)} keys and values", f"{self.cross_attentions}, as it prepares them"
            )
        for each in (*kv, *(prepared[name] for name in (MODULATIONS, TIMES) if name in prepared)):
            if each.shape[0] != batch:
                raise ArgumentError("context", f"{each.shape[0]} of them", f"{batch}, one for each image")

    def _beside(self, x: Tensor, concat: Tensor) -> Tensor:
        if x.ndim != 4 or concat.ndim != 4 or (x.shape[0], *x.shape[2:]) != (concat.shape[0], *concat.shape[2:]):
            raise ArgumentError(
                "concat", list(concat.shape), f"as many channels as there are, beside x {list(x.shape)}"
            )
        return torch.cat([x.to(self.dtype), concat.to(self.dtype)], dim=1)

    def _check(self, x: Tensor, t: Tensor) -> None:
        """Sides that are halved to odd ones are taken too: the way up goes by what was kept."""
        channels = self.config.in_channels
        if x.ndim != 4 or x.shape[1] != channels or 0 in x.shape:
            raise ArgumentError("x", list(x.shape), f"[B, {channels}, H, W], further input channels among them")
        if t.shape != x.shape[:1]:
            raise ArgumentError("t", list(t.shape), f"[{x.shape[0]}], one for each image")


def _at(t: Tensor, times: Tensor, table: Tensor) -> Tensor:
    """The row of each lane's table [B, N, M] whose time is t [B]: -> [B, M]; times [B, N]."""
    # Of bools a GPU has no argmax; a comparison writes what it is told to, and a cast would be a launch of its own.
    same = torch.eq(times, t[:, None], out=torch.empty_like(times, dtype=torch.uint8))
    row = same.argmax(1)
    return table.gather(1, row[:, None, None].expand(-1, 1, table.shape[2])).squeeze(1)
