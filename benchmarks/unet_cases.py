"""The networks of benchmarks/unets.py, of random weights but for the digits in the box, and diffusers' beside them."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fewstep import Model, schedules
from fewstep.bench.subjects import PRESETS, diffusers_state
from fewstep.cost.subjects import sd15, sdxl
from fewstep.models.layouts import diffusers, diffusers_condition
from fewstep.models.layouts.keys import Keys
from fewstep.models.net.build import build_unet
from fewstep.models.net.unet import UNet

ABSENT = "diffusers is not importable here"
RANDOM = "RANDOM weights: for speed and parity, not for pictures"
# What makes a config small enough for a dry run.
SMALL_CONDITIONAL = {
    "sample_size": 4,
    "block_out_channels": (32,),
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("CrossAttnUpBlock2D",),
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "attention_head_dim": 2,
    "transformer_layers_per_block": 1,
}
SMALL_ADDED = {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 16 + 6 * 8}
SMALL_PIXELS = {
    "sample_size": 4,
    "block_out_channels": [32],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
}
VAE = {  # of Stable Diffusion; SDXL's has another scale alone
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
}
SMALL_VAE = {"block_out_channels": (32, 32), "layers_per_block": 1}
LABEL = 3  # of the digit that is asked for


@dataclass
class Network:
    """One network as fewstep holds it and, where that is importable, as diffusers does, with the same weights.

    Attributes:
        name: of its rows.
        about: whose weights it has.
        model: ours, in float32 on the device.
        theirs: diffusers' own module with the same weights, or None.
        lacks: why there is none.
        condition: what its call takes beside x and t, each without its batch, of random numbers.
    """

    name: str
    about: str
    model: Model
    theirs: Any = None
    lacks: str = ""
    condition: Mapping[str, Tensor] = field(default_factory=dict)
    label: int | None = None  # what `Engine.sample` is asked for in place of such a condition
    steps: tuple[int, ...] = (1, 4)  # of a run

    @property
    def module(self) -> nn.Module:
        """Ours."""
        return self.model.module

    def rows(self, batch: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """The condition of so many samples, all alike."""
        expanded = {name: each.expand(batch, *each.shape) for name, each in self.condition.items()}
        return {name: each.to(dtype) if each.is_floating_point() else each for name, each in expanded.items()}

    def asked(self, batch: int) -> dict[str, Any]:
        """The same as arguments of `Engine.sample`."""
        if self.label is not None:
            return {"labels": [self.label] * batch}
        rows = self.rows(batch, torch.float32)
        return {"condition": rows} if rows else {}

    def prepared(self, times: Tensor, batch: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """What our module is called with in each step, made once for all of them."""
        prepare: Callable[..., Mapping[str, Tensor]] | None = getattr(self.module, "prepare_condition", None)
        if prepare is None:
            return self.rows(batch, dtype)
        one = {name: rows[0] for name, rows in self.rows(1, dtype).items()}
        made = prepare(one, times)
        return {name: rows.expand(batch, *rows.shape).contiguous() for name, rows in made.items()}

    def their_arguments(self, batch: int, dtype: torch.dtype) -> dict[str, Any]:
        """What diffusers' module is called with beside x and t."""
        rows = self.rows(batch, dtype)
        arguments: dict[str, Any] = {"encoder_hidden_states": rows["context"]} if "context" in rows else {}
        if "pooled" in rows:
            arguments["added_cond_kwargs"] = {"text_embeds": rows["pooled"], "time_ids": rows["sizes"]}
        return arguments

    def cast(self, dtype: torch.dtype) -> None:
        """Both modules in another dtype, where they are."""
        for each in (self.module, self.theirs):
            if each is not None:
                nn.Module.to(each, dtype)  # diffusers' own speaks of modules that are kept in float32; these have none


def networks(part: str, device: torch.device, dry_run: bool) -> list[Callable[[], Network]]:
    """Of a part of `make gpu`, each made when it is called."""
    if part == "small":
        return [lambda: cifar10(device, dry_run), lambda: digits(device, 4), lambda: digits(device, 1)]
    return [lambda: conditional(part, device, dry_run)]


def conditional(part: str, device: torch.device, dry_run: bool) -> Network:
    """Stable Diffusion 1.5 or XL with random weights, and a text embedding of random numbers."""
    config = dict({"sd15": sd15, "sdxl": sdxl}[part]().diffusers_config or {})
    if dry_run:
        config |= SMALL_CONDITIONAL | (SMALL_ADDED if part == "sdxl" else {})
    return conditional_of(part, config, device)


