"""A LoRA for tools/fuzz_targets.py to spoil, and who reads it."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from fewstep.models.lora import Adapters


def files() -> Mapping[str, bytes]:
    """A folder of PEFT's, for two layers."""
    factors = {"0.lora_A": (2, 6), "0.lora_B": (5, 2), "1.lora_A": (2, 4, 3, 3), "1.lora_B": (6, 2, 1, 1)}
    tensors = {f"base_model.model.{name}.weight": torch.ones(shape) for name, shape in factors.items()}
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["0", "1"], "alpha_pattern": {"1": 2}}
    return {"adapter_model.safetensors": save(tensors), "adapter_config.json": json.dumps(config).encode()}


def read(folder: Path) -> str | None:
    """Merged and taken out again, or refused: the weights are what they were."""
    net = nn.Sequential(nn.Linear(6, 5), nn.Conv2d(4, 6, 3))
    before = [tensor.detach().clone() for tensor in net.parameters()]
    adapters = Adapters(net)
    refused: Exception | None = None
    try:
        adapters.load(folder, "a")
        adapters.unload()
    except Exception as error:  # the caller of this function tells which are as they should be
        refused = error
    if not all(map(torch.equal, net.parameters(), before)):
        return "the weights are not what they were"
    if refused is not None:
        raise refused
    return None
