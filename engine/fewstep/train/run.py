"""`fewstep train` as a function: from a config to a model folder."""

import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import nn

from fewstep.engine import Engine
from fewstep.errors import ArgumentError, ModelError, OutputError
from fewstep.files import atomic_write, check_writable
from fewstep.models import UNet, count_parameters
from fewstep.models.load import save_model
from fewstep.spec import ModelSpec
from fewstep.train.checkpoint import Checkpoint
from fewstep.train.config import TrainConfig, unet_config
from fewstep.train.data import Dataset, load_data
from fewstep.train.fit import CHECKPOINTS, LOSS_FILE, Fitted, Listeners, fit, ignore, last_checkpoint
from fewstep.train.log import LossLog, plot_losses
from fewstep.train.losses import Objective

PLOT_FILE: Final = "loss.png"
SHEETS: Final = "samples"
PER_CLASS, MOST_ROWS, UNLABELLED = 8, 10, 64  # of a sheet

# What a resumed run must share with its checkpoint: the rest may be changed, by name.
FIXED: Final = ("data", "size", "prediction", "schedule", "learned_range", "unet")


@dataclass(frozen=True)
class Trained:
    """What `train` made."""

    folder: Path  # a model folder, if the run is finished
    finished: bool  # else it was stopped, and can be resumed
    step: int
    seconds: float  # of training, over all sessions
    loss: float  # the last row's of loss.csv
    parameters: int


def train(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    device: torch.device | None = None,
    command: str = "",
    listeners: Listeners | None = None,
) -> Trained:
    """Train a U-Net on images, and write it into `out` as a model folder that `Engine.from_pretrained` loads.

    `out` also holds checkpoints/, loss.csv and its picture, and sheets of samples from the averaged weights.

    Args:
        resume: go on from the last good checkpoint in `out`, if there is one; what of the config may differ from that
            run's is told through `listeners.say`.
        device: the CPU unless given.
        command: how a user would make this model again, for its card; "" for a resumed run as it was.

    Raises:
        ArgumentError: a setting, or data, that is not right; an `out` that holds a run already.
        FewstepError: a loss that is not finite, or a checkpoint that does not fit.
        OutputError: a disk that is full; nothing already saved is lost.
    """
    listeners = listeners or Listeners()
    device = device or torch.device("cpu")
    data = load_data(config.data, config.size)
    module, spec = build(config, data, out.resolve().name)
    checkpoint = _start(out, resume, listeners.say)
    about: dict[str, Any] = {"digest": data.digest(), "device": device.type, "threads": torch.get_num_threads()}
    commands = [command] if command else []
    if checkpoint is not None:
        _compare(checkpoint, config, about, listeners.say)
        commands = list(dict.fromkeys([*checkpoint.about.get("commands", []), *commands]))
    about["commands"] = commands
    spec = replace(spec, source="; then ".join(commands) or spec.source)

    sheets = _Sheets(spec, data, config, out, device, listeners.sheet)
    fitted = fit(
        module,
        Objective(
            config.noise_schedule(), config.prediction, config.min_snr_gamma, config.learned_range, config.vlb_weight
        ),
        data,
        config,
        out,
        about=about,
        null=None if spec.labels is None else spec.labels["null"],
        label_dropout=0.0 if data.labels is None else config.label_dropout,
        device=device,
        resume=checkpoint,
        listeners=replace(listeners, sheet=sheets.draw),
    )
    loss = _finish(fitted, spec, data, config, out, device)
    return Trained(out, fitted.finished, fitted.step, fitted.seconds, loss, count_parameters(module))


def saved_config(out: Path, say: Callable[[str], None] = ignore) -> TrainConfig | None:
    """The settings of the run in `out` that can be resumed; None where there is none. See `last_checkpoint`."""
    checkpoint = last_checkpoint(out, say) if out.is_dir() else None
    if checkpoint is None:
        return None
    try:
        return TrainConfig.from_dict(checkpoint.about["config"])
    except (ArgumentError, KeyError, TypeError) as error:
        raise ModelError(f"{checkpoint.path}: its settings are not those of a training run: {error}") from None


def build(config: TrainConfig, data: Dataset, name: str) -> tuple[UNet, ModelSpec]:
    """The U-Net with its initial weights, a function of the seed, and the spec of the model it will be."""
    labels: dict[str, Any] | None = None
    if data.classes is not None:
        labels = {"kind": "classes", "count": data.classes, "null": data.classes if config.label_dropout > 0 else None}
    rows = None if labels is None else labels["count"] + (labels["null"] is not None)
    unet = unet_config(config.unet, data.shape[0], rows, config.learned_range)
    multiple = unet.size_multiple
    if data.shape[1] % multiple or data.shape[2] % multiple:
        allowed = f"sides that are multiples of {multiple}, for a U-Net of {unet.levels} levels"
        raise ArgumentError("size", f"images of {data.shape[2]}x{data.shape[1]}", allowed)
    spec = ModelSpec(
        name=name,
        family="adm",
        unet=unet,
        shape=data.shape,
        schedule=config.noise_schedule().to_config(),
        prediction=config.prediction,
        plan={"sampler": "ddim", "steps": config.sample_steps, "clip": 1.0},
        labels=labels,
        licence=config.licence or data.licence,
        source=f"fewstep train --data {shlex.quote(config.data)}",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed & (2**63 - 1))
        return UNet(unet), spec


