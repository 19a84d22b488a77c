"""The U-Nets of Stable Diffusion, in the words of diffusers' UNet2DConditionModel."""

from collections.abc import Mapping
from typing import Any

from fewstep.bench.subjects.architecture import Architecture, of_diffusers
from fewstep.diffusion import schedules

SD15: dict[str, Any] = {  # Stable Diffusion 1.5, for 512 x 512 pixels
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SD21: dict[str, Any] = {  # Stable Diffusion 2.1, for 768 x 768 pixels
    **SD15,
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
SDXL: dict[str, Any] = {  # Stable Diffusion XL base 1.0, for 1024 x 1024 pixels
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 1280 + 6 * 256,
}
# What makes each of them small enough for a test.
TINY: dict[str, Any] = {
    "block_out_channels": (32,),
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("CrossAttnUpBlock2D",),
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "attention_head_dim": 2,
    "transformer_layers_per_block": 1,
}
TINY_XL: dict[str, Any] = {
    **TINY,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 16 + 6 * 8,
}


def sd15(size: int = 64, changes: Mapping[str, Any] | None = None) -> Architecture:
    """Rombach et al. 2022 (2112.10752); it predicts eps."""
    config = SD15 | {"sample_size": size, **(changes or {})}
    return of_diffusers(f"the U-Net of Stable Diffusion 1.5, 4 x {size} x {size}", config, schedules.scaled_linear())


def sd21(size: int = 96, changes: Mapping[str, Any] | None = None) -> Architecture:
    """Stable Diffusion 2.1 for 768 x 768 pixels, which predicts v."""
    config = SD21 | {"sample_size": size, **(changes or {})}
    title = f"the U-Net of Stable Diffusion 2.1, 4 x {size} x {size}"
    return of_diffusers(title, config, schedules.scaled_linear(), prediction="v")


def sdxl(size: int = 128, changes: Mapping[str, Any] | None = None) -> Architecture:
    """Podell et al. 2023 (2307.01952): a pooled text and sizes beside the context."""
    config = SDXL | {"sample_size": size, **(changes or {})}
    return of_diffusers(f"the U-Net of Stable Diffusion XL, 4 x {size} x {size}", config, schedules.scaled_linear())
