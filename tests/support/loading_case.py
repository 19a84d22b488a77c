"""A tiny model on disk, and what refusing it must look like."""

from collections.abc import Callable
from typing import Any

import pytest

from fewstep.errors import ModelError
from fewstep.models.net.config import UNetConfig
from fewstep.models.spec import ModelSpec

CONFIG = UNetConfig(
    in_channels=1,
    out_channels=1,
    channels=(8, 8),
    layers=1,
    down_attention=(False, False),
    up_attention=(False, True),
    down=("conv",),
    up=("conv",),
    groups=4,
    mid_attention_groups=4,
    num_classes=4,
)
SPEC = ModelSpec(
    name="tiny",
    family="ddpm",
    unet=CONFIG,
    shape=(1, 8, 8),
    schedule={"name": "linear", "num_timesteps": 100},
    prediction="eps",
    plan={"sampler": "ddim", "steps": 4},
    labels={"kind": "classes", "count": 3, "null": 3},
)


def refusal(action: Callable[[], Any]) -> str:
    """The message of the ModelError that `action` raises: one line."""
    with pytest.raises(ModelError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message
