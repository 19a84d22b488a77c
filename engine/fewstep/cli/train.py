"""`fewstep train`: from images to a model folder."""

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from fewstep.cli import options
from fewstep.cli.shared import emit, emit_fields, examples, plain
from fewstep.errors import ArgumentError

if TYPE_CHECKING:
    import torch

    from fewstep.train import Progress, TrainConfig

EXAMPLES = examples(
    "The digits, as the bundled teacher was trained:",
    "  fewstep train --data digits --out out/teacher",
    "Images of your own, with settings from a file:",
    "  fewstep train --data pictures/ --size 64 --config my.toml --out out/mine",
    "Go on after Ctrl-C, a crash or a full disk:",
    "  fewstep train --data digits --out out/teacher --resume",
)
WHAT, NETWORK, HOW, RUN = "What to learn", "Network", "How to learn it", "The run"


def train(
    out: Annotated[Path, Option("--out", "-o", help="The folder to write.", rich_help_panel=RUN)],
    data: Annotated[
        str | None,
        Option(help="digits, an .npz with images and labels, or a folder of PNGs.", rich_help_panel=WHAT),
    ] = None,
    size: Annotated[int | None, Option(help="Scale PNGs to so many pixels a side.", rich_help_panel=WHAT)] = None,
    config: Annotated[
        Path | None, Option(help="A TOML file of settings; flags come on top.", rich_help_panel=WHAT)
    ] = None,
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
    batch: Annotated[int | None, Option(help="Images a step.", rich_help_panel=HOW)] = None,
    learning_rate: Annotated[float | None, Option(help="Of AdamW, at its highest.", rich_help_panel=HOW)] = None,
    min_snr_gamma: Annotated[float | None, Option(help="Of min-SNR weights; 0: none.", rich_help_panel=HOW)] = None,
    label_dropout: Annotated[
        float | None, Option(help="Share of labels dropped, for guidance.", rich_help_panel=HOW)
    ] = None,
    ema: Annotated[float | None, Option(help="Decay of the averaged weights.", rich_help_panel=HOW)] = None,
    clip_norm: Annotated[float | None, Option(help="The longest gradient.", rich_help_panel=HOW)] = None,
    dtype: Annotated[
        str | None, Option(help="float32, or bfloat16 for the network's products.", rich_help_panel=HOW)
    ] = None,
    seed: Annotated[int | None, Option(help="Of all that is random.", rich_help_panel=HOW)] = None,
    log_every: Annotated[int | None, Option(help="Steps a row of loss.csv.", rich_help_panel=RUN)] = None,
    checkpoint_every: Annotated[int | None, Option(help="Steps between checkpoints.", rich_help_panel=RUN)] = None,
    sheet_every: Annotated[
        int | None, Option(help="Steps between sheets of samples; 0: none.", rich_help_panel=RUN)
    ] = None,
    resume: Annotated[
        bool, Option("--resume", help="Go on from the last good checkpoint, if there is one.", rich_help_panel=RUN)
    ] = False,
    device: Annotated[
        str | None, Option(help="cpu, cuda or cuda:1. Default: CUDA if there is one.", rich_help_panel=RUN)
    ] = None,
    threads: Annotated[int | None, Option(help="CPU threads. Default: torch's choice.", rich_help_panel=RUN)] = None,
    quiet: Annotated[bool, Option("--quiet", "-q", help="No progress.", rich_help_panel=RUN)] = False,
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

    saved = saved_config(out, _say) if resume else None
    if resume and saved is None and data is None and config is None:
        raise ArgumentError("resume", f"{out} without a checkpoint", "a run to go on with, or --data to begin one")
    settings = _settings(saved, config, given, schedule, channels, layers)
    where = _device(device, threads)
    command = _command(typed, out, device, threads) if not resume or any(v is not None for v in typed.values()) else ""
    with _asked_to_stop() as stop, _progress(quiet or as_json) as progress:
        listeners = Listeners(progress=progress, say=_say, stop=stop)
        trained = run(settings, out, resume=resume, device=where, command=command, listeners=listeners)
    if not trained.finished:
        _say(f"stopped at step {trained.step}, saved; the same command with --resume goes on")
        raise KeyboardInterrupt
    found = {
        "steps": trained.step, "parameters": trained.parameters, "loss": trained.loss, "seconds": trained.seconds,
    }  # fmt: skip
    if as_json:
        emit({"model": out, **found})
        return
    shown = {
        "parameters": f"{trained.parameters:,}",
        "steps": f"{trained.step:,} of {settings.batch}",
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


def _device(device: str | None, threads: int | None) -> "torch.device":
    import torch

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    devices += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if device is not None and device not in devices:
        raise ArgumentError("device", device, " or ".join(devices))
    if threads is not None:
        if not 1 <= threads <= 1024:
            raise ArgumentError("threads", threads, "an integer from 1 to 1024")
        torch.set_num_threads(threads)
    if len(devices) > 1:
        # cuDNN would otherwise choose its algorithms by a race, and the seed would not decide the weights.
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    return torch.device(device or ("cuda" if len(devices) > 1 else "cpu"))


def _command(typed: dict[str, Any], out: Path, device: str | None, threads: int | None) -> str:
    """What a user types to make this model again."""
    words = ["fewstep", "train"]
    for name, value in {**typed, "device": device, "threads": threads, "out": out}.items():
        if isinstance(value, bool):
            words.append("--learned-range" if value else "--fixed-range")
        elif value is not None:
            words += ["--" + name.replace("_", "-"), str(value)]
    return shlex.join(words)


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Gives `asked()`: True once Ctrl-C or a SIGTERM has come. A second one ends the run where it is."""
    asked: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"stopping after this step, with a checkpoint; once more to stop at once\n")

    try:
        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread, which alone may
        before = {}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[["Progress"], None]]:
    """A bar on stderr, or where that is no terminal a line about every 1/100 of the run."""
    if quiet:
        yield lambda _: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("train"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
        with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("train", total=None, state="")
            yield lambda now: bar.update(task, completed=now.step, total=now.steps, state=_state(now))
    else:
        yield _line


def _line(now: "Progress") -> None:
    if now.step % max(1, now.steps // 100) == 0 or now.step == now.steps:
        print(f"step {now.step}/{now.steps}  {_state(now)}", file=sys.stderr, flush=True)


def _state(now: "Progress") -> str:
    minutes, seconds = divmod(round(now.seconds_left), 60)
    hours, minutes = divmod(minutes, 60)
    return f"loss {now.loss:.4g}  {now.samples_per_second:.0f} samples/s  {hours}:{minutes:02d}:{seconds:02d} left"


def _say(line: str) -> None:
    print(plain(line), file=sys.stderr, flush=True)
