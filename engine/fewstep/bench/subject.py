"""What is measured: one network, as the engine holds it and as diffusers does."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.diffusion import schedules
from fewstep.engine import Engine
from fewstep.errors import ArgumentError
from fewstep.fields import read_json
from fewstep.models.layouts.diffusers import config_from_diffusers, naming
from fewstep.models.layouts.edm_folder import is_edm
from fewstep.models.layouts.keys import Keys
from fewstep.models.model import Model
from fewstep.models.net.conditional import ConditionalUNet
from fewstep.models.net.config import UNetConfig
from fewstep.models.net.unet import UNet
from fewstep.request.conditions import Unconditional, Words
from fewstep.run.inputs import Inputs
from fewstep.run.modules import view_of

SEED = 0  # of the random weights

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


@dataclass(frozen=True)
class Subject:
    """A network and all that a sampling loop must know of it.

    Attributes:
        engine: holds the network, its schedule, what it predicts and its labels; runs on torch, in float32.
        title: what it is, and whose weights they are.
        source: how to make it again: {"config": ...} or {"model": folder}.
        unet_2d: diffusers' UNet2DModel with the same weights, or None.
        lacks_diffusers: why there is none; "" if there is one.
    """

    engine: Engine
    title: str
    source: Mapping[str, object]
    unet_2d: Any = None
    lacks_diffusers: str = ""

    @cached_property
    def module(self) -> nn.Module:
        """The network for other loops than the engine's: a view, since what is hooked into it changes no program."""
        return view_of(self.engine.module)

    def labels(self, batch: int) -> list[float] | None:
        """Labels spread over what the model takes, one per sample; None for a model without."""
        return self.engine.model.conditions.spread(batch)

    def inputs(self, batch: int) -> dict[str, Tensor]:
        """What the network takes beside x and t, under its own names, [batch] each: those labels, and the default scale
        of a guidance that is an input.
        """
        model, device = self.engine.model, self.engine.device
        rows = model.conditions.rows(Words(labels=self.labels(batch)), batch, guided=False)
        given = model.guidance.condition([None] * batch, rows.condition)
        called = {"labels": Inputs.of(self.engine.module).labels}
        made = {called.get(name, name): rows.to(device) for name, rows in given.items()}
        return {name: rows.to(self.engine.dtype) if rows.is_floating_point() else rows for name, rows in made.items()}

    def on(self, backend: str, dtype: torch.dtype) -> "Subject":
        """The same network as a backend of the engine executes it, in a dtype, and diffusers' own in that.

        Raises:
            ArgumentError: a backend that does not run on this device.
        """
        engine = self.engine
        there: dict[str, Any] = {"device": engine.device, "dtype": dtype}
        there |= {"max_batch": engine.max_batch, "backend": backend}
        other = None if self.unet_2d is None or dtype == engine.dtype else copy.deepcopy(self.unet_2d)
        unet_2d = self.unet_2d if other is None else nn.Module.to(other, dtype)
        return replace(self, engine=Engine(engine.model, **there), unet_2d=unet_2d)


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
    unet_2d, why = optional_diffusers(lambda: _filled_unet_2d(config, diffusers_state(unet, keys)))
    return Subject(engine, title, {"config": config}, _placed(unet_2d, engine), why)


def model_subject(folder: str, device: str = "cpu", max_batch: int = 16) -> Subject:
    """The model in a folder; diffusers' own implementation joins where the folder is in diffusers' format.

    Raises:
        ModelError: as `Engine.from_pretrained`.
        ArgumentError: a U-Net that is told a text, as Stable Diffusion's.
    """
    engine = Engine.from_pretrained(folder, device=device, max_batch=max_batch, backend="torch")
    if isinstance(engine.module, ConditionalUNet):
        allowed = "one that is told no text: make gpu PARTS='sd15 sdxl' measures U-Nets of Stable Diffusion"
        raise ArgumentError("model", folder, allowed)
    inner = Path(folder) / "unet" if (Path(folder) / "unet").is_dir() else Path(folder)
    unet_2d, why = None, "not in diffusers' format"
    if (inner / "config.json").exists() and not is_edm(read_json(inner / "config.json", constants=True)):
        unet_2d, why = optional_diffusers(lambda: _loaded_unet_2d(inner))
    if not isinstance(engine.model.conditions, Unconditional):
        unet_2d, why = None, "its pipelines take no labels"
    return Subject(engine, engine.model.name or folder, {"model": folder}, _placed(unet_2d, engine), why)


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


def _filled_unet_2d(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Any:
    diffusers: Any = import_module("diffusers")
    unet_2d = diffusers.UNet2DModel(**config).eval()
    unet_2d.load_state_dict(state)
    return unet_2d


def _loaded_unet_2d(folder: Path) -> Any:
    diffusers: Any = import_module("diffusers")
    return diffusers.UNet2DModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()


def _placed(unet_2d: Any, engine: Engine) -> Any:
    return None if unet_2d is None else unet_2d.to(engine.device)
