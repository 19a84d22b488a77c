"""A U-Net of ours beside a ControlNet of diffusers, as one network (Zhang et al. 2023, 2302.05543)."""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from fewstep.errors import ArgumentError
from fewstep.models.net.conditional import ConditionalUNet
from fewstep.run.modules import view_of

CONTROL: Final = ("control", "control_scale")
TEXT: Final = ("context", "pooled", "sizes")  # what both networks are told
ALIKE: Final = ("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim")


class ControlledUNet(ConditionalUNet):
    """eps(x, t) = unet(x, t, residuals = control_scale * controlnet(x, t, control)).

    The U-Net is ours; the ControlNet is diffusers' own, and its code runs. Of the U-Net's work no step does what does
    not depend on x; the ControlNet makes its own keys and values, and its embeddings, in each step.

    Attributes:
        controlnet: a ControlNetModel.
    """

    controlnet: nn.Module

    @classmethod
    def of(cls, unet: ConditionalUNet, controlnet: nn.Module) -> "ControlledUNet":
        """Both as one network, over the same weights."""
        view = view_of(unet, {unet: cls})
        assert isinstance(view, ControlledUNet)
        view.controlnet = controlnet
        return view

    def prepare_condition(self, condition: Mapping[str, Tensor], times: Tensor) -> dict[str, Tensor]:
        """What a `ConditionalUNet` prepares, and as they are what the ControlNet takes in each step.

        That is: control [C, H, W], control_scale [], context [L, W], and of SDXL pooled [P] and sizes [6].

        Raises:
            ArgumentError: as there, or no control, or no control_scale.
        """
        for name in CONTROL:
            if name not in condition:
                raise ArgumentError("condition", f"no {name!r}", f"{' and '.join(CONTROL)}, of the ControlNet")
        own = {name: rows for name, rows in condition.items() if name not in CONTROL}
        kept = {name: rows for name, rows in condition.items() if name in (*CONTROL, *TEXT)}
        return super().prepare_condition(own, times) | kept

    def forward(  # type: ignore[override]
        self,
        x: Tensor,  # [B, C, h, w]
        t: Tensor,  # [B] of any real dtype
        control: Tensor,  # [B, C', H, W] in [0, 1], the pictures
        control_scale: Tensor,  # [B]
        context: Tensor,  # [B, L, W] the text embedding
        pooled: Tensor | None = None,  # [B, P] the pooled text, of SDXL
        sizes: Tensor | None = None,  # [B, 6] the sizes and crops, of SDXL
        **prepared: Tensor,  # what else `prepare_condition` gave, or a `ConditionalUNet` is called with
    ) -> Tensor:  # [B, C, h, w] in the U-Net's dtype
        """The prediction. Raises ArgumentError on what the U-Net does not take."""
        added = None if pooled is None else {"text_embeds": pooled, "time_ids": sizes}
        down, mid = self.controlnet(
            x.to(_dtype(self.controlnet)),
            t,
            encoder_hidden_states=context.to(_dtype(self.controlnet)),
            controlnet_cond=control.to(_dtype(self.controlnet)),
            conditioning_scale=control_scale[:, None, None, None],
            added_cond_kwargs=added,
            return_dict=False,
        )
        others: Any = prepared
        residuals: Any = {
            "down_residuals": [each.to(self.dtype) for each in down],
            "mid_residual": mid.to(self.dtype),
        }
        return super().forward(x, t, context=context, pooled=pooled, sizes=sizes, **residuals, **others)


def check_controlnet(pipe: Any) -> None:
    """ArgumentError for a ControlNet that is not run beside the pipeline's U-Net: what it is, and what is allowed.

    That is: several of them, one of another class than ControlNetModel, one that is offloaded, and one that was made
    for another U-Net, or whose config asks for what diffusers calls guess mode, or for what no text says.
    """
    net = pipe.controlnet
    kind = type(net).__name__
    if kind != "ControlNetModel" or not type(net).__module__.startswith("diffusers."):
        raise ArgumentError("pipe.controlnet", f"a {kind}", "one ControlNetModel of diffusers: several are not run")
    if any(vars(part).get("_hf_hook") is not None or "_diffusers_hook" in vars(part) for part in net.modules()):
        raise ArgumentError("pipe.controlnet", "hooks that offload, cast or cache it", "none: pipe.remove_all_hooks()")
    config, unet = net.config, pipe.unet.config
    for name in ALIKE:
        given, wanted = (_listed(each.get(name)) for each in (config, unet))
        if given != wanted:
            raise ArgumentError(f"pipe.controlnet.config.{name}", given, f"{wanted}, as the U-Net has it")
    usual: dict[str, tuple[Any, ...]] = {
        "global_pool_conditions": (False, None),
        "class_embed_type": (None,),
        "num_class_embeds": (None,),
        "addition_embed_type": (None, unet.get("addition_embed_type")),
    }
    for name, allowed in usual.items():
        if config.get(name) not in allowed:
            which = " or ".join(dict.fromkeys(map(str, allowed)))
            raise ArgumentError(f"pipe.controlnet.config.{name}", config.get(name), which)
    halved = 2 ** (len(config.conditioning_embedding_out_channels) - 1)
    if halved != pipe.vae_scale_factor:
        place = "pipe.controlnet.config.conditioning_embedding_out_channels"
        found = f"{len(config.conditioning_embedding_out_channels)} of them: pictures {halved} times the latents' side"
        raise ArgumentError(place, found, f"{pipe.vae_scale_factor} times, as the autoencoder has it")


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def _dtype(module: Any) -> torch.dtype:
    dtype: torch.dtype = module.conv_in.weight.dtype
    return dtype
