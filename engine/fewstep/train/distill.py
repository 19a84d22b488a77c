"""`fewstep distill` as a function: from a teacher to a student of fewer steps."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from fewstep.diffusion.samplers import SAMPLERS, build_plan
from fewstep.diffusion.schedules import from_config
from fewstep.errors import ArgumentError
from fewstep.models import UNet, build_unet
from fewstep.models.load import load_model
from fewstep.models.spec import ModelSpec
from fewstep.request.conditions import Classes, condition_from_config
from fewstep.train.data import Dataset, load_like, source_of
from fewstep.train.distill_config import DistillConfig
from fewstep.train.fit import Fitted, Listeners, Loss, ignore
from fewstep.train.folder import machine
from fewstep.train.methods import METHODS
from fewstep.train.session import Task, Trained, carry_out, saved_settings
from fewstep.train.teacher import Teacher

UNBOUNDED: Final = ("eps", "score")  # predictions from which x_0 is found by dividing by the signal that is left


def distill(
    config: DistillConfig,
    out: Path,
    *,
    resume: bool = False,
    device: torch.device | None = None,
    command: str = "",
    listeners: Listeners | None = None,
) -> Trained:
    """Train a student that does in `student_steps` what its teacher does in more, and write it into `out`.

    The student begins with its teacher's weights. Guidance of the teacher is folded in: the student takes the scale as
    an input, and needs one model call where two halves of a batch were needed. It predicts what its teacher does, but
    for a teacher of eps or score, see `student_prediction`. Its folder carries the plan it was trained for. Arguments
    and errors are those of `fewstep.train.train`.
    """
    listeners = listeners or Listeners()
    device = device or torch.device("cpu")
    module, taught = load_model(config.teacher)
    source = source_of(config.data, taught.notes)
    config, data = replace(config, data=source), load_like(source, config.size, taught.shape)
    _check(config, taught, data)
    guidance = _guidance(config, taught)
    student, spec = build(config, module, taught, guidance, out.resolve().name)

    def card(spec: ModelSpec, fitted: Fitted, loss: float) -> ModelSpec:
        return _card(fitted, spec, taught, data, config, loss, device)

    task = Task(
        student,
        spec,
        _loss(config, module.to(device), taught, spec, guidance),
        data,
        fixed=fixed(),
        title=f"{spec.name}: {config.method} distillation of {taught.name}, batches of {config.batch}",
        card=card,
        label_dropout=0.0,
        command=command,
    )
    return carry_out(task, config, out, resume=resume, device=device, listeners=listeners)


def saved_config(out: Path, say: Callable[[str], None] = ignore) -> DistillConfig | None:
    """The settings of the run in `out` that can be resumed; None where there is none."""
    return saved_settings(DistillConfig, out, say)


def fixed() -> tuple[str, ...]:
    """The settings that a resumed run must share with its checkpoint; the rest may be changed, by name."""
    options = [option for method in METHODS.values() for option in method.options]
    own = ("teacher", "method", "student_steps", "teacher_steps", "prediction", "guidance")
    return (*own, *options, "data", "size")


def build(
    config: DistillConfig, teacher: UNet, taught: ModelSpec, guidance: tuple[float, float] | None, name: str
) -> tuple[UNet, ModelSpec]:
    """The student with its teacher's weights, and the spec of the model it will be.

    Where guidance is folded in it has an embedding of the scale, which begins at zero, and no null class any more.
    """
    unet, labels = taught.unet, taught.labels
    weights = dict(teacher.state_dict())
    if guidance is not None:
        unet = replace(unet, guidance_range=guidance)
        if labels is not None and labels["kind"] == "classes" and labels["null"] is not None:
            if labels["null"] == labels["count"]:
                unet = replace(unet, num_classes=labels["count"])
                weights["label.weight"] = weights["label.weight"][: labels["count"]]
            labels = {**labels, "null": None}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed & (2**63 - 1))
        student = build_unet(unet)
    student.load_state_dict({**student.state_dict(), **weights})
    spec = replace(
        taught,
        name=name,
        unet=unet,
        prediction=student_prediction(config.prediction, taught),
        labels=labels,
        plan=config.distillation.plan(taught),
        guidance=None if guidance is None else _guidance_input(guidance, config.default_guidance),
        trained=config.distillation.trained(taught),
        licence=config.licence or taught.licence,
        source="fewstep distill",
    )
    return student, spec


def student_prediction(asked: str | None, taught: ModelSpec) -> str:
    """What the student predicts: what it was asked for, or else what its teacher does, unless that is eps or score.

    x_0 = (x_t - noise eps) / signal makes 157 of an error of 1 at the last step of DDPM's schedule. A teacher of many
    steps mends that in those that follow; a student of few has none. So it predicts v on a schedule of kind "vp", x_0
    on "ve" and flow on "flow", all of which are bounded at every level (Salimans and Ho 2202.00512, section 4). The
    target of a method is written in the plans' coefficients, and holds for any pair of predictions.
    """
    if asked is not None:
        return asked
    if taught.prediction not in UNBOUNDED:
        return taught.prediction
    return {"vp": "v", "ve": "x_0", "flow": "flow"}[from_config(taught.schedule).kind]


def _check(config: DistillConfig, taught: ModelSpec, data: Dataset) -> None:
    """ArgumentError where this teacher cannot have such a student, or the data are not its."""
    schedule = from_config(taught.schedule)
    if taught.prediction not in SAMPLERS["ddim"].predictions:
        allowed = "a diffusion model, with a walk of many steps to learn from"
        raise ArgumentError("teacher", f"{config.teacher}, which predicts {taught.prediction}", allowed)
    if taught.prediction in UNBOUNDED and schedule.signal_scale[-1] == 0:
        allowed = (
            "one of v, x_0 or flow there: where no signal is left, at the walk's first step, eps says nothing of x_0"
        )
        raise ArgumentError(
            "teacher", f"{config.teacher}, which predicts {taught.prediction} on a {schedule.name} schedule", allowed
        )
    if data.shape != taught.shape:
        raise ArgumentError("data", f"{config.data} of shape {list(data.shape)}", f"the teacher's {list(taught.shape)}")
    classes = condition_from_config(taught.labels)
    count = classes.count if isinstance(classes, Classes) else None
    if count != data.classes:
        raise ArgumentError("data", f"{config.data} with {data.classes} classes", f"the teacher's {count}")
    if classes.names and data.names and classes.names != data.names:
        allowed = f"the teacher's, {', '.join(classes.names)}"
        raise ArgumentError("data", f"{config.data} with classes {', '.join(data.names)}", allowed)


def _guidance(config: DistillConfig, taught: ModelSpec) -> tuple[float, float] | None:
    """The range of scales to draw from; None for a teacher that has no guidance, or is to be followed without."""
    if taught.guidance is not None:
        own = (taught.guidance["min"], taught.guidance["max"])
        if config.guidance not in (None, own):
            raise ArgumentError("guidance", list(config.guidance or ()), f"the teacher's, {list(own)}")
        return own
    has_null = taught.labels is not None and taught.labels.get("null") is not None
    return config.guidance if has_null else None


def _guidance_input(guidance: tuple[float, float], default: float) -> dict[str, float]:
    return {"min": guidance[0], "max": guidance[1], "default": min(max(default, guidance[0]), guidance[1])}


def _loss(
    config: DistillConfig, module: UNet, taught: ModelSpec, spec: ModelSpec, guidance: tuple[float, float] | None
) -> Loss:
    method = config.distillation
    null = None if taught.labels is None else taught.labels.get("null")
    schedule, walk = from_config(taught.schedule), method.teacher_plan(taught)
    plan = build_plan(schedule=schedule, prediction=taught.prediction, **walk)
    return method.loss(Teacher(module, plan, null, guided=taught.guidance is not None), spec, guidance)


def _card(
    fitted: Fitted,
    spec: ModelSpec,
    taught: ModelSpec,
    data: Dataset,
    config: DistillConfig,
    loss: float,
    device: torch.device,
) -> ModelSpec:
    """The spec with what a user wants to know of how it came to be."""
    how = config.distillation.how
    folded = "without guidance"
    if spec.guidance is not None:
        folded = f"guidance {spec.guidance['min']:g} to {spec.guidance['max']:g} as an input"
    instead = "" if spec.prediction == taught.prediction else f", {spec.prediction} prediction for {taught.prediction}"
    notes = (
        f"teacher: {taught.name}, {how}, {folded}{instead}",
        f"data: {data.name}, {len(data):,} images" + (f", {data.licence}" if data.licence else ""),
        f"training: {config.steps:,} steps of {config.batch}, averaged weights (decay {config.ema:g}), "
        f"seed {config.seed}, last loss {loss:.4g}",
        f"time: {fitted.seconds / 60:.1f} minutes of training on {machine(device)}",
    )
    return replace(spec, description=f"{taught.description} Distilled: {how}.", notes=notes)
