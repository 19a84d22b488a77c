"""What `fewstep train` and `fewstep distill` have in common: device, Ctrl-C, progress, the command for the card."""

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

from fewstep.cli.machine import check_device, set_threads
from fewstep.cli.shared import plain

if TYPE_CHECKING:
    import torch

    from fewstep.train import Dataset, Progress


def device_for(device: str | None, threads: int | None) -> "torch.device":
    """The device to train on, with so many CPU threads; CUDA, made deterministic, if there is one."""
    import torch

    check_device(device)
    set_threads(threads)
    cuda = torch.cuda.is_available()
    if cuda:
        # cuDNN would otherwise choose its algorithms by a race, and the seed would not decide the weights.
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    return torch.device(device or ("cuda" if cuda else "cpu"))


def command_line(verb: str, argument: str | None, options: Mapping[str, Any]) -> str:
    """What a user types to make this model again; an option that is None was not given."""
    words = ["fewstep", verb, *([] if argument is None else [argument])]
    for name, value in options.items():
        if name == "learned_range" and value is not None:
            words.append("--learned-range" if value else "--fixed-range")
        elif value is not None:
            words += ["--" + name.replace("_", "-"), str(value)]
    return shlex.join(words)


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Gives `asked()`: True once Ctrl-C or a SIGTERM has come. A second one ends the run where it is."""
    asked: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        # Not print: the signal may have come in the middle of one.
        with suppress(OSError):
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
def fit_progress(quiet: bool, verb: str) -> Iterator[Callable[["Progress"], None]]:
    """A bar on stderr, or where that is no terminal a line about every 1/100 of the run."""
    if quiet:
        yield lambda _: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
        with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(verb, total=None, state="")
            yield lambda now: bar.update(task, completed=now.step, total=now.steps, state=_state(now))
    else:
        yield _line


def _line(now: "Progress") -> None:
    if now.step % max(1, now.steps // 100) == 0 or now.step == now.steps:
        tell(f"step {now.step}/{now.steps}  {_state(now)}")


def _state(now: "Progress") -> str:
    minutes, seconds = divmod(round(now.seconds_left), 60)
    hours, minutes = divmod(minutes, 60)
    return f"loss {now.loss:.4g}  {now.samples_per_second:.0f} samples/s  {hours}:{minutes:02d}:{seconds:02d} left"


def tell_of(data: "Dataset") -> None:
    """What a run learns from, and what its source holds beside: on stderr."""
    for line in (data.summary(), *data.left_out):
        tell(line)


def tell(line: str) -> None:
    """A line on stderr; a run of hours does not end because nobody reads it, or the disk with its log is full."""
    with suppress(OSError):
        print(plain(line), file=sys.stderr, flush=True)
