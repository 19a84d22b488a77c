"""diffusers: its pipeline where it has one, else its scheduler's own loop around its module."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.bench.contenders.case import Case
from fewstep.bench.contenders.contender import Contender
from fewstep.bench.contenders.racer import Racer
from fewstep.bench.subjects import Subject
from fewstep.models.layouts.diffusers_scheduler import PREDICTION_TYPES

SCHEDULERS = ("ddim", "ddpm")  # those whose loop is compared here


class Diffusers(Racer):
    """diffusers with the subject's weights and schedule, trailing timesteps and no clipping."""

    def __init__(self, contender: Contender, subject: Subject, lacks: str = "") -> None:
        super().__init__(contender, subject, lacks or subject.lacks_diffusers)

    @property
    def networks(self) -> Sequence[nn.Module]:
        """Its module."""
        return () if self.subject.theirs is None else (self.subject.theirs,)

    def absent(self, case: Case) -> str:
        """Also where its sampler is another, or lands elsewhere."""
        if self.lacks:
            return self.lacks
        if case.sampler not in SCHEDULERS:
            return f"no counterpart here for {case.sampler}"
        levels = len(self.subject.engine.model.schedule)
        if case.sampler == "ddim" and levels % case.steps:
            return f"its DDIM lands beside the next timestep unless the steps divide {levels}"
        return ""

    def images(self, case: Case, seed: int) -> Tensor:
        """What its scheduler returned last: a pipeline's images are clamped, which would hide differences."""
        pipeline = self.pipeline(case)
        step, kept = pipeline.scheduler.step, []

        def keep(*arguments: object, **named: object) -> object:
            kept.append(step(*arguments, **named))
            return kept[-1]

        pipeline.scheduler.step = keep
        self._sample(pipeline, case, seed)
        last: Tensor = kept[-1].prev_sample
        return last.float()

    def run(self, case: Case) -> Callable[[int], object]:
        """Its pipeline, whose images are in [0, 1]."""
        pipeline = self.pipeline(case)
        return lambda seed: self._sample(pipeline, case, seed)

    def pipeline(self, case: Case) -> Any:
        """DDIMPipeline or DDPMPipeline; its loop alone, for a module that these cannot call."""
        diffusers: Any = import_module("diffusers")
        model, name = self.subject.engine.model, case.sampler.upper()
        scheduler = getattr(diffusers, f"{name}Scheduler")(
            num_train_timesteps=len(model.schedule),
            trained_betas=model.schedule.betas.tolist(),
            clip_sample=False,
            prediction_type={ours: theirs for theirs, ours in PREDICTION_TYPES.items()}[model.prediction],
            timestep_spacing="trailing",
        )
        if self.subject.their_arguments(1, self.subject.engine.dtype):
            return SchedulerLoop(self.subject, scheduler)
        pipeline = getattr(diffusers, f"{name}Pipeline")(self.subject.theirs, scheduler)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _sample(self, pipeline: Any, case: Case, seed: int) -> Any:
        generator = torch.Generator(self.subject.engine.device).manual_seed(seed)
        return pipeline(
            batch_size=case.batch, generator=generator, num_inference_steps=case.steps, output_type="pt"
        ).images


class SchedulerLoop:
    """The loop of diffusers' pipelines without their texts and pictures: set_timesteps, module, step."""

    def __init__(self, subject: Subject, scheduler: Any) -> None:
        self.subject, self.scheduler = subject, scheduler
        self.images = torch.empty(0)

    @torch.no_grad()
    def __call__(self, batch_size: int, generator: torch.Generator, num_inference_steps: int, **_: object) -> Any:
        """Runs; `images` are what it ends with."""
        engine, dtype = self.subject.engine, self.subject.engine.dtype
        shape = (batch_size, *engine.model.shape)
        x = torch.randn(shape, generator=generator, device=engine.device, dtype=dtype)
        arguments = self.subject.their_arguments(batch_size, dtype)
        self.scheduler.set_timesteps(num_inference_steps, device=engine.device)
        for t in self.scheduler.timesteps:
            m = self.subject.theirs(x, t, **arguments).sample[:, : shape[1]]  # without a variance that it learned
            x = self.scheduler.step(m, t, x, generator=generator).prev_sample
        self.images = x
        return self
