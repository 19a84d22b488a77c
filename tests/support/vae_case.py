"""Small autoencoders of diffusers with random weights, of kinds unlike each other."""

import copy
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from support.conditional_configs import roughened

SD: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (32, 64),
    "norm_num_groups": 8,
    "layers_per_block": 1,
    "sample_size": 16,  # a tile of 8 latents, where tiling is on
}
KL: dict[str, dict[str, Any]] = {
    "SD": {},
    "SDXL, a group for each channel": {
        "norm_num_groups": 32,
        "layers_per_block": 2,
        "scaling_factor": 0.13025,
        "force_upcast": True,
    },
    "without attention": {"mid_block_add_attention": False},
    "SD3, 16 channels": {
        "latent_channels": 16,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "scaling_factor": 1.5305,
        "shift_factor": 0.0609,
        "force_upcast": False,
    },
    "attention at a level": {
        "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    },
    "another activation": {"act_fn": "mish"},
}
TINY: dict[str, Any] = {
    "encoder_block_out_channels": (16, 16, 16, 16),
    "decoder_block_out_channels": (16, 16, 16, 16),
    "num_encoder_blocks": (1, 2, 1, 1),
    "num_decoder_blocks": (2, 1, 1, 1),
}


def small_kl(name: str = "SD", **changes: Any) -> diffusers.AutoencoderKL:
    """Halves each side once; every weight counts."""
    torch.manual_seed(0)
    return roughened(diffusers.AutoencoderKL(**(SD | KL[name] | changes)).eval())


def small_tiny(**changes: Any) -> diffusers.AutoencoderTiny:
    """Of TAESD's form: halves each side three times."""
    torch.manual_seed(0)
    return roughened(diffusers.AutoencoderTiny(**(TINY | changes)).eval())


def small_vae(name: str) -> Any:
    """The AutoencoderKL of that name in `KL`, or "TAESD"."""
    return small_tiny() if name == "TAESD" else small_kl(name)


def latents(vae: Any, batch: int = 2, height: int = 6, width: int = 10) -> Tensor:
    """[B, C, h, w] in the dtype of the autoencoder."""
    shape = (batch, vae.config.latent_channels, height, width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(vae.dtype)


def pictures(vae: Any, batch: int = 2, height: int = 16, width: int = 24) -> Tensor:
    """[B, 3, H, W] in -1..1, in the dtype of the autoencoder."""
    values = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(2))
    return (2 * values - 1).to(vae.dtype)


@torch.no_grad()
def decoded(vae: Any, z: Tensor) -> Tensor:
    """[B, 3, H, W]."""
    result: Tensor = vae.decode(z).sample
    return result


@torch.no_grad()
def encoded(vae: Any, images: Tensor) -> Tensor:
    """What the encoder says: mean and log variance [B, 2 C, h, w], or the latents of a TAESD."""
    answer = vae.encode(images)
    result: Tensor = answer.latent_dist.parameters if hasattr(answer, "latent_dist") else answer.latents
    return result


def in_dtype(module: nn.Module, dtype: torch.dtype) -> Any:
    """A copy."""
    return copy.deepcopy(module).to(dtype)
