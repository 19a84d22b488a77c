"""LoRA files with random factors: as peft makes them, and under the names of the other families."""

import copy
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

from fewstep.models.lora import tables_of

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
EVERYTHING = [*ATTENTION, "conv_in", "conv1", "conv2", "conv_shortcut", "conv", "time_emb_proj", "linear_1", "conv_out"]


def tuned(model: nn.Module, seed: int = 0, **options: Any) -> tuple[dict[str, Tensor], LoraConfig, nn.Module]:
    """A LoRA of a model: its tensors as peft saves them, its config, and the model with it merged by peft."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 6, "target_modules": EVERYTHING, "init_lora_weights": False}
    config = LoraConfig(**(settings | options))
    wrapped = get_peft_model(copy.deepcopy(model), config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.mul_(4)  # so that what is merged counts for more than the tolerance
    tensors = {name: tensor.clone() for name, tensor in get_peft_model_state_dict(wrapped).items()}
    return tensors, config, wrapped.merge_and_unload().eval()


def bare(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """PEFT's names without what is in front of the model's own."""
    return {name.removeprefix("base_model.model."): tensor for name, tensor in tensors.items()}


def as_diffusers(tensors: dict[str, Tensor], alpha: float | None = None) -> dict[str, Tensor]:
    """The names of diffusers before it had PEFT, those of an attention's processor among them."""
    found: dict[str, Tensor] = {}
    for name, tensor in bare(tensors).items():
        layer, word = _split(name)
        place, _, last = layer.removesuffix(".0").rpartition(".")
        attends = last in ("to_q", "to_k", "to_v", "to_out")
        new = f"unet.{place}.processor.{last}_lora" if attends else f"unet.{layer}.lora"
        found[f"{new}.{word}.weight"] = tensor
        if alpha is not None:
            found[f"{new}.alpha"] = torch.tensor(alpha)
    return found


def as_kohya(tensors: dict[str, Tensor], alpha: float | None = None) -> dict[str, Tensor]:
    """kohya's names: underscores for dots."""
    found: dict[str, Tensor] = {}
    for name, tensor in bare(tensors).items():
        layer, word = _split(name)
        new = f"lora_unet_{layer.replace('.', '_')}"
        found[f"{new}.lora_{word}.weight"] = tensor
        if alpha is not None:
            found[f"{new}.alpha"] = torch.tensor(alpha)
    return found


def _split(name: str) -> tuple[str, str]:
    layer, _, letter = name.removesuffix(".weight").rpartition(".lora_")
    return layer, {"A": "down", "B": "up"}[letter]


def random_lora(
    module: nn.Module, layers: str = "to_", rank: int = 4, seed: int = 0, size: float = 0.1
) -> dict[str, Tensor]:
    """Factors for the layers whose names have `layers` in them, under kohya's names."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for pieces in tables_of(module)[0].values():
        for piece in pieces:
            layer, _, kind = piece.name.rpartition(".")
            if kind == "weight" and len(piece.shape) > 1 and layers in layer:
                name = f"lora_unet_{layer.replace('.', '_')}"
                rows, *sizes = piece.shape
                found[f"{name}.lora_down.weight"] = size * torch.randn(rank, *sizes, generator=generator)
                ones = (1,) * (len(sizes) - 1)
                found[f"{name}.lora_up.weight"] = size * torch.randn(rows, rank, *ones, generator=generator)
    return found


def random_text_lora(encoder: nn.Module, prefix: str = "lora_te_text_model_", seed: int = 0) -> dict[str, Tensor]:
    """Factors of rank 3 for the linear layers of a text encoder, under kohya's names."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for name, layer in encoder.named_modules():
        if isinstance(layer, nn.Linear) and "encoder." in name:
            place = prefix + name.removeprefix("text_model.").replace(".", "_")
            found[f"{place}.lora_down.weight"] = 0.3 * torch.randn(3, layer.in_features, generator=generator)
            found[f"{place}.lora_up.weight"] = 0.3 * torch.randn(layer.out_features, 3, generator=generator)
    return found


def with_alpha(tensors: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """kohya's tensors with the same alpha for each layer."""
    layers = {name.split(".")[0] for name in tensors}
    return tensors | {f"{layer}.alpha": torch.tensor(alpha) for layer in layers}
