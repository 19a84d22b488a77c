"""Sampling at each number of steps, and scoring what comes out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewstep.checks import integer
from fewstep.diffusion.samplers import SAMPLERS
from fewstep.errors import ArgumentError, FewstepError
from fewstep.evaluate.bound import Bound, variational_bound
from fewstep.evaluate.features import Classifier
from fewstep.evaluate.likeness import Likeness
from fewstep.evaluate.real import Real, first_of_each
from fewstep.evaluate.report import Row, pair_name, sheet_name
from fewstep.evaluate.scores import Judge, Scores, check_count
from fewstep.evaluate.sheets import PAIRS, Chosen, sheet, side_by_side
from fewstep.request.conditions import Classes
from fewstep.results import Samples
from fewstep.run.callbacks import counting
from fewstep.run.denoiser import ModuleDenoiser
from fewstep.run.inputs import Inputs

if TYPE_CHECKING:
    from fewstep.diffusion.plan import Plan
    from fewstep.engine import Engine

STEPS = (1, 2, 4, 8, 50)
TEACHER_STEPS = 50
Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class Settings:
    """What to sample."""

    n: int = 5000
    steps: Sequence[int] = STEPS
    sampler: str | None = None  # the model's own
    guidance_scale: float | None = None  # the model's own; a teacher is asked for the same
    seed: int = 0  # of the first sample; the others count up
    teacher_steps: int | None = None  # see `usual_teacher_steps`


@dataclass(frozen=True)
class Found:
    """What an evaluation found."""

    rows: list[Row]
    floor: Scores
    sheets: dict[str, bytes]  # file name -> PNG
    teacher: Row | None = None
    notes: list[str] = field(default_factory=list)  # which scores there cannot be, and why


@dataclass(frozen=True)
class Drawn:
    """Samples, and the same as 8-bit pictures."""

    samples: Samples
    images: Tensor  # [n, C, H, W] float32 in [-1, 1]


def evaluate(
    engine: "Engine",
    classifier: Classifier,
    real: Real,
    settings: Settings,
    advance: Advance | None = None,
    teacher: "Engine | None" = None,
) -> Found:
    """Sample n images at each number of steps with the same seeds and labels, and score them as 8-bit pictures.

    Args:
        advance: called with (done, total) model calls of single samples.
        teacher: is asked for the same seeds, labels and guidance scale; each picture is then compared with its own.

    Raises:
        ArgumentError: a model that is not of such images, or steps, sampler or guidance that it cannot do; before
            sampling.
        FewstepError: a sample that is not finite, by its number of steps and its seed.
    """
    check_request(engine, real, settings, teacher)
    judge = Judge(classifier, real, settings.n)
    labels = judge.labels if takes_labels(engine) else None  # nor is its teacher told any
    asked = _Asked(settings, labels, real, advance, settings.n * sum(settings.steps))
    taught = None
    if teacher is not None:
        plan, scale = teacher_plan(teacher, engine, settings)
        asked.total += settings.n * len(plan)
        taught = asked.draw(teacher, f"{len(plan)} steps of the teacher", plan=plan, guidance_scale=scale)
    rows, sheets = [], {}
    for steps in settings.steps:
        drawn = asked.draw(
            engine,
            f"{steps} step{'s' * (steps > 1)}",
            steps=steps,
            sampler=settings.sampler,
            guidance_scale=settings.guidance_scale,
        )
        likeness = None if taught is None else Likeness.of(drawn.images, taught.images)
        rows.append(_row(drawn, judge, asked.labels_of(engine), likeness))
        sheets[sheet_name(steps)] = sheet(drawn.samples, asked.chosen)
        if taught is not None:
            sheets[pair_name(steps)] = side_by_side(taught.samples, drawn.samples, asked.chosen.rows(PAIRS))
    beside = None if taught is None or teacher is None else _row(taught, judge, asked.labels_of(teacher), None)
    return Found(rows, judge.floor, sheets, beside, judge.notes)


class _Asked:
    """What every run is asked for, whichever model makes it."""

    def __init__(
        self, settings: Settings, labels: list[int] | None, real: Real, advance: Advance | None, total: int
    ) -> None:
        self.settings, self.labels, self.advance, self.total, self.done = settings, labels, advance, total, 0
        self.chosen = Chosen.of(labels, settings.n, real.classes, real.shape[1:])

    def labels_of(self, engine: "Engine") -> list[int] | None:
        """The labels for a model; None for one that takes none."""
        return self.labels if takes_labels(engine) else None

    def draw(self, engine: "Engine", words: str, **how: Any) -> Drawn:
        """n samples. FewstepError, `words` in front, for one that is not finite."""
        n, advance = self.settings.n, self.advance
        callback = advance and counting(lambda done, _: advance(self.done + done, self.total), n)
        samples = engine.sample(n, labels=self.labels_of(engine), seeds=self.settings.seed, callback=callback, **how)
        self.done += n * len(samples.plans[0])
        try:
            pixels = samples.numpy()
        except FewstepError as error:
            raise FewstepError(f"at {words}: {error}") from error
        return Drawn(samples, torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1)


def _row(drawn: Drawn, judge: Judge, labels: list[int] | None, likeness: Likeness | None) -> Row:
    samples = drawn.samples
    return Row(
        sampler=samples.plans[0].sampler,
        steps=len(samples.plans[0]),
        scores=judge.score(drawn.images, labels),
        ms_per_image=1000 * samples.seconds / len(samples),
        seconds=samples.seconds,
        likeness=likeness,
    )


def takes_labels(engine: "Engine") -> bool:
    """Whether its model is of classes."""
    return isinstance(engine.model.conditions, Classes)


def usual_steps(engine: "Engine") -> list[int]:
    """At which numbers of steps a model is looked at: those it was distilled for, else STEPS, as far as they go."""
    trained = engine.model.trained
    if trained is not None:
        return list(trained.steps)
    return [steps for steps in STEPS if steps <= len(engine.model.schedule)]


def usual_teacher_steps(teacher: "Engine") -> int:
    """The steps of a teacher that a student is compared with: its own if it is distilled itself, else TEACHER_STEPS."""
    if teacher.model.trained is not None:
        return int(teacher.model.defaults["steps"])
    return min(TEACHER_STEPS, len(teacher.model.schedule))


def teacher_plan(teacher: "Engine", student: "Engine", settings: Settings) -> "tuple[Plan, float]":
    """The teacher's walk from a seed's noise, and the guidance scale: the one that the student is asked for.

    Its own sampler where that draws no noise on the way, else DDIM; a distilled teacher's own plan.

    Raises:
        ArgumentError: steps or a guidance scale that it cannot do.
    """
    model, scale = teacher.model, student.model.guidance.scale(settings.guidance_scale)
    steps = usual_teacher_steps(teacher) if settings.teacher_steps is None else settings.teacher_steps
    own, options = model.defaults["sampler"], dict[str, Any]()
    if model.trained is not None or model.prediction not in SAMPLERS["ddim"].predictions:
        return teacher.plan(steps, guidance_scale=scale), scale
    sampler = own if own in ("ddim", "euler") else "ddim"
    if sampler == "ddim":
        options["eta"] = 0.0
    if sampler != own and "clip" in model.defaults:
        options["clip"] = model.defaults["clip"]
    return teacher.plan(steps, sampler, guidance_scale=scale, **options), scale


def check_request(engine: "Engine", real: Real, settings: Settings, teacher: "Engine | None" = None) -> None:
    """ArgumentError where `evaluate` could not do all of it; asked before long work."""
    check_count(settings.n, real)
    check_model(engine, real)
    for steps in settings.steps:
        _check_halves(engine, engine.plan(steps, settings.sampler, guidance_scale=settings.guidance_scale))
    if teacher is None:
        return
    check_model(teacher, real, "the teacher")
    _check_halves(teacher, teacher_plan(teacher, engine, settings)[0])
    if takes_labels(teacher) and not takes_labels(engine) and not teacher.model.conditions.guidable:
        allowed = "for a model without labels, one that needs none"
        raise ArgumentError("teacher", f"{teacher.model.name} of {teacher.model.conditions}", allowed)


def _check_halves(engine: "Engine", plan: "Plan") -> None:
    """ArgumentError for a guidance scale that needs a null label, where there is none."""
    if plan.halves != "cond" and not engine.model.conditions.guidable:
        allowed = f"1: {engine.model.name or 'the model'} has no null label to guide from"
        raise ArgumentError("guidance_scale", float(plan.column("w")[0]), allowed)


def model_bound(
    engine: "Engine", real: Real, count: int, *, seed: int = 0, batch: int = 64, advance: Advance | None = None
) -> list[Bound]:
    """`variational_bound` of the engine's model on `count` images held out, given their classes where it takes any.

    Raises:
        ArgumentError: a model with no such bound: one that was distilled into a consistency model, say.
    """
    check_bound(engine)
    check_model(engine, real)
    integer("bpd_images", count, 2, len(real.held_out), ", as many as are held out")
    part = first_of_each(real.held_out, count)
    labels = part.labels if takes_labels(engine) else None
    channels = engine.model.shape[0]
    inputs, index = Inputs.of(engine.module), engine.model.time == "index"
    allowed = (channels, 2 * channels)
    denoiser = ModuleDenoiser(engine.module, inputs.labels, allowed, index=index, second_time=inputs.second_time)

    @torch.inference_mode()
    def predict(x_t: Tensor, t: Tensor, which: slice) -> Tensor:
        condition = {} if labels is None else {"labels": labels[which].to(engine.device)}
        x_in = x_t.to(engine.device, engine.dtype, memory_format=torch.channels_last)
        return denoiser.predict(x_in, t.to(engine.device), condition).cpu()

    return variational_bound(
        predict, part.images, engine.model.schedule, engine.model.prediction, seed=seed, batch=batch, advance=advance
    )


def check_bound(engine: "Engine") -> None:
    """ArgumentError for a model without a bound: one of consistency, or with the guidance scale as an input."""
    if engine.model.schedule.kind == "ve" or engine.model.prediction == "consistency":
        allowed = "a diffusion model on a schedule of kind vp or flow, whose reverse steps have a likelihood"
        raise ArgumentError(
            "bpd", f"{engine.model.prediction} prediction on a {engine.model.schedule.name} schedule", allowed
        )
    if engine.model.guidance.inputs:
        allowed = "one that does not take the guidance scale: guided predictions belong to no likelihood"
        raise ArgumentError("bpd", f"{engine.model.name or 'a model'} with the guidance scale as an input", allowed)


def check_model(engine: "Engine", real: Real, whose: str = "the model") -> None:
    """ArgumentError unless the engine's model makes images like the real ones, of their classes or of none."""
    model = engine.model
    if model.shape != real.shape:
        raise ArgumentError("data", f"{real.name} of shape {list(real.shape)}", f"{whose}'s {list(model.shape)}")
    taken = model.conditions
    if not taken.inputs:
        return
    if not isinstance(taken, Classes):
        raise ArgumentError("model", f"{model.name or whose} of {taken}", "a model of classes, or without labels")
    if taken.count != real.classes:
        raise ArgumentError("data", f"{real.name} with {real.classes or 'no'} classes", f"{whose}'s {taken.count}")
    if taken.names and real.names and taken.names != real.names:
        found = f"{real.name} with classes {', '.join(real.names)}"
        raise ArgumentError("data", found, f"{whose}'s, {', '.join(taken.names)}")
