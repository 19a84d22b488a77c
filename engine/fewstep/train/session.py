"""A run from beginning to end, whatever its loss: from a module to a model folder."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import torch

from fewstep.errors import ArgumentError, ModelError
from fewstep.memory import check_memory
from fewstep.models import UNet, count_parameters
from fewstep.models.load import save_model
from fewstep.models.net.unet import kept_numbers
from fewstep.models.spec import MAX_TEXT, ModelSpec
from fewstep.train.checkpoint import MAX_COMMANDS, Checkpoint
from fewstep.train.config import FitConfig
from fewstep.train.data import Dataset
from fewstep.train.fit import Fitted, Listeners, Loss, check_fits, fit, ignore, last_checkpoint
from fewstep.train.folder import Sheets, alone_in_run, begin, compare, draw_losses, same_run

Config = TypeVar("Config", bound=FitConfig)


@dataclass(frozen=True)
class Trained:
    """What a run made."""

    folder: Path  # a model folder, if the run is finished
    finished: bool  # else it was stopped, and can be resumed
    step: int
    seconds: float  # of training, over all sessions
    loss: float  # the last row's of loss.csv
    parameters: int
    data: Mapping[str, object] = field(default_factory=dict)  # as `Dataset.about` has it


class Card(Protocol):
    """The spec with what a user wants to know of how the model came to be."""

    def __call__(self, spec: ModelSpec, fitted: Fitted, loss: float) -> ModelSpec: ...


@dataclass(frozen=True)
class Task:
    """What is to be learned.

    Attributes:
        module: what learns.
        spec: the model that it will be.
        loss: of one batch.
        data: to learn from.
        fixed: the settings that a resumed run must share with its checkpoint.
        title: of the picture of the loss.
        card: the spec of the model that was made.
        label_dropout: the share of labels that become the null class.
        command: how a user would make this model again; "" for a resumed run as it was.
    """

    module: UNet
    spec: ModelSpec
    loss: Loss
    data: Dataset
    fixed: Iterable[str]
    title: str
    card: Card
    label_dropout: float
    command: str


def carry_out(
    task: Task, config: FitConfig, out: Path, *, resume: bool, device: torch.device, listeners: Listeners
) -> Trained:
    """Fit the task's module to its loss, and write it into `out` as the model of its spec."""
    _check_memory(task.module, task.data.shape, config, device)
    with alone_in_run(out, resume):
        return _carried_out(task, config, out, resume, device, listeners)


def _carried_out(
    task: Task, config: FitConfig, out: Path, resume: bool, device: torch.device, listeners: Listeners
) -> Trained:
    module, data, command = task.module, task.data, task.command

    def check(found: Checkpoint) -> None:
        # Of other settings it holds another model by right; `compare` names the setting.
        if same_run(found, config, task.fixed):
            check_fits(found, module)

    checkpoint = begin(out, resume, listeners.say, check)
    about: dict[str, Any] = {"digest": data.digest(), "device": device.type, "threads": torch.get_num_threads()}
    commands = [command] if command else []
    if checkpoint is not None:
        compare(checkpoint, config, task.fixed, about, listeners.say)
        commands = list(dict.fromkeys([*checkpoint.about.get("commands", []), *commands]))[:MAX_COMMANDS]
    about["commands"] = commands
    listeners.data(data)
    spec = replace(task.spec, source="; then ".join(commands)[:MAX_TEXT] or task.spec.source)

    sheets = Sheets(spec, data.classes, out, task.title, device, config.batch, listeners.sheet)
    fitted = fit(
        module,
        task.loss,
        data,
        config,
        out,
        about=about,
        null=None if spec.labels is None else spec.labels["null"],
        label_dropout=task.label_dropout,
        device=device,
        resume=checkpoint,
        listeners=replace(listeners, sheet=sheets.draw),
    )
    last = draw_losses(out, task.title, fitted.step)
    if fitted.finished:
        save_model(out, cast(UNet, fitted.module), task.card(spec, fitted, last), overwrite=True)
    return Trained(
        folder=out,
        finished=fitted.finished,
        step=fitted.step,
        seconds=fitted.seconds,
        loss=last,
        parameters=count_parameters(module),
        data=data.about(),
    )


def _check_memory(module: UNet, shape: tuple[int, int, int], config: FitConfig, device: torch.device) -> None:
    """ArgumentError for a network or a batch that cannot be trained on this machine, before anything is written.

    A weight comes with its average, its gradient and two moments. For the gradients each residual block keeps what it
    took, what it passes on, and what lies between its convolutions, on the way down and at least as much on the way up.
    """
    weights = count_parameters(module)
    check_memory("unet", f"{weights:,} parameters", 4 * 4 * weights, "training it", device.type)
    channels, height, width = shape
    kept = 3 * kept_numbers(module.config, height, width) * (2 if config.dtype == "bfloat16" else 4)
    image = kept + 3 * 4 * channels * height * width
    check_memory("batch", config.batch, config.batch * image, "such a batch in training", device.type)


def saved_settings(kind: type[Config], out: Path, say: Callable[[str], None] = ignore) -> Config | None:
    """The settings of the run in `out` that can be resumed; None where there is none. See `last_checkpoint`."""

    def settings(checkpoint: Checkpoint) -> Config:
        try:
            return kind.from_dict(checkpoint.about["config"])
        except (ArgumentError, KeyError) as error:
            raise ModelError(f"{checkpoint.path}: its settings are not those of such a run: {error}") from None

    def check(checkpoint: Checkpoint) -> None:
        settings(checkpoint)

    checkpoint = last_checkpoint(out, say, check) if os.path.isdir(out) else None
    return None if checkpoint is None else settings(checkpoint)
