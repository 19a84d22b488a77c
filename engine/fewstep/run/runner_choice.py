"""Where an engine runs, and by which runner: what was asked for, or what there is."""

from typing import Literal

import torch

from fewstep.checks import named, one_of
from fewstep.errors import ArgumentError
from fewstep.run.graphs import CudaCapturer, GraphRunner
from fewstep.run.runners import EagerRunner, Runner

RunnerName = Literal["auto", "eager", "graph"]
GRAPH_SHARE = 4  # of the device's memory, a quarter may be held by graphs


def runner_for(runner: str | Runner, device: torch.device) -> Runner:
    """The runner of a name ("auto", "eager" or "graph") for a device, or what was handed over.

    Raises:
        ArgumentError: another name, or graphs where there is no CUDA device.
    """
    if not isinstance(runner, str) and callable(getattr(runner, "prepare", None)):
        return runner
    if not one_of(runner, ("auto", "eager", "graph")):
        raise ArgumentError("runner", runner, named(("auto", "eager", "graph", "a Runner"), runner))
    if runner == "eager" or (runner == "auto" and device.type != "cuda"):
        return EagerRunner()
    if device.type != "cuda":
        raise ArgumentError("runner", runner, f"eager on {device.type}: graphs need a CUDA device")
    return GraphRunner(CudaCapturer(device), torch.cuda.get_device_properties(device).total_memory // GRAPH_SHARE)


def chosen_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, checked to be there; CUDA if there is one where none is asked for."""
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=chosen).device
    except (RuntimeError, AssertionError, TypeError):
        available = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        raise ArgumentError("device", str(device), ", ".join(["cpu", *available])) from None
