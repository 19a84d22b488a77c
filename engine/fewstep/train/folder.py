"""What a run keeps in its folder beside its checkpoints: sheets of samples, the picture of its loss, the model."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from fewstep.engine import Engine
from fewstep.errors import ArgumentError, OutputError, shown
from fewstep.files import atomic_write, check_writable, output_error
from fewstep.models.model import Model
from fewstep.models.spec import ModelSpec
from fewstep.staging import held, mend
from fewstep.train.checkpoint import Checkpoint
from fewstep.train.config import FitConfig
from fewstep.train.fit import CHECKPOINTS, LOSS_FILE, last_checkpoint
from fewstep.train.log import LossLog, plot_losses

LOCK_FILE: Final = ".fewstep-run"  # there while a run writes into a folder
PLOT_FILE: Final = "loss.png"
SHEETS: Final = "samples"
PER_CLASS, MAX_ROWS, UNLABELLED = 8, 10, 64  # of a sheet


def check_place(out: Path, resume: bool) -> None:
    """OutputError unless a run can write into a folder, and it is not somebody else's."""
    mend(out)
    check_writable(out / CHECKPOINTS / "probe")
    if not resume and out.exists() and any(path.name != LOCK_FILE for path in out.iterdir()):
        raise OutputError(f"{out}: holds files already; allowed: a new or empty folder, or to resume the run in it")


@contextmanager
def alone_in_run(out: Path, resume: bool) -> Iterator[None]:
    """Within it no other run writes into a folder as `check_place` allows it, which is made where it is not there.

    Raises:
        OutputError: as `check_place`, or another run writes there now.
    """
    check_place(out, resume)
    missing = [path for path in (out, *out.parents) if not path.exists()]
    try:
        with ExitStack() as stack:
            try:
                out.mkdir(parents=True, exist_ok=True)
                alone = stack.enter_context(held(out / LOCK_FILE))
            except OSError as error:
                raise output_error(out / LOCK_FILE, error) from error
            if not alone:
                raise OutputError(f"{out}: another run writes into it; allowed: a folder of its own for each run")
            check_place(out, resume)  # another run may have ended since
            yield
    finally:
        for path in missing:  # where nothing came of the run
            with suppress(OSError):
                path.rmdir()


def begin(
    out: Path, resume: bool, say: Callable[[str], None], check: Callable[[Checkpoint], None]
) -> Checkpoint | None:
    """The checkpoint to go on from, in a folder that `alone_in_run` holds; `check` is that of `latest_checkpoint`."""
    if resume:
        checkpoint = last_checkpoint(out, say, check)
        if checkpoint is None:
            say(f"{out}: no checkpoint yet; the run begins at step 0")
        return checkpoint
    return None


def same_run(checkpoint: Checkpoint, config: FitConfig, fixed: Iterable[str]) -> bool:
    """Whether a run of these settings may go on from the checkpoint."""
    before, now = checkpoint.about.get("config", {}), config.to_dict()
    return all(before.get(name) == now[name] for name in fixed)


def compare(
    checkpoint: Checkpoint,
    config: FitConfig,
    fixed: Iterable[str],
    about: Mapping[str, Any],
    say: Callable[[str], None],
) -> None:
    """ArgumentError where the run cannot go on so; a line for all else that makes it another run than it was.

    Args:
        fixed: the settings that a resumed run must share with its checkpoint; the rest may be changed, by name.
        about: "digest" of the data, "device" and "threads", as they are now.
    """
    before, now = checkpoint.about.get("config", {}), config.to_dict()
    for name in fixed:
        if before.get(name) != now[name]:
            raise ArgumentError(
                name, now[name], f"{_plain(before.get(name))}, as the run in {checkpoint.path.parent.parent}"
            )
    if checkpoint.about.get("digest") != about["digest"]:
        run = checkpoint.path.parent.parent
        raise ArgumentError("data", f"{now['data']}, which has changed", f"the images that the run in {run} began with")
    if checkpoint.step > config.steps:
        raise ArgumentError("steps", config.steps, f"{checkpoint.step} or more: so many are done")
    for field in fields(config):
        if before.get(field.name) != now[field.name]:
            say(f"{field.name}: was {_plain(before.get(field.name))}, is now {_plain(now[field.name])}")
    for name in ("device", "threads"):
        if checkpoint.about.get(name) != about[name]:
            was = _plain(checkpoint.about.get(name))
            say(f"{name}: was {was}, is now {about[name]}; the run goes on, but not to the same bits")


class Sheets:
    """Draws samples from the averaged weights, the same seeds and labels each time, and the loss so far.

    Args:
        spec: the model that the weights will be.
        classes: how many it has; None for none.
        title: of the picture of the loss.
        batch: samples at once, at most: of as many as are trained on there is memory for sure.
    """

    def __init__(
        self,
        spec: ModelSpec,
        classes: int | None,
        out: Path,
        title: str,
        device: torch.device,
        batch: int,
        listener: Callable[[nn.Module, int], None],
    ) -> None:
        self.spec, self.out, self.title, self.device, self.listener = spec, out, title, device, listener
        rows = min(classes or 0, MAX_ROWS)
        self.labels = [label for label in range(rows) for _ in range(PER_CLASS)] or None
        self.count = len(self.labels or range(UNLABELLED))
        self.batch = max(2, min(self.count, batch))  # a guided sample owns two lanes

    def draw(self, module: nn.Module, step: int) -> None:
        """A sheet of the module after so many steps."""
        # Graphs, or a backend's program, of weights that change would have to be made anew each time.
        ways: dict[str, Any] = {"runner": "eager", "backend": "torch"}
        engine = Engine(Model.of(module, self.spec), device=self.device, max_batch=self.batch, **ways)
        samples = engine.sample(self.count, labels=self.labels, seeds=0, output="uint8")
        samples = replace(samples, finite=())  # what is not finite is gray, and warned of: no reason to stop training
        samples.save(
            self.out / SHEETS / f"step-{step:08d}.png", singles=False, columns=PER_CLASS, parameters={"step": step}
        )
        draw_losses(self.out, self.title, step)
        self.listener(module, step)


def draw_losses(out: Path, title: str, step: int) -> float:
    """Draw loss.csv as it stands, where matplotlib is installed; the last loss."""
    log = LossLog(out / LOSS_FILE)
    log.read(step)
    if not log.rows:
        return math.nan
    picture = plot_losses(log.rows, title)
    if picture is not None:
        with atomic_write(out / PLOT_FILE) as file:
            file.write(picture)
    return log.rows[-1]["loss"]


def _plain(value: object) -> str:
    """A setting as a user types it; what a checkpoint says may be anything."""
    return value if isinstance(value, str) and value.isprintable() and len(value) <= 80 else shown(value)


def machine(device: torch.device) -> str:
    """Where a run trained, for its card: "2 CPU threads", or the GPU's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{threads} CPU thread{'s' * (threads > 1)}"
