"""Sampling at each number of steps, and scoring what comes out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewstep.errors import ArgumentError
from fewstep.evaluate.bound import Bound, variational_bound
from fewstep.evaluate.features import CLASSES, SHAPE, DigitClassifier
from fewstep.evaluate.real import Digits, first_of_each
from fewstep.evaluate.report import Row
from fewstep.evaluate.scores import Judge, Scores
from fewstep.request.conditions import Classes
from fewstep.results import Samples
from fewstep.run.denoiser import ModuleDenoiser, label_argument_of

if TYPE_CHECKING:
    from fewstep.engine import Engine
    from fewstep.run.callbacks import Callback, Step

SHEET_COLUMNS, SHEET_ROWS = 10, 10
Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class Settings:
    """What to sample."""

    n: int = 5000
    steps: Sequence[int] = (1, 2, 4, 8, 50)
    sampler: str | None = None  # the model's own
    guidance_scale: float | None = None
    seed: int = 0  # of the first sample; the others count up


@dataclass(frozen=True)
class Found:
    """What an evaluation found."""

    rows: list[Row]
    floor: Scores
    sheets: dict[int, Samples]  # steps -> some of the samples, a column for each class


def evaluate(
    engine: "Engine",
    classifier: DigitClassifier,
    digits: Digits,
    settings: Settings,
    advance: Advance | None = None,
) -> Found:
    """Sample n digits at each number of steps with the same seeds and labels, and score them as 8-bit pictures.

    Args:
        advance: called with (done, total) model calls of single samples.

    Raises:
        ArgumentError: a model that is not of digits, or steps, sampler or guidance that it cannot do; before sampling.
        FewstepError: a sample that is not finite.
    """
    check_model(engine)
    for steps in settings.steps:
        engine.plan(steps, settings.sampler, guidance_scale=settings.guidance_scale)
    judge = Judge(classifier, digits, settings.n)
    labels = judge.labels if isinstance(engine.model.conditions, Classes) else None
    total = settings.n * sum(settings.steps)
    rows, sheets, done = [], {}, 0
    for steps in settings.steps:
        samples = engine.sample(
            settings.n,
            labels=labels,
            steps=steps,
            sampler=settings.sampler,
            guidance_scale=settings.guidance_scale,
            seeds=settings.seed,
            callback=None if advance is None else _counting(advance, done, total),
        )
        done += settings.n * steps
        images = torch.from_numpy(samples.numpy()).permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1
        rows.append(
            Row(
                sampler=samples.plans[0].sampler,
                steps=len(samples.plans[0]),
                scores=judge.score(images, labels),
                ms_per_image=1000 * samples.seconds / settings.n,
                seconds=samples.seconds,
            )
        )
        sheets[steps] = _sheet(samples)
    return Found(rows, judge.floor, sheets)


def model_bound(
    engine: "Engine", digits: Digits, count: int, *, seed: int = 0, batch: int = 64, advance: Advance | None = None
) -> list[Bound]:
    """`variational_bound` of the engine's model on `count` held-out digits, given their classes where it takes any.

    Raises:
        ArgumentError: a model with no such bound: one that was distilled into a consistency model, say.
    """
    check_model(engine)
    if engine.model.schedule.kind == "ve" or engine.model.prediction == "consistency":
        allowed = "a diffusion model on a schedule of kind vp or flow, whose reverse steps have a likelihood"
        raise ArgumentError(
            "bpd", f"{engine.model.prediction} prediction on a {engine.model.schedule.name} schedule", allowed
        )
    if engine.model.guidance.inputs:
        allowed = "one that does not take the guidance scale: guided predictions belong to no likelihood"
        raise ArgumentError("bpd", f"{engine.model.name or 'a model'} with the guidance scale as an input", allowed)
    part = first_of_each(digits.held_out, count)
    channels = engine.model.shape[0]
    label_argument, index = label_argument_of(engine.module), engine.model.time == "index"
    denoiser = ModuleDenoiser(engine.module, label_argument, (channels, 2 * channels), index=index)

    @torch.inference_mode()
    def predict(x_t: Tensor, t: Tensor, which: slice) -> Tensor:
        classed = isinstance(engine.model.conditions, Classes)
        condition = {"labels": part.labels[which].to(engine.device)} if classed else {}
        x_in = x_t.to(engine.device, engine.dtype, memory_format=torch.channels_last)
        return denoiser.predict(x_in, t.to(engine.device), condition).cpu()

    return variational_bound(
        predict, part.images, engine.model.schedule, engine.model.prediction, seed=seed, batch=batch, advance=advance
    )


def check_model(engine: "Engine") -> None:
    """ArgumentError unless the engine's model makes digits, as the classifier and the real ones are."""
    if engine.model.shape != SHAPE:
        allowed = f"a model of digits, shape {list(SHAPE)}"
        raise ArgumentError("model", f"{engine.model.name or 'a model'} of shape {list(engine.model.shape)}", allowed)
    taken = engine.model.conditions
    if taken.example is not None and not (isinstance(taken, Classes) and taken.count == CLASSES):
        raise ArgumentError("model", f"{engine.model.name or 'a model'} with {taken}", f"{CLASSES} classes, or none")


def _counting(advance: Advance, before: int, total: int) -> "Callback":
    def count(step: "Step") -> None:
        done = step.samples[0] * step.total + (step.index + 1) * len(step.samples)
        advance(before + done, total)

    return count


def _sheet(samples: Samples) -> Samples:
    """The first of the samples; a column for each class where they have one and there are enough."""
    chosen = list(range(min(len(samples), SHEET_COLUMNS * SHEET_ROWS)))
    if samples.labels is not None:
        of_class = [[i for i, label in enumerate(samples.labels) if label == digit] for digit in range(CLASSES)]
        rows = min(SHEET_ROWS, *(len(members) for members in of_class))
        if rows:
            chosen = [of_class[digit][row] for row in range(rows) for digit in range(CLASSES)]
    labels = None if samples.labels is None else [float(samples.labels[i]) for i in chosen]
    scales = None if samples.guidance_scales is None else [samples.guidance_scales[i] for i in chosen]
    seeds = [samples.seeds[i] for i in chosen]
    return Samples(samples.images[chosen], seeds, samples.plan, labels, guidance_scales=scales)
