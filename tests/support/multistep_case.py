"""Whole loops of diffusers' multistep schedulers, in float64, told the times that a plan tells its network."""

import importlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from support.plan_interpreter import Network, run_in_engine, run_plan

SHAPE = (2, 3, 4, 5)


class Wide:
    """A module in which float32 means float64."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, "float64" if name == "float32" else name)


@contextmanager
def in_float64(scheduler: type) -> Iterator[ModuleType]:
    """The module of a scheduler with float64 tables and arithmetic."""
    module = importlib.import_module(scheduler.__module__)
    torch.set_default_dtype(torch.float64)
    try:
        with patch.object(module, "torch", Wide(torch)), patch.object(module, "np", Wide(np), create=True):
            yield module
    finally:
        torch.set_default_dtype(torch.float32)


def noise_for(steps: int) -> list[Tensor]:
    """Noise for the start and each call; none for the last, where diffusers may draw and we do not."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64) * (i < steps) for i in range(steps + 1)]


def network(x_in: Tensor, t: float) -> Tensor:
    """A smooth bounded function of x_in and t that mixes channels."""
    mix = torch.randn(3, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return torch.tanh(torch.einsum("oc,bchw->bohw", mix, x_in) + math.sin(t / 100)) * 1.2


def run_diffusers(
    scheduler: Any, plan: Plan, noise: Sequence[Tensor], model: Network = network, told: Sequence[float] | None = None
) -> Tensor:
    """The pipeline's loop from where the plan starts: the final x. The network is told the plan's times."""
    module = importlib.import_module(type(scheduler).__module__)
    told = plan.column("t").tolist() if told is None else told
    assert len(scheduler.timesteps) == len(told)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    x, call = noise[0] * plan.init_scale, 0
    with patch.object(module, "randn_tensor", lambda *_, **__: noise[1 + call], create=True):
        for call, t in enumerate(scheduler.timesteps):  # noqa: B007 (randn_tensor reads it)
            x_in = scheduler.scale_model_input(x, t)
            x = scheduler.step(model(x_in, told[call]), t, x, return_dict=False)[0]
    assert x.dtype == torch.float64
    return x


def run_ours(plan: Plan, noise: Sequence[Tensor], model: Network = network) -> Tensor:
    """Through `Engine.sample`, held to the plan read by plain float64 code."""
    ours = run_in_engine(plan, model, noise)
    read = run_plan(plan, model, plan.init_scale * noise[0], noise[1:])
    assert difference(ours, read) <= 1e-10 * max(1.0, float(read.abs().max()))
    return ours


def difference(ours: Tensor, theirs: Tensor) -> float:
    print(f"largest difference {(largest := float((ours - theirs).abs().max())):.1e}")
    return largest


def flow_levels(scheduler: Any) -> Levels:
    """The levels that a scheduler with use_flow_sigmas has set."""
    sigmas = scheduler.sigmas.numpy()
    return Levels(1000 * sigmas[:-1], 1 - sigmas, sigmas, "flow")
