"""`fewstep distill`: from a model of many steps to students of few."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from fewstep.cli import options, training_options
from fewstep.cli.failures import SaidError, described
from fewstep.cli.failures import tell as say_failure
from fewstep.cli.shared import emit, emit_fields, examples
from fewstep.cli.training import asked_to_stop, command_line, device_for, fit_progress, tell, tell_of
from fewstep.cli.training_options import HOW, RUN, WHAT
from fewstep.errors import ArgumentError
from fewstep.train.methods import METHODS

if TYPE_CHECKING:
    from fewstep.train import DistillConfig, Trained

EXAMPLES = examples(
    "The digits' students, each from the one before:",
    "  fewstep distill out/teacher --student-steps 8,4,2,1 --out out/students",
    "One consistency model for 1 to 8 steps:",
    "  fewstep distill out/teacher --method consistency --out out/consistency",
    "Go on after Ctrl-C, a crash or a full disk:",
    "  fewstep distill out/teacher --student-steps 8,4,2,1 --out out/students --resume",
)


@dataclass(frozen=True)
class Stage:
    """One student of a chain."""

    teacher: str
    out: Path
    student_steps: int
    steps: int | None  # of the optimiser; None: as the settings have it
    teacher_steps: int | None

    @property
    def typed(self) -> dict[str, int | None]:
        """Its own flags."""
        return {"student_steps": self.student_steps, "teacher_steps": self.teacher_steps, "steps": self.steps}

    def settings(self, base: "DistillConfig") -> "DistillConfig":
        """The chain's settings with this student's in their place."""
        own = {**self.typed, "teacher": self.teacher, "steps": base.steps if self.steps is None else self.steps}
        return type(base).from_dict(own, base)


def distill(
    teacher: Annotated[str, Argument(metavar="TEACHER", help="The model folder to learn from, or digits/teacher.")],
    out: Annotated[
        Path,
        Option("--out", "-o", help="The folder to write; of a chain, N-step below it.", rich_help_panel=RUN),
    ],
    student_steps: Annotated[
        str | None, Option(help="Steps of the student, or of a chain, as 8,4,2,1.", rich_help_panel=WHAT)
    ] = None,
    method: Annotated[str | None, Option(help=f"{options.one_of(METHODS)}.", rich_help_panel=WHAT)] = None,
    teacher_steps: Annotated[
        int | None,
        Option(help="Of the first teacher, that become the student's. Default: 2x.", rich_help_panel=WHAT),
    ] = None,
    prediction: Annotated[
        str | None,
        Option(help="Of the student. Default: the teacher's; v for a teacher of eps.", rich_help_panel=WHAT),
    ] = None,
    guidance: Annotated[
        str | None, Option(help="The scales to fold in, as 1,2; none: no guidance.", rich_help_panel=WHAT)
    ] = None,
    default_guidance: Annotated[
        float | None, Option(help="The student's scale unless asked otherwise.", rich_help_panel=WHAT)
    ] = None,
    data: Annotated[
        str | None,
        Option(help="What the teacher was trained on. Default: digits, for theirs.", rich_help_panel=WHAT),
    ] = None,
    config: training_options.Config = None,
    steps: Annotated[
        str | None, Option(help="Of the optimiser; one number, or one for each student.", rich_help_panel=HOW)
    ] = None,
    batch: training_options.Batch = None,
    learning_rate: training_options.LearningRate = None,
    weighting: Annotated[
        str | None, Option(help="Of the progressive loss: truncated_snr or snr_plus_one.", rich_help_panel=HOW)
    ] = None,
    ema: training_options.Ema = None,
    dtype: training_options.Dtype = None,
    seed: training_options.Seed = None,
    log_every: training_options.LogEvery = None,
    checkpoint_every: training_options.CheckpointEvery = None,
    sheet_every: training_options.SheetEvery = None,
    resume: Annotated[
        bool, Option("--resume", help="Go on: finished students stay, the next goes on.", rich_help_panel=RUN)
    ] = False,
    device: training_options.Device = None,
    threads: training_options.Threads = None,
    quiet: training_options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Distill a model into students of fewer steps, with guidance as an input."""
    from fewstep.train import Listeners
    from fewstep.train import distill as run
    from fewstep.train.fit import ignore
    from fewstep.train.folder import check_place

    given: dict[str, Any] = {
        "method": method, "prediction": prediction, "guidance": guidance, "default_guidance": default_guidance,
        "data": data, "batch": batch, "learning_rate": learning_rate, "weighting": weighting, "ema": ema,
        "dtype": dtype, "seed": seed, "log_every": log_every, "checkpoint_every": checkpoint_every,
        "sheet_every": sheet_every,
    }  # fmt: skip
    where = device_for(device, threads)
    base = _base(config, given)
    students, budgets = _numbers("student_steps", student_steps), _numbers("steps", steps)
    heard = ignore if as_json else tell_of
    stages = _stages(base, teacher, out, students, budgets, teacher_steps)
    settings = [stage.settings(base) for stage in stages]
    for stage in stages:  # what is wrong with the last is said before an hour goes into the first
        check_place(stage.out, resume)
    found: list[Mapping[str, object]] = []

    def learn(stage: Stage, chosen: "DistillConfig") -> None:
        if resume and (stage.out / "fewstep.json").is_file():
            tell(f"{stage.out}: finished already")
            found.append({"model": stage.out, "student_steps": stage.student_steps, "already": True})
            return
        typed = {"config": config, **stage.typed, **given, "device": device, "threads": threads, "out": stage.out}
        command = command_line("distill", stage.teacher, typed)
        with fit_progress(quiet or as_json, f"{stage.student_steps}-step student") as show:
            listeners = Listeners(progress=show, say=tell, data=heard, stop=stop)
            made = run(chosen, stage.out, resume=resume, device=where, command=command, listeners=listeners)
        if not made.finished:
            tell(f"stopped at step {made.step}, saved; the same command with --resume goes on")
            raise KeyboardInterrupt
        found.append(_found(made, chosen))
        if not as_json:
            emit_fields(str(made.folder), _shown(made, chosen))

    with asked_to_stop() as stop:
        try:
            for stage, chosen in zip(stages, settings, strict=True):
                learn(stage, chosen)
        except (Exception, KeyboardInterrupt) as error:
            if not (as_json and found):
                raise
            emit({"students": found, "error": described(error)})
            raise SaidError(say_failure(error)) from error
    if as_json:
        emit({"students": found})


