"""The loop of diffusers' pipelines around any of its schedulers, in float64 if asked, with noise that is given."""

import importlib
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import diffusers.schedulers
import torch
from torch import Tensor

SHAPE = (2, 3, 4, 5)
Network = Callable[[Tensor, float], Tensor]


def scheduler_classes() -> dict[str, type]:
    """Every scheduler class that diffusers exports, by its name, also those whose extra is not installed here."""
    found = {}
    for module, names in sorted(diffusers.schedulers._import_structure.items()):
        for name in names:
            if name.endswith("Scheduler"):
                found[name] = getattr(_module(module, name), name)
    return dict(sorted(found.items()))


def _module(module: str, name: str) -> ModuleType:
    if module == "deprecated":
        module = {"KarrasVeScheduler": "deprecated.scheduling_karras_ve"}.get(name, "deprecated.scheduling_sde_vp")
    return importlib.import_module(f"diffusers.schedulers.{module}")


class Wide:
    """A module in which float32 means float64."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, "float64" if name == "float32" else name)


@contextmanager
def float64(scheduler_class: type) -> Iterator[None]:
    """A class of diffusers with float64 tables and arithmetic."""
    module = importlib.import_module(scheduler_class.__module__)
    kept = {name: vars(module)[name] for name in ("torch", "np") if name in vars(module)}
    default = torch.get_default_dtype()
    try:
        for name, value in kept.items():
            setattr(module, name, Wide(value))
        torch.set_default_dtype(torch.float64)
        yield
    finally:
        torch.set_default_dtype(default)
        for name, value in kept.items():
            setattr(module, name, value)


def draw(count: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(count)]


def network(outputs: int = SHAPE[1]) -> Network:
    """A smooth bounded function of x_in and t that mixes channels."""
    generator = torch.Generator().manual_seed(7)
    mix = torch.randn(outputs, SHAPE[1], generator=generator, dtype=torch.float64)

    def model(x_in: Tensor, t: float) -> Tensor:
        return torch.tanh(torch.einsum("oc,bchw->bohw", mix, x_in) + math.sin(t / 100)) * 1.2

    return model


class BrownianPath:
    """W at the sigmas it is asked for, in halves of one interval after the other, as k-diffusion's SDE solver asks.

    The first half of an interval is z of its call; the whole is what the first half leaves open, from z of the next.
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
        w = math.sqrt(begin - end) * self.z()
        self.half = begin, end, w
        return w / math.sqrt(begin - end)


def run_pipeline(
    scheduler: Any,
    model: Network,
    noise: Sequence[Tensor],
    calls: slice = slice(None),
    start_scale: float | None = None,
    **step: Any,
) -> tuple[Tensor, list[float]]:
    """The final x and the times told; noise[0] is where it starts, noise[1 + i] belongs to call i.

    `calls`: which of the scheduler's timesteps; `start_scale`: of the first noise, the scheduler's own unless given.
    """
    module = importlib.import_module(type(scheduler).__module__)
    kept = vars(module).get("randn_tensor")
    call = 0
    if kept is not None:
        module.randn_tensor = lambda *_, **__: noise[1 + call]  # type: ignore[attr-defined]
    if hasattr(scheduler, "noise_sampler"):
        scheduler.noise_sampler = BrownianPath(lambda: noise[1 + call])
    unit = scheduler.config.sigma_data if type(scheduler).__name__ == "SCMScheduler" else 1.0
    takes = inspect.signature(scheduler.step).parameters
    timesteps = scheduler.timesteps[calls]
    x = noise[0] * (unit * float(getattr(scheduler, "init_noise_sigma", 1.0)) if start_scale is None else start_scale)
    x_0 = None
    try:
        for call, t in enumerate(timesteps):
            x_in = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            given = {
                "model_output": unit * model(x_in.double() / unit, float(t)),
                "timestep": t.expand(len(x)) if "Wuerstchen" in type(scheduler).__name__ else t,
                "sample": x,
                "prev_timestep": timesteps[call + 1] if call + 1 < len(timesteps) else None,
                "timestep_back": timesteps[call - 1] if call > 0 else None,
                "old_pred_original_sample": x_0,
                "return_dict": False,
            }
            output = scheduler.step(**{name: value for name, value in given.items() if name in takes}, **step)
            x, x_0 = output[0], output[1] if len(output) > 1 else None
    finally:
        if kept is not None:
            module.randn_tensor = kept  # type: ignore[attr-defined]
    return x.double(), [float(t) for t in timesteps]
