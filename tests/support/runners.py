"""The small engine under both runners."""

from typing import Any

import torch
from torch import Tensor, nn

from fewstep import ClassLabels, Engine, schedules
from fewstep.run.graphs.capture import CudaCapturer
from fewstep.run.graphs.runner import GraphRunner
from support.recorder import RecorderCapturer
from support.small import SHAPE, SmallNet

BUDGET = 10**9  # bytes of graphs, more than any test takes


def engines(device: str, net: nn.Module | None = None, **options: Any) -> tuple[Engine, Engine, GraphRunner]:
    """The same model under both runners."""
    capturer = RecorderCapturer() if device == "cpu" else CudaCapturer(torch.device(device))
    runner = GraphRunner(capturer, BUDGET)
    settings: dict[str, Any] = {
        "schedule": schedules.linear(),
        "shape": SHAPE,
        "labels": ClassLabels(10, null=10),
        "plan": {"sampler": "ddim", "steps": 4, "clip": 1.0},
        "device": device,
    }
    model = net or SmallNet()
    return (
        Engine(model, runner="eager", **settings | options),
        Engine(model, runner=runner, **settings | options),
        runner,
    )


def used_three_times(engine: Engine, **arguments: Any) -> Tensor:
    for _ in range(2):
        engine.sample(**arguments)
    return engine.sample(**arguments).images