def conditional_of(part: str, config: dict[str, Any], device: torch.device, beside: bool = True) -> Network:
    """What diffusers' UNet2DConditionModel is of a config, with random weights and a text of random numbers.

    `beside` makes diffusers' own as well, which takes as much memory again.
    """
    ours = diffusers_condition.config_from_diffusers_condition(
        {"_class_name": diffusers_condition.CLASS, **config}, part
    )
    unet = random_unet(lambda: build_unet(ours), device)
    theirs, lacks = None, "not made"
    if beside:
        theirs, lacks = their_module("UNet2DConditionModel", config, unet, diffusers_condition.naming(ours).keys(unet))
    generator = torch.Generator(device).manual_seed(3)
    condition = {"context": torch.randn(77, config["cross_attention_dim"], device=device, generator=generator)}
    if "addition_time_embed_dim" in config:
        sizes = 6 * config["addition_time_embed_dim"]
        pooled = config["projection_class_embeddings_input_dim"] - sizes
        condition["pooled"] = torch.randn(pooled, device=device, generator=generator)
        condition["sizes"] = torch.tensor([1024.0, 1024.0, 0.0, 0.0, 1024.0, 1024.0], device=device)
    size, channels = config["sample_size"], config.get("in_channels", 4)
    model = Model(unet, schedule=schedules.scaled_linear(), shape=(channels, size, size), defaults={"sampler": "ddim"})
    return Network(part, RANDOM, model, theirs, lacks, condition)


def cifar10(device: torch.device, dry_run: bool) -> Network:
    """The U-Net of google/ddpm-cifar10-32 with random weights."""
    config = PRESETS["cifar10-ddpm"] | (SMALL_PIXELS if dry_run else {})
    ours = diffusers.config_from_diffusers({"_class_name": "UNet2DModel", **config}, "cifar10-ddpm")
    unet = random_unet(lambda: build_unet(ours), device)
    theirs, lacks = their_module("UNet2DModel", config, unet, diffusers.naming(ours).keys(unet))
    size = config["sample_size"]
    model = Model(unet, schedule=schedules.linear(), shape=(3, size, size), defaults={"sampler": "ddim"})
    return Network("cifar10-ddpm", RANDOM, model, theirs, lacks)


def digits(device: torch.device, steps: int) -> Network:
    """The student for so many steps in the box, with its own weights."""
    model = Model.from_pretrained("digits", steps=steps)
    model.module.to(device).eval()
    rows = model.guidance.condition([None], {"labels": torch.tensor([LABEL])})
    condition = {name: each[0].to(device) for name, each in rows.items()}
    return Network(model.name, "trained", model, None, "it has no counterpart there", condition, LABEL, (steps,))


def random_unet(make: Callable[[], UNet], device: torch.device) -> UNet:
    """A network whose weights are normal with variance 1 / fan-in, the norms' near 1, all biases small: no zeros."""
    with torch.device(device):
        unet = make().eval()
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            center = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            parameter.normal_(center, spread, generator=generator)
    return unet


def their_module(kind: str, config: Mapping[str, Any], unet: UNet, keys: Keys) -> tuple[Any, str]:
    """diffusers' module of that class with the same weights on the same device; or None, and why."""
    library = importable_diffusers()
    if library is None:
        return None, ABSENT
    with torch.device(unet.conv_in.weight.device):
        theirs = getattr(library, kind)(**config).eval()
    shapes = {name: each.shape for name, each in theirs.state_dict().items()}  # a 1x1 convolution, ours is a product
    theirs.load_state_dict({name: each.view(shapes[name]) for name, each in diffusers_state(unet, keys).items()})
    return theirs, ""


def random_vae(device: torch.device, dry_run: bool) -> tuple[Any, str]:
    """diffusers' AutoencoderKL of Stable Diffusion with random weights in float32; or None, and why."""
    library = importable_diffusers()
    if library is None:
        return None, ABSENT
    config: dict[str, Any] = VAE | (SMALL_VAE if dry_run else {})
    blocks = len(config["block_out_channels"])
    config |= {"down_block_types": ("DownEncoderBlock2D",) * blocks, "up_block_types": ("UpDecoderBlock2D",) * blocks}
    torch.manual_seed(0)
    with torch.device(device):
        return library.AutoencoderKL(**config).eval(), ""


def importable_diffusers() -> Any:
    """The library, or None."""
    try:
        return importlib.import_module("diffusers")
    except ImportError:
        return None
