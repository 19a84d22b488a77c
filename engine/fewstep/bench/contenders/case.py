"""What every contender is asked for, and the noise that all of them get."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.bench.loops import Draw
from fewstep.bench.reference import START, Noise
from fewstep.bench.subjects import Subject
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import build_plan
from fewstep_kernels import STREAM_INITIAL, STREAM_STEP, normal


@dataclass(frozen=True)
class Case:
    """A sampler, a number of model calls and a batch size."""

    sampler: str
    steps: int
    batch: int

    def __str__(self) -> str:
        return f"{self.sampler}, {self.steps} step{'s' * (self.steps > 1)}, batch {self.batch}"


TRAILING = ("ddim", "ddpm", "consistency")  # as the loops that people write, and diffusers' pipelines here


def plan_of(subject: Subject, case: Case) -> Plan:
    """The engine's plan, with no clipping beyond what the sampler itself needs; timesteps trail where a loop's do."""
    model = subject.engine.model
    spacing = "trailing" if case.sampler in TRAILING else None
    return build_plan(case.sampler, model.schedule, case.steps, prediction=model.prediction, spacing=spacing)


def normals(subject: Subject, case: Case, seed: int, dtype: torch.dtype = torch.float32) -> Draw:
    """Draws in the order in which diffusers' pipelines do; theirs are in the dtype of their network."""
    engine = subject.engine
    generator = torch.Generator(engine.device).manual_seed(seed)
    shape: Sequence[int] = (case.batch, *engine.model.shape)
    return lambda: torch.randn(shape, generator=generator, device=engine.device, dtype=dtype)


def in_turn(draw: Callable[[], Tensor]) -> Noise:
    """The next draw, for whichever row it is: rows ask in their order."""
    return lambda row: draw()


def stacked(plan: Plan, draw: Callable[[], Tensor]) -> Tensor:
    """The same draws as `Engine.sample` takes them, [N + 1, B, C, ...]: the start's, then those of each noisy row."""
    noise = [draw()]
    noise += [draw() if s != 0 else torch.zeros_like(noise[0]) for s in plan.column("s").tolist()]
    return torch.stack(noise)


def seeded(subject: Subject, case: Case, seed: int) -> Noise:
    """The engine's own noise of the seeds seed, seed + 1, ...: a function of seed, row and element."""
    seeds = torch.arange(seed, seed + case.batch, device=subject.engine.device)
    shape = list(subject.engine.model.shape)

    def noise(row: int) -> Tensor:
        stream, step = (STREAM_INITIAL, 0) if row == START else (STREAM_STEP, row)
        return normal(seeds, torch.full_like(seeds, step), stream, shape)

    return noise
