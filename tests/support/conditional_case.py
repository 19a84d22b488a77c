"""Our conditional U-Net with the weights of a UNet2DConditionModel, and the calls of both."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from fewstep.models.layouts import diffusers_condition
from fewstep.models.net.build import empty_unet
from fewstep.models.net.conditional import ConditionalUNet
from fewstep.models.safe_load import TensorDict, fill

# What diffusers calls an argument, and we.
NAMES = {
    "sample": "x",
    "timestep": "t",
    "encoder_hidden_states": "context",
    "class_labels": "labels",
    "timestep_cond": "guidance",
}
ADDED = {"text_embeds": "pooled", "time_ids": "sizes"}


def as_ours(theirs: UNet2DConditionModel) -> ConditionalUNet:
    """Without the way over a disk."""
    config = diffusers_condition.config_from_diffusers_condition(json.loads(theirs.to_json_string()), "config.json")
    unet = empty_unet(config)
    fill(unet, TensorDict(Path("memory"), theirs.state_dict()), diffusers_condition.naming(config).keys(unet))
    assert isinstance(unet, ConditionalUNet)
    return unet.eval()


def ours_named(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of diffusers' call by our names; those that are so named already stay."""
    found = {NAMES.get(name, name): value for name, value in arguments.items() if name != "added_cond_kwargs"}
    added = arguments.get("added_cond_kwargs") or {}
    return found | {ADDED[name]: value for name, value in added.items()}


@torch.no_grad()
def call_theirs(theirs: UNet2DConditionModel, arguments: dict[str, Any]) -> Tensor:
    return theirs(**arguments).sample


@torch.no_grad()
def call_ours(ours: ConditionalUNet, arguments: dict[str, Any]) -> Tensor:
    return ours(**ours_named(arguments))


@torch.no_grad()
def prepared(ours: ConditionalUNet, arguments: dict[str, Any], times: Tensor) -> dict[str, Tensor]:
    """What a session would hold for lanes that were prepared one by one."""
    condition = {name: rows for name, rows in ours_named(arguments).items() if name not in ("x", "t")}
    batch = len(next(iter(condition.values())))
    lanes = [ours.prepare_condition({name: rows[i] for name, rows in condition.items()}, times) for i in range(batch)]
    return {name: torch.stack([lane[name] for lane in lanes]) for name in lanes[0]}


def error(found: Tensor, right: Tensor) -> float:
    """The norm of the difference, as a share of the norm of what is right."""
    return float((found.double() - right.double()).norm() / right.double().norm())
