"""UNet2DModels with random weights, and their predictions beside ours."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor

from fewstep.models.layouts import diffusers
from fewstep.models.load import load_model
from fewstep.models.net.build import empty_unet
from fewstep.models.net.unet import UNet
from fewstep.models.safe_load import TensorDict, fill

SMALL: dict[str, Any] = {
    "sample_size": 8,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "attention_head_dim": 4,
}


def random_model(config: dict[str, Any]) -> UNet2DModel:
    """A UNet2DModel in which every bias, norm and attention projection counts."""
    torch.manual_seed(0)
    model = UNet2DModel(**config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "time_proj.weight":
                scale = 0.1 if parameter.ndim == 1 else 0.1 * parameter.std()
                parameter += scale * torch.randn_like(parameter)
    return model


def as_ours(model: UNet2DModel) -> UNet:
    """The U-Net with the weights of a UNet2DModel, without the way over a disk."""
    config = diffusers.config_from_diffusers(json.loads(model.to_json_string()), "config.json")
    unet = empty_unet(config)
    fill(unet, TensorDict(Path("memory"), model.state_dict()), diffusers.naming(config).keys(unet))
    return unet.eval()


def inputs(model: UNet2DModel, batch: int = 3) -> dict[str, Tensor]:
    """A batch whose samples differ in time and class."""
    generator = torch.Generator().manual_seed(1)
    size = model.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    arguments = {
        "sample": torch.randn(batch, model.config.in_channels, height, width, generator=generator),
        "timestep": torch.tensor([999.0, 500.0, 1.0])[:batch],
    }
    if classes := model.config.num_class_embeds:
        arguments["class_labels"] = torch.tensor([0, classes - 1, classes // 3])[:batch]
    return arguments


@torch.no_grad()
def theirs(model: UNet2DModel, arguments: dict[str, Tensor]) -> Tensor:
    """What diffusers predicts."""
    return model(**arguments).sample


@torch.no_grad()
def ours(unet: UNet, arguments: dict[str, Tensor]) -> Tensor:
    """What fewstep predicts."""
    return unet(arguments["sample"], arguments["timestep"], arguments.get("class_labels"))


def relative_difference(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a share of the largest value of b."""
    return float((a.double() - b.double()).abs().max() / b.double().abs().max())


def same(folder: Path | str, model: UNet2DModel, tolerance: float = 1e-5, **options: Any) -> bool:
    """Whether the folder loads as what predicts as the model does."""
    arguments = inputs(model)
    unet, _ = load_model(folder, **options)
    return relative_difference(ours(unet, arguments), theirs(model, arguments)) <= tolerance
