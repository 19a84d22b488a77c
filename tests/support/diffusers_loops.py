"""Whole loops of diffusers' schedulers, and of our plans, with the same model and the same noise.

diffusers keeps its tables in float32. A comparison is made in one of two ways:

float64     diffusers' own code with every float32 in it read as float64 (`widened`), and our own schedules. The two
            programs then compute the same real numbers and must agree to TOLERANCE.
as shipped  diffusers untouched, and our schedule built from its float32 alphas_cumprod. What is left is diffusers'
            float32 arithmetic, within `rounding_bound`.
"""

import math
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any
from unittest.mock import patch

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import Clip
from support.plan_interpreter import run_in_engine, run_plan

TOLERANCE = 1e-8
SHAPE = (2, 3, 4, 5)
PREDICTIONS = {"eps": "epsilon", "x_0": "sample", "v": "v_prediction"}
CLIPS: dict[str, tuple[Clip | None, dict[str, Any]]] = {
    "no clip": (None, {"clip_sample": False}),
    "clip": (Clip(0.8), {"clip_sample": True, "clip_sample_range": 0.8}),
    "dynamic threshold": (
        Clip(1.5, 0.9),
        {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.5},
    ),
}
COMPARED = (
    "DDPMScheduler",
    "DDIMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "EDMEulerScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LTXEulerAncestralRFScheduler",
    "LCMScheduler",
    "TCDScheduler",
    "FlowMatchLCMScheduler",
    "CMStochasticIterativeScheduler",
    "SCMScheduler",
    "FlowMapEulerDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "EDMDPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
)


class Wide:
    """A module in which float32 means float64."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, "float64" if name == "float32" else name)


def module_of(scheduler: type) -> ModuleType:
    """Where a scheduler is written."""
    return sys.modules[scheduler.__module__]


def widened(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' schedulers with float64 tables and arithmetic."""
    for name in COMPARED:
        module = module_of(getattr(diffusers, name))
        monkeypatch.setattr(module, "torch", Wide(torch))
        monkeypatch.setattr(module, "np", Wide(np), raising=False)


def draw(count: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(count)]


def noise_for(steps: int, last: float = 0.0) -> list[Tensor]:
    """Noise for the start and each call; that of the last call is zero, as diffusers may draw it where we do not."""
    noise = draw(steps + 1)
    noise[-1] = last * noise[-1]
    return noise


def dummy_model(outputs: int = SHAPE[1]) -> Callable[[Tensor, float], Tensor]:
    """A smooth bounded function of x_in and t that mixes channels."""
    generator = torch.Generator().manual_seed(7)
    mix = torch.randn(outputs, SHAPE[1], generator=generator, dtype=torch.float64)

    def model(x_in: Tensor, t: float) -> Tensor:
        return torch.tanh(torch.einsum("oc,bchw->bohw", mix, x_in) + math.sin(t / 100)) * 1.2

    return model


def run_diffusers(
    scheduler: Any,
    model: Callable[[Tensor, float], Tensor],
    noise: list[Tensor],
    monkeypatch: pytest.MonkeyPatch,
    calls: int | None = None,
    **step: Any,
) -> tuple[Tensor, list[float]]:
    """The pipeline's loop: final x and the timesteps; noise[0] is where it starts, noise[1 + i] belongs to call i.

    calls: how many of its timesteps are called, where it lists the end too.
    """
    call, timesteps = 0, scheduler.timesteps[:calls]
    module = module_of(type(scheduler))
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: noise[1 + call], raising=False)
    x = noise[0] * float(getattr(scheduler, "init_noise_sigma", 1.0))
    for call, t in enumerate(timesteps):  # noqa: B007 (randn_tensor reads it)
        x_in = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(model(x_in.double(), float(t)), t, x, return_dict=False, **step)[0]
    return x.double(), [float(t) for t in timesteps]


def run_diffusers_as_told(
    scheduler: Any, plan: Plan, model: Callable[[Tensor, float], Tensor], noise: list[Tensor], **step: Any
) -> Tensor:
    """The same loop from where the plan starts, with the network told the plan's times: the final x."""
    if hasattr(scheduler, "set_begin_index"):  # or it looks for the first of its timesteps, which need not differ
        scheduler.set_begin_index(0)
    assert len(scheduler.timesteps) == len(plan)
    call, x = 0, noise[0] * plan.init_scale
    module = module_of(type(scheduler))
    with patch.object(module, "randn_tensor", lambda *_, **__: noise[1 + call], create=True):
        for call, t in enumerate(scheduler.timesteps):
            m = model(scheduler.scale_model_input(x, t).double(), float(plan.levels.t[call]))
            x = scheduler.step(m, t, x, return_dict=False, **step)[0]
    return x.double()


def run_ours(plan: Plan, model: Callable[[Tensor, float], Tensor], noise: list[Tensor]) -> Tensor:
    """Through `Engine.sample`, held to the plan read by plain float64 code."""
    ours = run_in_engine(plan, model, noise)
    read = run_plan(plan, model, plan.init_scale * noise[0], noise[1:])
    assert difference(ours, read) <= 1e-10 * max(1.0, float(read.abs().max()))
    return ours


def rounding_bound(plan: Plan) -> float:
    """What diffusers' float32 coefficients may do to a run.

    A coefficient there is the result of about four float32 operations, each off by at most 2^-24 of its value; the
    two of a sum make 4 * 2^-23 a call. Where x_0 is not clipped, k_m carries that into x_0: 157 at the noisy end.
    """
    gain = 1.0 if np.isfinite(plan.column("clip")).all() else max(1.0, float(np.abs(plan.column("k_m")).max()))
    return 4 * 2**-23 * len(plan) * gain


def difference(ours: Tensor, theirs: Tensor) -> float:
    print(f"largest difference {(largest := float((ours - theirs).abs().max())):.1e}")
    return largest
