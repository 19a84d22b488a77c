"""`fewstep train`: from images to a model folder."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from fewstep.cli import options, training_options
from fewstep.cli.shared import emit, emit_fields, examples
from fewstep.cli.training import asked_to_stop, command_line, device_for, fit_progress, tell, tell_of
from fewstep.cli.training_options import HOW, RUN, WHAT
from fewstep.errors import ArgumentError

if TYPE_CHECKING:
    from fewstep.train import TrainConfig

EXAMPLES = examples(
    "The digits, as the bundled teacher was trained:",
    "  fewstep train --data digits --out out/teacher",
    "Images of your own, with settings from a file:",
    "  fewstep train --data pictures/ --size 64 --config my.toml --out out/mine",
    "Go on after Ctrl-C, a crash or a full disk:",
    "  fewstep train --data digits --out out/teacher --resume",
)
NETWORK = "Network"


def train(
    out: Annotated[Path, Option("--out", "-o", help="The folder to write.", rich_help_panel=RUN)],
    data: Annotated[
        str | None,
        Option(help="digits, an .npz with images and labels, or a folder of pictures.", rich_help_panel=WHAT),
    ] = None,
    size: Annotated[int | None, Option(help="Scale pictures to so many pixels a side.", rich_help_panel=WHAT)] = None,
    config: training_options.Config = None,
    prediction: Annotated[str | None, Option(help="eps, x_0, v or flow.", rich_help_panel=WHAT)] = None,
    schedule: Annotated[
        str | None, Option(help="cosine, linear, scaled_linear, sigmoid or flow.", rich_help_panel=WHAT)
    ] = None,
    learned_range: Annotated[
        bool | None, Option("--learned-range/--fixed-range", help="Also learn the variance.", rich_help_panel=WHAT)
    ] = None,
    channels: Annotated[
        str | None, Option(help="Widths of the U-Net's levels, as 16,32,64.", rich_help_panel=NETWORK)
    ] = None,
    layers: Annotated[int | None, Option(help="Residual blocks a level.", rich_help_panel=NETWORK)] = None,
    steps: Annotated[int | None, Option(help="Of the optimiser.", rich_help_panel=HOW)] = None,
    batch: training_options.Batch = None,
    learning_rate: training_options.LearningRate = None,
    min_snr_gamma: Annotated[float | None, Option(help="Of min-SNR weights; 0: none.", rich_help_panel=HOW)] = None,
    label_dropout: Annotated[
        float | None, Option(help="Share of labels dropped, for guidance.", rich_help_panel=HOW)
    ] = None,
    ema: training_options.Ema = None,
    clip_norm: Annotated[float | None, Option(help="The longest gradient.", rich_help_panel=HOW)] = None,
    dtype: training_options.Dtype = None,
    seed: training_options.Seed = None,
    log_every: training_options.LogEvery = None,
    checkpoint_every: training_options.CheckpointEvery = None,
    sheet_every: training_options.SheetEvery = None,
    resume: Annotated[
        bool, Option("--resume", help="Go on from the last good checkpoint, if there is one.", rich_help_panel=RUN)
    ] = False,
    device: training_options.Device = None,
    threads: training_options.Threads = None,
    quiet: training_options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Train a class-conditional or unconditional U-Net on images.

    Writes checkpoints, loss.csv and loss.png, sheets of samples, and at the end a model that
    fewstep generate and Engine.from_pretrained take.
    """
    given: dict[str, Any] = {
        "data": data, "size": size, "prediction": prediction, "learned_range": learned_range, "steps": steps,
        "batch": batch, "learning_rate": learning_rate, "min_snr_gamma": min_snr_gamma,
        "label_dropout": label_dropout, "ema": ema, "clip_norm": clip_norm, "dtype": dtype, "seed": seed,
        "log_every": log_every, "checkpoint_every": checkpoint_every, "sheet_every": sheet_every,
    }  # fmt: skip
    typed = {"config": config, **given, "schedule": schedule, "channels": channels, "layers": layers}
    from fewstep.train import Listeners, saved_config
    from fewstep.train import train as run
    from fewstep.train.fit import ignore

    saved = saved_config(out, tell) if resume else None
    if resume and saved is None and data is None and config is None:
        raise ArgumentError("resume", f"{out} without a checkpoint", "a run to go on with, or --data to begin one")
    settings = _settings(saved, config, given, schedule, channels, layers)
    where = device_for(device, threads)
    command = ""
    if not resume or any(value is not None for value in typed.values()):
        command = command_line("train", None, {**typed, "device": device, "threads": threads, "out": out})
    heard = ignore if as_json else tell_of
    with asked_to_stop() as stop, fit_progress(quiet or as_json, "train") as show:
        listeners = Listeners(progress=show, say=tell, data=heard, stop=stop)
        trained = run(settings, out, resume=resume, device=where, command=command, listeners=listeners)
    if not trained.finished:
        tell(f"stopped at step {trained.step}, saved; the same command with --resume goes on")
        raise KeyboardInterrupt
    found = {
        "steps": trained.step, "parameters": trained.parameters, "loss": trained.loss, "seconds": trained.seconds,
    }  # fmt: skip
    if as_json:
        emit({"model": out, **found, "data": trained.data})
        return
    shown = {
        "parameters": f"{trained.parameters:,}",
        "steps": f"{trained.step:,}, of {settings.batch} images each",
        "loss": f"{trained.loss:.4g}",
        "time": f"{trained.seconds / 60:.1f} minutes",
        "next": f"fewstep info {shlex.quote(str(out))}",
    }
    emit_fields(str(out), shown)


def _settings(
    base: "TrainConfig | None",
    path: Path | None,
    given: dict[str, Any],
    schedule: str | None,
    channels: str | None,
    layers: int | None,
) -> "TrainConfig":
    """The defaults, or a resumed run's settings, with the file's in their place, and the flags' in place of those."""
    from fewstep.train import TrainConfig

    base = base or TrainConfig()
    if path is not None:
        base = TrainConfig.from_toml(path, base)
    values = {name: value for name, value in given.items() if value is not None}
    if schedule is not None and schedule != base.schedule.get("name"):
        values["schedule"] = {"name": schedule}
    if channels is not None:
        values["unet"] = {"channels": _widths(channels)}  # another network: a file's other fields are of another shape
    if layers is not None:
        values["unet"] = {**values.get("unet", base.unet), "layers": layers}
    return TrainConfig.from_dict(values, base)


def _widths(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ArgumentError("channels", text, "whole numbers like 16,32,64") from None
