"""Random weights, in one place: the same ones in our network and in diffusers'."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.bench.subjects.architecture import diffusers_keys, unet_config
from fewstep.models.layouts.keys import Keys
from fewstep.models.net.build import build_unet
from fewstep.models.net.config import UNetConfig
from fewstep.models.net.unet import UNet

SEED = 0  # of the random weights
RANDOM_WEIGHTS = f"RANDOM weights (seed {SEED}): for speed and parity, not for pictures"
NOT_INSTALLED = "not installed: pip install 'fewstep[diffusers]'"
NO_COUNTERPART = "no counterpart there"
NOT_ASKED = "not asked for"


def randomize(module: nn.Module) -> nn.Module:
    """The module itself, in evaluation mode, its parameters drawn where they lie.

    Weights are normal with variance 1 / fan-in, the norms' near 1 and all biases small: nothing is zero, as a new
    network's last layers are, so every layer shows in the output.
    """
    generators: dict[torch.device, torch.Generator] = {}
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            device = parameter.device
            if device not in generators:
                generators[device] = torch.Generator(device).manual_seed(SEED)
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            center = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            parameter.normal_(center, spread, generator=generators[device])
    return module.eval()


def random_network(config: UNetConfig, device: str | torch.device = "cpu") -> UNet:
    """A U-Net of ours with random weights, in float32."""
    with torch.device(device):
        unet = build_unet(config)
    randomize(unet)
    return unet


def random_unet(config: Mapping[str, Any], device: str | torch.device = "cpu") -> tuple[UNet, Keys]:
    """Our U-Net for a config of diffusers', with random weights, and diffusers' names of its tensors."""
    kind, own = unet_config(config)
    unet = random_network(own, device)
    return unet, diffusers_keys(kind, unet)


def diffusers_state(unet: UNet, keys: Keys) -> dict[str, Tensor]:
    """The weights under diffusers' names and in its shapes: what loading does, backwards."""
    state: dict[str, Tensor] = {}
    for name, pieces in keys.items():
        rows = unet.get_parameter(name).detach().split([piece.shape[0] for piece in pieces])
        state |= {piece.name: part.reshape(piece.shape).contiguous() for piece, part in zip(pieces, rows, strict=True)}
    return state


def their_module(kind: str, config: Mapping[str, Any], unet: UNet) -> tuple[Any, str]:
    """diffusers' module of a class and a config with the weights of ours, on the same device, and ""; or None, and why.

    It takes as much memory again.
    """

    def make() -> Any:
        library: Any = import_module("diffusers")
        with torch.device(unet.conv_in.weight.device):
            theirs = getattr(library, kind)(**config).eval()
        shapes = {name: each.shape for name, each in theirs.state_dict().items()}
        state = diffusers_state(unet, diffusers_keys(kind, unet))
        # A convolution of 1 x 1 there may be a product here.
        theirs.load_state_dict({name: each.view(shapes[name]) for name, each in state.items()})
        return theirs

    return optional_diffusers(make) if kind else (None, NO_COUNTERPART)


def optional_diffusers(make: Callable[[], Any]) -> tuple[Any, str]:
    """What `make` makes with diffusers and "", or None and why not."""
    try:
        return make(), ""
    except ImportError:
        return None, NOT_INSTALLED
