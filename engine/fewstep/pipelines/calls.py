"""Calls of the U-Nets of diffusers: their arguments in order, and those that our networks do not take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from fewstep.errors import ArgumentError, some_of
from fewstep.models.net.conditional import ConditionalUNet
from fewstep.pipelines.steady import Conditioning

# Arguments of UNet2DConditionModel that diffusers' text-to-image pipelines leave alone, and who uses them.
UNTAKEN: Final = {
    "attention_mask": "masks of self-attention are not supported",
    "encoder_attention_mask": "masks of the prompt are not supported: diffusers' pipelines pad without one",
    "cross_attention_kwargs": "attention takes no settings; a LoRA's weight is set by pipe.unet.fewstep_lora",
    "down_intrablock_additional_residuals": "T2I-Adapters are not supported",
}


@dataclass(frozen=True)
class PixelCall:
    """The arguments of UNet2DModel's call, in its order, with its defaults."""

    sample: Tensor
    timestep: Tensor | float | int
    class_labels: Tensor | None = None
    return_dict: bool = True


@dataclass(frozen=True)
class ConditionCall:
    """The arguments of UNet2DConditionModel's call, in its order, with its defaults."""

    sample: Tensor
    timestep: Tensor | float | int
    encoder_hidden_states: Tensor
    class_labels: Tensor | None = None
    timestep_cond: Tensor | None = None
    attention_mask: Tensor | None = None
    cross_attention_kwargs: Mapping[str, Any] | None = None
    added_cond_kwargs: Mapping[str, Any] | None = None
    down_block_additional_residuals: Sequence[Tensor] | None = None
    mid_block_additional_residual: Tensor | None = None
    down_intrablock_additional_residuals: Sequence[Tensor] | None = None
    encoder_attention_mask: Tensor | None = None
    return_dict: bool = True

    def check(self, network: ConditionalUNet) -> None:
        """ArgumentError for what the network does not take, or lacks, by the name that diffusers gives it."""
        for name, why in UNTAKEN.items():
            value = getattr(self, name)
            if value is not None and not (isinstance(value, Mapping | Sequence) and len(value) == 0):
                found = some_of([str(key) for key in value], 3) if isinstance(value, Mapping) else "a tensor"
                raise ArgumentError(name, found, f"None under fewstep.accelerate: {why}")
        channels = network.config.in_channels
        if self.sample.ndim != 4 or self.sample.shape[1] != channels:
            raise ArgumentError("sample", list(self.sample.shape), f"[B, {channels}, H, W]")
        self._check_text(network)
        self._check_steering(network)
        given = (self.down_block_additional_residuals is None, self.mid_block_additional_residual is None)
        if given[0] != given[1]:
            name = ("down_block_additional_residuals", "mid_block_additional_residual")[given[1]]
            allowed = "what a ControlNet gives, both or none: T2I-Adapters are not supported"
            raise ArgumentError(name, None, allowed)

    def _check_text(self, network: ConditionalUNet) -> None:
        if not network.cross_attentions:
            return
        text, width, batch = self.encoder_hidden_states, network.condition.given_width, len(self.sample)
        if not isinstance(text, Tensor):
            kind = "prompt embeddings beside others, as of an IP-Adapter" if isinstance(text, tuple) else text
            raise ArgumentError("encoder_hidden_states", kind, f"a tensor [{batch}, L, {width}]")
        if text.ndim != 3 or text.shape[2] != width or len(text) != batch:
            allowed = f"[{batch}, L, {width}]: this U-Net's prompt embeddings are {width} wide"
            raise ArgumentError("encoder_hidden_states", list(text.shape), allowed)

    def _check_steering(self, network: ConditionalUNet) -> None:
        added = self.added_cond_kwargs or {}
        if added.get("image_embeds") is not None:
            raise ArgumentError("added_cond_kwargs", "image_embeds", "none: IP-Adapters are not supported")
        if network.added is not None:
            for name in ("text_embeds", "time_ids"):
                if added.get(name) is None:
                    allowed = "text_embeds and time_ids: this U-Net takes pooled text and sizes"
                    raise ArgumentError("added_cond_kwargs", f"no {name}", allowed)
        if network.label is not None and self.class_labels is None:
            raise ArgumentError("class_labels", None, "a tensor [B]: this U-Net has classes")
        if self.timestep_cond is not None and network.guidance_features is None:
            raise ArgumentError("timestep_cond", "a tensor", "None: this U-Net has no guidance embedding")

    def conditioning(self, network: ConditionalUNet) -> Conditioning:
        """What does not change from step to step, of what the network has layers for; diffusers passes by the rest."""
        added = (self.added_cond_kwargs or {}) if network.added is not None else {}
        return Conditioning(
            context=self.encoder_hidden_states if network.cross_attentions else None,
            scale=self.timestep_cond,
            labels=None if network.label is None else self.class_labels,
            pooled=added.get("text_embeds"),
            sizes=added.get("time_ids"),
        )


def times(timestep: Tensor | float | int, sample: Tensor, of_float: torch.dtype) -> Tensor:
    """A timestep for each sample, [B], on its device.

    Args:
        timestep: one for all, or one for each.
        sample: [B, C, H, W].
        of_float: as what a Python float is read.

    Raises:
        ArgumentError: neither one nor one for each.
    """
    if not isinstance(timestep, Tensor):
        kind = of_float if isinstance(timestep, float) else torch.int64
        timestep = torch.tensor([timestep], dtype=kind, device=sample.device)
    t = timestep.to(sample.device).reshape(-1)
    if len(t) not in (1, len(sample)):
        raise ArgumentError("timestep", list(timestep.shape), f"one for all, or [{len(sample)}], one for each sample")
    return t.expand(len(sample))
