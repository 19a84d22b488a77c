"""Unconditional U-Nets of pixels, in the words of diffusers' UNet2DModel."""

from typing import Any

from fewstep.bench.subjects.subject import RANDOM, Subject
from fewstep.bench.subjects.weights import SEED, diffusers_state, filled_unet_2d, optional_diffusers, random_unet
from fewstep.diffusion import schedules
from fewstep.engine import Engine
from fewstep.errors import ArgumentError
from fewstep.models.model import Model

PRESETS: dict[str, dict[str, Any]] = {
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
}


def preset_subject(name: str, device: str = "cpu", max_batch: int = 16) -> Subject:
    """A preset's architecture with random weights, the same ones in both implementations.

    Raises:
        ArgumentError: a name that is not in PRESETS.
    """
    if name not in PRESETS:
        raise ArgumentError("preset", name, ", ".join(PRESETS))
    config = PRESETS[name]
    unet, keys = random_unet(config)
    shape = (config["in_channels"], config["sample_size"], config["sample_size"])
    model = Model(unet, schedule=schedules.linear(), shape=shape, name=name)
    engine = Engine(model, device=device, max_batch=max_batch, backend="torch")
    title = f"{name}, RANDOM weights (seed {SEED}): for speed and parity, not for pictures"
    theirs, why = optional_diffusers(lambda: filled_unet_2d(config, diffusers_state(unet, keys)).to(engine.device))
    return Subject(engine, title, {"name": name}, RANDOM, theirs, why)
