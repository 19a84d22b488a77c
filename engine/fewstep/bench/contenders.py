"""The contenders of a case: each a function that makes the same images, or at least the same network calls."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from fewstep.bench.loops import LOOPS, Draw, told
from fewstep.bench.subjects import Subject
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import build_plan
from fewstep.models.layouts.diffusers_scheduler import PREDICTION_TYPES
from fewstep.run.backends import BACKENDS

ENGINE, EAGER, DIFFUSERS, BARE = "engine", "eager", "diffusers", "bare"
KINDS = {
    ENGINE: "Engine.sample: plan, Philox noise by seed, fused update",
    EAGER: "a plain torch loop on the same network, coefficients from alphas_cumprod inside it",
    DIFFUSERS: "diffusers' pipeline on its own UNet2DModel with the same weights",
    BARE: "the network's calls alone, on a fixed input",
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Contender:
    """One of a race: a kind, for an engine on a backend, and the dtype that its network computes in."""

    kind: str
    backend: str = "torch"
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """Its kind, and what is not as usual about it: "engine openvino bfloat16"."""
        return " ".join([self.kind, *[self.backend] * (self.backend != "torch"), *[self.dtype] * (not self.exact)])

    @property
    def about(self) -> str:
        """Itself in words."""
        parts = [KINDS[self.kind], *[BACKENDS[self.backend]] * (self.kind == ENGINE), *[self.dtype] * (not self.exact)]
        return "; ".join(parts)

    @property
    def exact(self) -> bool:
        """Whether it computes in float32, as the reference of all images does."""
        return self.dtype == "float32"


@dataclass(frozen=True)
class Case:
    """What every contender is asked for."""

    sampler: str
    steps: int
    batch: int

    def __str__(self) -> str:
        return f"{self.sampler}, {self.steps} step{'s' * (self.steps > 1)}, batch {self.batch}"


def plan_of(subject: Subject, case: Case) -> Plan:
    """The engine's plan: trailing timesteps, no clipping beyond what the sampler itself needs."""
    model = subject.engine.model
    return build_plan(case.sampler, model.schedule, case.steps, prediction=model.prediction, spacing="trailing")


def engine_run(subject: Subject, case: Case) -> Callable[[int], Tensor]:
    """Engine.sample with noise by seed, as its users call it."""
    plan, asked = plan_of(subject, case), subject.asked(case.batch)
    return lambda seed: subject.engine.sample(case.batch, plan=plan, seeds=seed, **asked).images


def eager_run(subject: Subject, case: Case) -> Callable[[int], Tensor]:
    """The plain loop, with torch's noise."""
    return lambda seed: eager_images(subject, case, normals(subject, case, seed))


def eager_images(subject: Subject, case: Case, draw: Draw) -> Tensor:
    """The plain loop on given noise."""
    engine = subject.engine
    network = partial(_prediction, subject, subject.inputs(case.batch))
    return LOOPS[case.sampler](network, engine.model.schedule, case.steps, engine.model.prediction, draw)


def bare_run(subject: Subject, case: Case) -> Callable[[int], None]:
    """The network's calls and nothing else."""
    engine = subject.engine
    x = normals(subject, case, 0)().to(engine.dtype, memory_format=torch.channels_last)
    t = told(engine.model.schedule, len(engine.model.schedule) // 2, x)
    inputs = subject.inputs(case.batch)

    def run(seed: int) -> None:
        with torch.no_grad():
            for _ in range(case.steps):
                subject.module(x, t, **inputs)

    return run


def diffusers_run(subject: Subject, case: Case) -> Callable[[int], Tensor]:
    """diffusers' pipeline; call it only where `lacks_diffusers` is empty. Its images are in [0, 1]."""
    pipeline, generator = diffusers_pipeline(subject, case.sampler), _generator(subject)

    def run(seed: int) -> Tensor:
        images: Tensor = pipeline(
            batch_size=case.batch,
            generator=generator.manual_seed(seed),
            num_inference_steps=case.steps,
            output_type="pt",
        ).images
        return images

    return run


def diffusers_pipeline(subject: Subject, sampler: str) -> Any:
    """DDIMPipeline or DDPMPipeline with the subject's schedule, trailing timesteps and no clipping."""
    diffusers: Any = import_module("diffusers")
    schedule, name = subject.engine.model.schedule, sampler.upper()
    pipeline = getattr(diffusers, f"{name}Pipeline")(
        subject.theirs,
        getattr(diffusers, f"{name}Scheduler")(
            num_train_timesteps=len(schedule),
            trained_betas=schedule.betas.tolist(),
            clip_sample=False,
            prediction_type={ours: theirs for theirs, ours in PREDICTION_TYPES.items()}[
                subject.engine.model.prediction
            ],
            timestep_spacing="trailing",
        ),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def lacks_diffusers(subject: Subject, case: Case) -> str:
    """Why diffusers takes no part in this case; "" if it does."""
    if subject.lacks_diffusers:
        return subject.lacks_diffusers
    if case.sampler == "consistency":
        return "no counterpart here for consistency models"
    if case.sampler == "ddim" and len(subject.engine.model.schedule) % case.steps:
        return f"its DDIM lands beside the next timestep unless the steps divide {len(subject.engine.model.schedule)}"
    return ""


def normals(subject: Subject, case: Case, seed: int, dtype: torch.dtype = torch.float32) -> Draw:
    """Draws in the order in which diffusers' pipelines do; theirs are in the dtype of their network."""
    engine, generator = subject.engine, _generator(subject).manual_seed(seed)
    shape: Sequence[int] = (case.batch, *engine.model.shape)
    return lambda: torch.randn(shape, generator=generator, device=engine.device, dtype=dtype)


def _generator(subject: Subject) -> torch.Generator:
    return torch.Generator(subject.engine.device)


def _prediction(subject: Subject, inputs: Mapping[str, Tensor], x: Tensor, t: Tensor) -> Tensor:
    """In the dtype of x, which is float32 whatever the network computes in: a loop in bfloat16 rounds its levels."""
    answer: Tensor = subject.module(x.to(subject.engine.dtype), t, **inputs)
    return answer[:, : subject.engine.model.shape[0]].to(x)  # a learned variance is left aside, as fixed_small does