# --help is the docstring, and a docstring cannot be computed.
distill.__doc__ = "\n\n".join(
    [str(distill.__doc__), *(f"{name}: {method.summary}." for name, method in METHODS.items())]
)


def _found(trained: "Trained", settings: "DistillConfig") -> dict[str, object]:
    """A student, as --json has it."""
    return {
        "model": trained.folder, "student_steps": settings.student_steps, "already": False, "steps": trained.step,
        "parameters": trained.parameters, "loss": trained.loss, "seconds": trained.seconds, "data": trained.data,
    }  # fmt: skip


def _shown(trained: "Trained", settings: "DistillConfig") -> dict[str, object]:
    """The same to read."""
    return {
        "student": f"{settings.student_steps} for {settings.walk} steps of {settings.teacher}",
        "steps": f"{trained.step:,}, of {settings.batch} images each",
        "loss": f"{trained.loss:.4g}",
        "time": f"{trained.seconds / 60:.1f} minutes",
        "next": f"fewstep generate {shlex.quote(str(trained.folder))}",
    }


def _base(path: Path | None, given: dict[str, Any]) -> "DistillConfig":
    """The defaults with the file's settings in their place, and the flags' in place of those."""
    from fewstep.train import DistillConfig

    base = DistillConfig() if path is None else DistillConfig.from_toml(path, DistillConfig())
    values = {name: value for name, value in given.items() if value is not None}
    if "guidance" in values:
        values["guidance"] = _scales(values["guidance"])
    return DistillConfig.from_dict(values, base)


def _stages(
    base: "DistillConfig",
    teacher: str,
    out: Path,
    students: Sequence[int] | None,
    budgets: Sequence[int] | None,
    teacher_steps: int | None,
) -> list[Stage]:
    """The chain: each student's teacher is the one before it."""
    students = [base.student_steps] if students is None else students
    shown = ",".join(map(str, students))
    if any(after >= before for before, after in pairwise(students)):
        raise ArgumentError("student_steps", shown, "falling numbers, such as 8,4,2,1")
    if len(students) > 1 and base.distillation.alone:
        raise ArgumentError("student_steps", shown, f"one number: {base.distillation.alone}")
    if budgets is not None and len(budgets) not in (1, len(students)):
        allowed = f"one number, or {len(students)}: one for each student"
        raise ArgumentError("steps", ",".join(map(str, budgets)), allowed)
    chain = []
    for place, count in enumerate(students):
        folder = out if len(students) == 1 else out / f"{count}-step"
        steps = None if budgets is None else budgets[place % len(budgets)]
        first = base.teacher_steps if teacher_steps is None else teacher_steps
        walk = first if place == 0 else students[place - 1]
        chain.append(Stage(teacher, folder, count, steps, walk))
        teacher = str(folder)
    return chain


def _numbers(name: str, text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ArgumentError(name, text, "whole numbers such as 8,4,2,1") from None


def _scales(text: str) -> list[float] | None:
    if text == "none":
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ArgumentError("guidance", text, "two scales such as 1,2, or none") from None
