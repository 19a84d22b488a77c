"""U-Nets of pixels, as they were published."""

from collections.abc import Mapping
from typing import Any

from fewstep.bench.subjects.architecture import Architecture, of_diffusers
from fewstep.diffusion import schedules
from fewstep.fields import Fields
from fewstep.models.layouts import edm

PRESETS: dict[str, dict[str, Any]] = {  # in the words of diffusers' UNet2DModel
    "cifar10-ddpm": {  # the config of google/ddpm-cifar10-32
        "sample_size": 32,
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": [128, 256, 256, 256],
        "layers_per_block": 2,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": None,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
        "norm_num_groups": 32,
    },
    "adm64": {  # guided-diffusion's 64x64_diffusion.pt: 192 channels, 3 blocks, attention at 32, 16 and 8, heads of 64
        "sample_size": 64,
        "in_channels": 3,
        "out_channels": 6,
        "block_out_channels": [192, 384, 576, 768],
        "layers_per_block": 3,
        "down_block_types": ["ResnetDownsampleBlock2D", *["AttnDownBlock2D"] * 3],
        "up_block_types": [*["AttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"],
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "attention_head_dim": 64,
        "attn_norm_num_groups": 32,
        "resnet_time_scale_shift": "scale_shift",
        "num_class_embeds": 1000,
        "norm_eps": 1e-5,
    },
}
# DDPM++ of EDM for CIFAR-10 without classes, in the words of its code: edm-cifar10-32x32-uncond-vp.pkl
EDM_CIFAR10: dict[str, Any] = {
    "model_type": "SongUNet",
    "img_channels": 3,
    "model_channels": 128,
    "channel_mult": [2, 2, 2],
    "num_blocks": 4,
    "attn_resolutions": [16],
    "embedding_type": "positional",
    "encoder_type": "standard",
    "decoder_type": "standard",
    "resample_filter": [1, 1],
    "augment_dim": 9,
    "dropout": 0.13,
}
# What makes each of them small enough for a test.
TINY_DDPM = {
    "block_out_channels": [32, 32],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}
TINY_ADM = {
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "ResnetUpsampleBlock2D"],
    "num_class_embeds": 10,
    "attention_head_dim": 32,
}
TINY_EDM = {"model_channels": 32, "channel_mult": [1, 1], "num_blocks": 1, "attn_resolutions": [4]}


def cifar10_ddpm(size: int = 32, changes: Mapping[str, Any] | None = None) -> Architecture:
    """The U-Net of Ho et al. 2020 for CIFAR-10."""
    config = PRESETS["cifar10-ddpm"] | {"sample_size": size, **(changes or {})}
    return of_diffusers(f"the DDPM U-Net for CIFAR-10, 3 x {size} x {size}", config, schedules.linear())


def adm64(size: int = 64, changes: Mapping[str, Any] | None = None) -> Architecture:
    """ADM for ImageNet at 64 x 64 (Dhariwal and Nichol, 2105.05233): 1000 classes, and a variance that is learned."""
    config = PRESETS["adm64"] | {"sample_size": size, **(changes or {})}
    classes = {"kind": "classes", "count": config["num_class_embeds"]}
    title = f"ADM for ImageNet, 3 x {size} x {size}, {classes['count']} classes, learned variance"
    return of_diffusers(title, config, schedules.cosine(), conditions=classes)


def cifar10_edm(size: int = 32, changes: Mapping[str, Any] | None = None) -> Architecture:
    """DDPM++ for CIFAR-10 as Karras et al. (2206.00364) train it, preconditioned for data of standard deviation 0.5."""
    read = Fields(EDM_CIFAR10 | {"img_resolution": size, **(changes or {})}, "cifar10-edm")
    unet, _ = edm.config_from_edm(read, twice=False)
    return Architecture(
        title=f"EDM's DDPM++ for CIFAR-10, 3 x {size} x {size}",
        unet=unet,
        shape=(3, size, size),
        schedule=schedules.karras(time="edm").preconditioned(0.5),
        prediction="edm",
        defaults={"sampler": "euler", "steps": 4},
    )
