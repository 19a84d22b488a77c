"""Stable Diffusion 1.5 and 2.1 in full, with random weights, at 128x128 pixels: one model in memory at a time."""

import gc
import json
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from fewstep.models.layouts import diffusers_condition
from fewstep.models.net.build import empty_unet
from fewstep.models.net.conditional import ConditionalUNet
from support.conditional_case import call_ours, call_theirs, error
from support.conditional_configs import FULL, condition_inputs

pytestmark = pytest.mark.long


def taken_over(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> ConditionalUNet:
    """Our U-Net of these tensors, each of which is let go of when it has its place."""
    read = diffusers_condition.config_from_diffusers_condition(config, "config.json")
    unet = empty_unet(read)
    for name, pieces in diffusers_condition.naming(read).keys(unet).items():
        rows = [piece.ordered(tensors.pop(piece.name)) for piece in pieces]
        owner, _, own = name.rpartition(".")
        value = nn.Parameter(torch.cat(rows) if len(rows) > 1 else rows[0], requires_grad=False)
        setattr(unet.get_submodule(owner), own, value)
    assert not tensors, sorted(tensors)[:5]
    assert isinstance(unet, ConditionalUNet)
    return unet.eval()


@pytest.mark.parametrize("name", ["sd1.5", "sd2.1"])
def test_one_call_of_the_whole_network_is_diffusers(name: str) -> None:
    torch.manual_seed(0)
    theirs = UNet2DConditionModel(**FULL[name]).eval()
    arguments = condition_inputs(FULL[name], batch=2, size=16)
    right, config = call_theirs(theirs, arguments), json.loads(theirs.to_json_string())
    tensors = dict(theirs.state_dict())
    del theirs
    gc.collect()
    difference = error(call_ours(taken_over(config, tensors), arguments), right)
    print(f"{name}: one call off by {difference:.1e} of its norm")
    assert difference <= 1e-5
