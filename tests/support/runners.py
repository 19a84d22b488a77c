"""The small engine under both runners."""

from typing import Any

import torch
from torch import Tensor, nn

from fewstep import Engine
from fewstep.run.graphs.capture import CudaCapturer
from fewstep.run.graphs.runner import GraphRunner
from support.recorder import RecorderCapturer
from support.small import SmallNet, small_engine

BUDGET = 10**9  # bytes of graphs, more than any test takes


def engines(device: str, net: nn.Module | None = None, **options: Any) -> tuple[Engine, Engine, GraphRunner]:
    """The same model under both runners."""
    capturer = RecorderCapturer() if device == "cpu" else CudaCapturer(torch.device(device))
    runner = GraphRunner(capturer, BUDGET)
    module = net or SmallNet()
    options |= {"device": device, "backend": "torch"}  # the one whose work can be recorded
    return small_engine(module, runner="eager", **options), small_engine(module, runner=runner, **options), runner


def used_three_times(engine: Engine, **arguments: Any) -> Tensor:
    for _ in range(2):
        engine.sample(**arguments)
    return engine.sample(**arguments).images
