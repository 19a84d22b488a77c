"""Random weights, in one place: the same ones in our network and in diffusers'."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from fewstep.models.layouts.diffusers import config_from_diffusers, naming
from fewstep.models.layouts.keys import Keys
from fewstep.models.net.config import UNetConfig
from fewstep.models.net.unet import UNet

SEED = 0  # of the random weights


def random_unet(config: Mapping[str, Any]) -> tuple[UNet, Keys]:
    """Our U-Net for a UNet2DModel config, and diffusers' names of its tensors.

    Weights are normal with variance 1 / fan-in, the norms' near 1 and all biases small: nothing is zero, as a new
    network's last layers are, so every layer shows in the output.
    """
    unet_config: UNetConfig = config_from_diffusers({"_class_name": "UNet2DModel", **config}, "preset")
    unet = UNet(unet_config).eval()
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            center = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            parameter.copy_(center + spread * torch.randn(parameter.shape, generator=generator))
    return unet, naming(unet_config).keys(unet)


def diffusers_state(unet: UNet, keys: Keys) -> dict[str, Tensor]:
    """The weights under diffusers' names and in its shapes: what loading does, backwards."""
    state: dict[str, Tensor] = {}
    for name, pieces in keys.items():
        rows = unet.get_parameter(name).detach().split([piece.shape[0] for piece in pieces])
        state |= {piece.name: part.reshape(piece.shape).contiguous() for piece, part in zip(pieces, rows, strict=True)}
    return state


def optional_diffusers(make: Callable[[], Any]) -> tuple[Any, str]:
    """What `make` makes with diffusers and "", or None and why not."""
    try:
        return make(), ""
    except ImportError:
        return None, "not installed: pip install 'fewstep[diffusers]'"


def filled_unet_2d(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Any:
    """diffusers' UNet2DModel of a config with these weights. ImportError without diffusers."""
    diffusers: Any = import_module("diffusers")
    unet_2d = diffusers.UNet2DModel(**config).eval()
    unet_2d.load_state_dict(state)
    return unet_2d
