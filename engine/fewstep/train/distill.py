"""`fewstep distill` as a function: from a teacher to a student of fewer steps."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import make_plan
from fewstep.diffusion.schedules import from_config
from fewstep.errors import ArgumentError
from fewstep.models import UNet
from fewstep.models.load import load_model
from fewstep.models.spec import ModelSpec
from fewstep.request.conditions import Classes, condition_from_config
from fewstep.train.consistency import Consistency
from fewstep.train.data import Dataset, load_data
from fewstep.train.distill_config import DistillConfig
from fewstep.train.fit import Fitted, Listeners, Loss, ignore
from fewstep.train.folder import machine
from fewstep.train.progressive import Progressive
from fewstep.train.session import Trained, carry_out, saved_settings
from fewstep.train.teacher import Teacher

DIRECTIONS: Final = {"ddim": ("clipped_direction",)}  # options of one sampler alone
FIXED: Final = (
    "teacher", "method", "student_steps", "teacher_steps", "guidance", "weighting", "huber_c", "data", "size",
)  # fmt: skip
CONSISTENCY_STEPS: Final = (1, 2, 3, 4, 5, 6, 7, 8)  # for which its student counts as trained


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
    an input, and needs one model call where two halves of a batch were needed. Its folder carries the plan it was
    trained for. Arguments and errors are those of `fewstep.train.train`.
    """
    listeners = listeners or Listeners()
    device = device or torch.device("cpu")
    module, taught = load_model(config.teacher)
    data = load_data(config.data, config.size)
    _check(config, taught, data)
    guidance = _guidance(config, taught)
    student, spec = build(config, module, taught, guidance, out.resolve().name)
    title = f"{spec.name}: {config.method} distillation of {taught.name}, batches of {config.batch}"

    def card(spec: ModelSpec, fitted: Fitted, loss: float) -> ModelSpec:
        return _card(fitted, spec, taught, data, config, loss, device)

    return carry_out(
        student,
        spec,
        _loss(config, module.to(device), taught, spec, guidance),
        data,
        config,
        out,
        fixed=FIXED,
        title=title,
        card=card,
        label_dropout=0.0,
        resume=resume,
        device=device,
        command=command,
        listeners=listeners,
    )


def saved_config(out: Path, say: Callable[[str], None] = ignore) -> DistillConfig | None:
    """The settings of the run in `out` that can be resumed; None where there is none."""
    return saved_settings(DistillConfig, out, say)


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
        student = UNet(unet)
    student.load_state_dict({**student.state_dict(), **weights})
    spec = replace(
        taught,
        name=name,
        unet=unet,
        labels=labels,
        plan=_plan(config, taught),
        guidance=None if guidance is None else _guidance_input(guidance, config.default_guidance),
        trained=_trained(config, taught),
        licence=config.licence or taught.licence,
        source="fewstep distill",
    )
    return student, spec


def _check(config: DistillConfig, taught: ModelSpec, data: Dataset) -> None:
    """ArgumentError where this teacher cannot have such a student, or the data are not its."""
    if taught.prediction not in ("v", "x_0", "flow"):
        allowed = "a teacher that predicts v, x_0 or flow: one step of an eps model has no x_0 to aim at in noise alone"
        raise ArgumentError("teacher", f"{config.teacher}, which predicts {taught.prediction}", allowed)
    if data.shape != taught.shape:
        raise ArgumentError("data", f"{config.data} of shape {list(data.shape)}", f"the teacher's {list(taught.shape)}")
    classes = condition_from_config(taught.labels)
    count = classes.count if isinstance(classes, Classes) else None
    if count != data.classes:
        raise ArgumentError("data", f"{config.data} with {data.classes} classes", f"the teacher's {count}")


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


def _plan(config: DistillConfig, taught: ModelSpec) -> dict[str, Any]:
    """The student's own plan, as its folder carries it; x_0 is clipped as the teacher's is."""
    sampler = "lcm" if config.method == "consistency" else _walker(taught)
    grid = {"original_steps": config.walk} if config.method == "consistency" else {}
    return {"sampler": sampler, "steps": config.student_steps, **grid, **_clip(sampler, taught)}


def _clip(sampler: str, taught: ModelSpec) -> dict[str, Any]:
    """How the teacher's own plan keeps x_0 in range, as far as another sampler can."""
    return {name: taught.plan[name] for name in ("clip", *DIRECTIONS.get(sampler, ())) if name in taught.plan}


def _trained(config: DistillConfig, taught: ModelSpec) -> dict[str, Any]:
    if config.method == "consistency":
        return {"sampler": "lcm", "steps": sorted({*CONSISTENCY_STEPS, config.student_steps})}
    return {"sampler": _walker(taught), "steps": [config.student_steps]}


def _walker(taught: ModelSpec) -> str:
    """The deterministic sampler whose steps a student learns: the teacher's own where it is one."""
    own: str = taught.plan["sampler"]
    return own if own in ("ddim", "euler") else "ddim"


def _teacher_plan(config: DistillConfig, taught: ModelSpec) -> Plan:
    options = _clip(_walker(taught), taught)
    if config.method == "consistency":
        options |= {"spacing": "lcm", "original_steps": config.walk}
    return make_plan(_walker(taught), from_config(taught.schedule), config.walk, taught.prediction, **options)


def _loss(
    config: DistillConfig, module: UNet, taught: ModelSpec, spec: ModelSpec, guidance: tuple[float, float] | None
) -> Loss:
    null = None if taught.labels is None else taught.labels.get("null")
    teacher = Teacher(module, _teacher_plan(config, taught), null, guided=taught.guidance is not None)
    if config.method == "consistency":
        return Consistency(teacher, guidance, config.huber_c)
    plan = make_plan(schedule=from_config(spec.schedule), prediction=spec.prediction, **spec.plan)
    return Progressive(teacher, plan, guidance, config.weighting)


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
    count = config.student_steps
    how = (
        f"a consistency model on the {config.walk} levels of its teacher"
        if config.method == "consistency"
        else f"{count} step{'s' * (count > 1)} for {config.walk} of its teacher"
    )
    folded = "without guidance"
    if spec.guidance is not None:
        folded = f"guidance {spec.guidance['min']:g} to {spec.guidance['max']:g} as an input"
    notes = (
        f"teacher: {taught.name}, {how}, {folded}",
        f"data: {data.name}, {len(data):,} images" + (f", {data.licence}" if data.licence else ""),
        f"training: {config.steps:,} steps of {config.batch}, averaged weights (decay {config.ema:g}), "
        f"seed {config.seed}, last loss {loss:.4g}",
        f"time: {fitted.seconds / 60:.1f} minutes of training on {machine(device)}",
    )
    return replace(spec, description=f"{taught.description} Distilled: {how}.", notes=notes)