def _start(out: Path, resume: bool, say: Callable[[str], None]) -> Checkpoint | None:
    """The checkpoint to go on from, in a folder that can be written to and is not somebody else's."""
    check_writable(out / CHECKPOINTS / "probe")
    if resume:
        checkpoint = last_checkpoint(out, say)
        if checkpoint is None:
            say(f"{out}: no checkpoint yet; the run begins at step 0")
        return checkpoint
    if out.exists() and any(out.iterdir()):
        raise OutputError(f"{out}: holds files already; allowed: a new or empty folder, or --resume")
    return None


def _compare(checkpoint: Checkpoint, config: TrainConfig, about: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """ArgumentError where the run cannot go on so; a line for all else that makes it another run than it was."""
    before, now = checkpoint.about.get("config", {}), config.to_dict()
    for name in FIXED:
        if before.get(name) != now[name]:
            raise ArgumentError(name, now[name], f"{before.get(name)}, as the run in {checkpoint.path.parent.parent}")
    if checkpoint.about.get("digest") != about["digest"]:
        raise ArgumentError("data", f"{config.data}, which has changed", "the images the run began with")
    if checkpoint.step > config.steps:
        raise ArgumentError("steps", config.steps, f"{checkpoint.step} or more: so many are done")
    for field in fields(config):
        if before.get(field.name) != now[field.name]:
            say(f"{field.name}: was {before.get(field.name)}, is now {now[field.name]}")
    for name in ("device", "threads"):
        if checkpoint.about.get(name) != about[name]:
            was = checkpoint.about.get(name)
            say(f"{name}: was {was}, is now {about[name]}; the run goes on, but not to the same bits")


class _Sheets:
    """Draws samples from the averaged weights, the same seeds and labels each time, and the loss so far."""

    def __init__(
        self,
        spec: ModelSpec,
        data: Dataset,
        config: TrainConfig,
        out: Path,
        device: torch.device,
        listener: Callable[[nn.Module, int], None],
    ) -> None:
        self.spec, self.config, self.out, self.device, self.listener = spec, config, out, device, listener
        rows = min(data.classes or 0, MOST_ROWS)
        self.labels = [label for label in range(rows) for _ in range(PER_CLASS)] or None
        self.count = len(self.labels or range(UNLABELLED))

    def draw(self, module: nn.Module, step: int) -> None:
        engine = Engine(
            module,
            schedule=self.config.noise_schedule(),
            prediction=self.spec.prediction,
            shape=self.spec.shape,
            labels=self.spec.labels,
            plan=self.spec.plan,
            device=self.device,
            max_batch=self.count,
            runner="eager",  # graphs of weights that change would have to be captured each time
            name=self.spec.name,
        )
        samples = engine.sample(self.count, labels=self.labels, seeds=0)
        samples.save(
            self.out / SHEETS / f"step-{step:08d}.png", singles=False, columns=PER_CLASS, parameters={"step": step}
        )
        _plot(self.out, self.spec, self.config, step)
        self.listener(module, step)


def _plot(out: Path, spec: ModelSpec, config: TrainConfig, step: int) -> float:
    """Draw loss.csv as it stands, where matplotlib is installed; the last loss."""
    log = LossLog(out / LOSS_FILE)
    log.read(step)
    if not log.rows:
        return math.nan
    picture = plot_losses(log.rows, f"{spec.name}: {config.prediction} prediction, batches of {config.batch}")
    if picture is not None:
        with atomic_write(out / PLOT_FILE) as file:
            file.write(picture)
    return log.rows[-1]["loss"]


def _finish(
    fitted: Fitted, spec: ModelSpec, data: Dataset, config: TrainConfig, out: Path, device: torch.device
) -> float:
    """Write the picture of the loss and, if the run is finished, the model; the last loss."""
    loss = _plot(out, spec, config, fitted.step)
    if fitted.finished:
        unet = cast(UNet, fitted.module)
        save_model(out, unet, _card(fitted, spec, data, config, loss, device), overwrite=True)
    return loss


def _card(
    fitted: Fitted, spec: ModelSpec, data: Dataset, config: TrainConfig, loss: float, device: torch.device
) -> ModelSpec:
    """The spec with what a user wants to know of how it came to be."""
    channels, height, width = data.shape
    kinds = f", {data.classes} classes" if data.classes else ""
    million = count_parameters(fitted.module) / 1e6
    threads = torch.get_num_threads()
    machine = f"{threads} CPU thread{'s' * (threads > 1)}"
    if device.type == "cuda":
        machine = torch.cuda.get_device_name(device)
    weighting = f"min-SNR {config.min_snr_gamma:g}" if config.min_snr_gamma else "unweighted"
    description = f"{width}x{height}x{channels} images like those of {data.name}{kinds}; {million:.2f} M parameters."
    notes = (
        f"data: {data.name}, {len(data):,} images" + (f", {data.licence}" if data.licence else ""),
        f"training: {config.steps:,} steps of {config.batch}, {config.prediction} prediction, {weighting}, "
        f"averaged weights (decay {config.ema:g}), seed {config.seed}, last loss {loss:.4g}",
        f"time: {fitted.seconds / 60:.1f} minutes of training on {machine}",
    )
    return replace(spec, description=description, notes=notes)
