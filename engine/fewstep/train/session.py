"""A run from beginning to end, whatever its loss: from a module to a model folder."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import torch

from fewstep.errors import ArgumentError, ModelError
from fewstep.models import UNet, count_parameters
from fewstep.models.load import save_model
from fewstep.models.spec import ModelSpec
from fewstep.train.config import FitConfig
from fewstep.train.data import Dataset
from fewstep.train.fit import Fitted, Listeners, Loss, fit, ignore, last_checkpoint
from fewstep.train.folder import Sheets, begin, compare, draw_losses

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
    checkpoint = begin(out, resume, listeners.say)
    module, data, command = task.module, task.data, task.command
    about: dict[str, Any] = {"digest": data.digest(), "device": device.type, "threads": torch.get_num_threads()}
    commands = [command] if command else []
    if checkpoint is not None:
        compare(checkpoint, config, task.fixed, about, listeners.say)
        commands = list(dict.fromkeys([*checkpoint.about.get("commands", []), *commands]))
    about["commands"] = commands
    listeners.data(data)
    spec = replace(task.spec, source="; then ".join(commands) or task.spec.source)

    sheets = Sheets(spec, data.classes, out, task.title, device, listeners.sheet)
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
    made = (out, fitted.finished, fitted.step, fitted.seconds, last, count_parameters(module))
    return Trained(*made, data.about())


def saved_settings(kind: type[Config], out: Path, say: Callable[[str], None] = ignore) -> Config | None:
    """The settings of the run in `out` that can be resumed; None where there is none. See `last_checkpoint`."""
    checkpoint = last_checkpoint(out, say) if out.is_dir() else None
    if checkpoint is None:
        return None
    try:
        return kind.from_dict(checkpoint.about["config"])
    except (ArgumentError, KeyError, TypeError) as error:
        raise ModelError(f"{checkpoint.path}: its settings are not those of such a run: {error}") from None
