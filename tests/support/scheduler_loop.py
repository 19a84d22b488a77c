"""The loop of diffusers' pipelines around any of its schedulers, with noise that is given."""

import importlib
import importlib.util
import inspect
import math
import pkgutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import diffusers.schedulers
import torch
from torch import Tensor

from support.diffusers_loops import Wide, module_of

Network = Callable[[Tensor, float], Tensor]


def scheduler_classes() -> dict[str, type]:
    """Every scheduler class that diffusers exports, by its name, also where what it needs is not installed.

    torchsde may be a stand-in: it is asked for a noise sampler, and those are given.
    """
    if importlib.util.find_spec("torchsde") is None:
        sys.modules.setdefault("torchsde", ModuleType("torchsde"))
    package = diffusers.schedulers
    found = {}
    for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not info.ispkg:
            module = importlib.import_module(info.name)
            found |= {name: each for name, each in vars(module).items() if getattr(each, "__module__", "") == info.name}
    exported = {name for names in package._import_structure.values() for name in names}
    return {
        name: found[name]
        for name in sorted(found)
        if name.endswith("Scheduler") and (name in exported or hasattr(package, name))
    }


@contextmanager
def in_float64(scheduler_class: type) -> Iterator[None]:
    """A class of diffusers with float64 tables and arithmetic, and Python's numbers as float64 tensors."""
    module, default = module_of(scheduler_class), torch.get_default_dtype()
    kept = {name: vars(module)[name] for name in ("torch", "np") if name in vars(module)}
    try:
        vars(module).update({name: Wide(each) for name, each in kept.items()})
        torch.set_default_dtype(torch.float64)
        yield
    finally:
        torch.set_default_dtype(default)
        vars(module).update(kept)


class BrownianPath:
    """The noise sampler of k-diffusion's SDE solvers, which ask for half of an interval and then for the whole.

    The half is z of its call. The whole goes on from there with z of the next call.
    """

    def __init__(self, z: Callable[[], Tensor]) -> None:
        self.z = z
        self.half: tuple[float, float, Tensor] | None = None

    def __call__(self, sigma: Any, sigma_next: Any) -> Tensor:
        begin, end = float(sigma), float(sigma_next)
        if self.half is not None and self.half[0] == begin:
            _, middle, w = self.half
            self.half = None
            return (w + math.sqrt(middle - end) * self.z()) / math.sqrt(begin - end)
        self.half = begin, end, math.sqrt(begin - end) * self.z()
        return self.z()


def run_pipeline(
    scheduler: Any,
    model: Network,
    noise: Sequence[Tensor],
    calls: slice = slice(None),
    touch: Callable[[Tensor], Tensor] = lambda x: x,
    start: Tensor | None = None,
    **step: Any,
) -> Tensor:
    """The final x; noise[0] is where it starts, noise[1 + i] belongs to call i.

    Args:
        calls: which of the scheduler's timesteps are run.
        touch: what somebody else makes of x after each step.
        start: where it starts instead.
    """
    module, call, x_0 = module_of(type(scheduler)), 0, None
    kept = {name: each for name, each in vars(module).items() if name == "randn_tensor"}
    vars(module).update(dict.fromkeys(kept, lambda *_, **__: noise[1 + call]))
    if hasattr(scheduler, "noise_sampler"):
        scheduler.noise_sampler = BrownianPath(lambda: noise[1 + call])
    if scheduler.timesteps.is_floating_point():
        scheduler.timesteps = scheduler.timesteps.to(torch.get_default_dtype())
    name, takes = type(scheduler).__name__, inspect.signature(scheduler.step).parameters
    unit = scheduler.config.sigma_data if name == "SCMScheduler" else 1.0
    timesteps = scheduler.timesteps[calls]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(calls.start or 0)
    x = noise[0] * (unit * float(getattr(scheduler, "init_noise_sigma", 1.0))) if start is None else start
    try:
        for call, t in enumerate(timesteps):
            x_in = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            given = {
                "model_output": unit * model(x_in.double() / unit, float(t)),
                "timestep": t.expand(len(x)) if name == "DDPMWuerstchenScheduler" else t,
                "sample": x,
                "prev_timestep": timesteps[call + 1] if call + 1 < len(timesteps) else None,
                "timestep_back": timesteps[call - 1] if call > 0 else None,
                "old_pred_original_sample": x_0,
                "return_dict": False,
            }
            output = scheduler.step(**{key: value for key, value in given.items() if key in takes}, **step)
            x, x_0 = touch(output[0]), output[1] if len(output) > 1 else None
    finally:
        vars(module).update(kept)
    return x.double()
