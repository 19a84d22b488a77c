"""Configs of UNet2DConditionModel: those of known models, and reduced ones that are unlike each other."""

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

CROSS = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
PLAIN = ("DownBlock2D", "UpBlock2D")
TOKENS = 77


def _levels(attends: tuple[bool, ...]) -> dict[str, tuple[str, ...]]:
    """The names of the blocks, finest first on the way down."""
    return {
        "down_block_types": tuple(CROSS[0] if each else PLAIN[0] for each in attends),
        "up_block_types": tuple(CROSS[1] if each else PLAIN[1] for each in reversed(attends)),
    }


# Stable Diffusion 1.5
SD15: dict[str, Any] = {
    **_levels((True, True, True, False)),
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
# Stable Diffusion 2.1, which predicts v at 768x768
SD21: dict[str, Any] = {
    **SD15,
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
    "upcast_attention": True,
}
# Stable Diffusion XL base 1.0
SDXL: dict[str, Any] = {
    **_levels((False, True, True)),
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
# A latent consistency model of Stable Diffusion 1.5
LCM: dict[str, Any] = {**SD15, "time_cond_proj_dim": 256}
FULL = {"sd1.5": SD15, "sd2.1": SD21, "sdxl": SDXL, "lcm": LCM}

_SMALL: dict[str, Any] = {
    **_levels((True, False)),
    "sample_size": 16,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "attention_head_dim": 2,  # the number of heads, whatever it is called
    "norm_num_groups": 8,
}
REDUCED: dict[str, dict[str, Any]] = {
    "sd1": _SMALL,
    "sd2": {
        **_SMALL,
        **_levels((True, True, False)),
        "block_out_channels": (16, 32, 64),
        "attention_head_dim": (1, 2, 4),
        "layers_per_block": 2,
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    "sdxl": {
        **_SMALL,
        **_levels((False, True)),
        "layers_per_block": 2,
        "cross_attention_dim": 64,
        "attention_head_dim": (2, 4),
        "transformer_layers_per_block": (1, 2),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 32 + 6 * 8,
    },
    "lcm": {**_SMALL, "time_cond_proj_dim": 32},
    "inpainting": {**_SMALL, "in_channels": 9, "layers_per_block": 2},
    "instructions": {**_SMALL, "in_channels": 8},
    "upscaler": {  # a low-resolution image beside the latents, and its noise level as a class
        **_SMALL,
        **_levels((False, True)),
        "in_channels": 7,
        "num_class_embeds": 20,
        "only_cross_attention": (True, False),
        "use_linear_projection": True,
    },
    "pruned": {  # no middle, and fewer transformer blocks on one way than on the other
        **_SMALL,
        **_levels((False, True, True)),
        "block_out_channels": (16, 32, 32),
        "mid_block_type": None,
        "transformer_layers_per_block": (1, 2, 1),
        "cross_attention_dim": 48,
        "attention_head_dim": (1, 2, 4),
        "use_linear_projection": True,
    },
    "unusual": {
        **_SMALL,
        **_levels((True, True)),
        "block_out_channels": (24, 40),
        "in_channels": 3,
        "out_channels": 6,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "center_input_sample": True,
        "act_fn": "gelu",
        "norm_eps": 1e-6,
        "resnet_time_scale_shift": "scale_shift",
        "num_class_embeds": 5,
        "downsample_padding": 0,
    },
}


def random_unet(config: dict[str, Any]) -> UNet2DConditionModel:
    """One in which every bias and norm counts, and attention looks at some places more than at others."""
    torch.manual_seed(0)
    return roughened(UNet2DConditionModel(**config).eval())


@torch.no_grad()
def roughened(module: Any) -> Any:
    """With every parameter a little off where it began, and larger queries and keys; zeros become small numbers."""
    for name, parameter in module.named_parameters():
        spread = 0.1 if parameter.ndim == 1 or parameter.numel() == 1 else max(0.1 * float(parameter.std()), 0.02)
        parameter += spread * torch.randn_like(parameter)
        if ".to_q." in name or ".to_k." in name:
            parameter *= 3
    return module


def condition_inputs(config: dict[str, Any], batch: int = 2, size: int = 16, tokens: int = TOKENS) -> dict[str, Any]:
    """The arguments of a UNet2DConditionModel's call, whose samples differ in time and in every condition.

    ControlNet's residuals are not among them.
    """
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    arguments: dict[str, Any] = {
        "sample": draw(batch, config.get("in_channels", 4), size, size),
        "timestep": torch.linspace(999, 1, batch),
        "encoder_hidden_states": draw(batch, tokens, config["cross_attention_dim"]),
    }
    if classes := config.get("num_class_embeds"):
        arguments["class_labels"] = torch.arange(batch) % classes
    if width := config.get("time_cond_proj_dim"):
        arguments["timestep_cond"] = draw(batch, width)
    if config.get("addition_embed_type") == "text_time":
        pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
        sizes = torch.tensor([[1024.0, 1024.0, 0.0, 0.0, 1024.0, 768.0], [512.0, 640.0, 8.0, 16.0, 512.0, 512.0]])
        arguments["added_cond_kwargs"] = {
            "text_embeds": draw(batch, pooled),
            "time_ids": sizes.repeat(batch, 1)[:batch],
        }
    return arguments
