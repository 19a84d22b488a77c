"""`fewstep train` as a function: from a config to a model folder."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from fewstep.errors import ArgumentError
from fewstep.memory import check_memory
from fewstep.models import UNet, build_unet, count_parameters, empty_unet
from fewstep.models.spec import ModelSpec
from fewstep.train.config import TrainConfig, unet_config
from fewstep.train.data import Dataset, load_data
from fewstep.train.fit import Fitted, Listeners, ignore
from fewstep.train.folder import machine
from fewstep.train.losses import Objective
from fewstep.train.session import Task, Trained, carry_out, saved_settings

# What a resumed run must share with its checkpoint: the rest may be changed, by name.
FIXED: Final = ("data", "size", "prediction", "schedule", "learned_range", "unet")


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
    objective = Objective(
        config.noise_schedule(), config.prediction, config.min_snr_gamma, config.learned_range, config.vlb_weight
    )

    def card(spec: ModelSpec, fitted: Fitted, loss: float) -> ModelSpec:
        return _card(fitted, spec, data, config, loss, device)

    task = Task(
        module,
        spec,
        objective,
        data,
        fixed=FIXED,
        title=f"{spec.name}: {config.prediction} prediction, batches of {config.batch}",
        card=card,
        label_dropout=0.0 if data.labels is None else config.label_dropout,
        command=command,
    )
    return carry_out(task, config, out, resume=resume, device=device, listeners=listeners)


def saved_config(out: Path, say: Callable[[str], None] = ignore) -> TrainConfig | None:
    """The settings of the run in `out` that can be resumed; None where there is none. See `last_checkpoint`."""
    return saved_settings(TrainConfig, out, say)


def build(config: TrainConfig, data: Dataset, name: str) -> tuple[UNet, ModelSpec]:
    """The U-Net with its initial weights, a function of the seed, and the spec of the model it will be."""
    labels: dict[str, Any] | None = None
    if data.classes is not None:
        labels = {"kind": "classes", "count": data.classes, "null": data.classes if config.label_dropout > 0 else None}
        labels |= {"names": list(data.names)} if data.names else {}
    rows = None if labels is None else labels["count"] + (labels["null"] is not None)
    unet = unet_config(config.unet, data.shape[0], rows, config.learned_range)
    multiple = unet.size_multiple
    if data.shape[1] % multiple or data.shape[2] % multiple:
        allowed = f"sides that are multiples of {multiple}, for a U-Net of {unet.levels} levels"
        raise ArgumentError("size", f"images of {data.shape[2]}x{data.shape[1]}", allowed)
    schedule = config.noise_schedule()
    steps = min(config.sample_steps, len(schedule))
    spec = ModelSpec(
        name=name,
        family="adm",
        unet=unet,
        shape=data.shape,
        schedule=schedule.to_config(),
        prediction=config.prediction,
        # Guidance drives x_0 past the greys: eps must then be that of the clipped x_0, or they part ways (see ddim).
        plan={"sampler": "ddim", "steps": steps, "clip": 1.0, "clipped_direction": True},
        labels=labels,
        licence=config.licence or data.licence,
        source=f"fewstep train --data {shlex.quote(config.data)}",
    )
    weights = count_parameters(empty_unet(unet, "unet"))
    check_memory("unet", f"{weights:,} parameters", 4 * weights, "the U-Net")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed & (2**63 - 1))
        return build_unet(unet), spec


def _card(
    fitted: Fitted, spec: ModelSpec, data: Dataset, config: TrainConfig, loss: float, device: torch.device
) -> ModelSpec:
    """The spec with what a user wants to know of how it came to be."""
    channels, height, width = data.shape
    kinds = f", {data.classes} classes" if data.classes else ""
    million = count_parameters(fitted.module) / 1e6
    weighting = f"min-SNR {config.min_snr_gamma:g}" if config.min_snr_gamma else "unweighted"
    description = f"{width}x{height}x{channels} images like those of {data.name}{kinds}; {million:.2f} M parameters."
    notes = (
        f"data: {data.name}, {len(data):,} images" + (f", {data.licence}" if data.licence else ""),
        f"training: {config.steps:,} steps of {config.batch}, {config.prediction} prediction, {weighting}, "
        f"averaged weights (decay {config.ema:g}), seed {config.seed}, last loss {loss:.4g}",
        f"time: {fitted.seconds / 60:.1f} minutes of training on {machine(device)}",
    )
    return replace(spec, description=description, notes=notes)
