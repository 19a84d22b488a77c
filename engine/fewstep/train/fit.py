"""The training loop: from a module, a loss and data to weights, through checkpoints that a run can go on from."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

from fewstep.errors import ArgumentError, FewstepError, ModelError
from fewstep.staging import mend
from fewstep.train.checkpoint import Checkpoint, latest_checkpoint, save_checkpoint
from fewstep.train.config import FitConfig
from fewstep.train.data import Dataset
from fewstep.train.draws import Order, draw
from fewstep.train.ema import Ema
from fewstep.train.log import LossLog
from fewstep.train.losses import Batch
from fewstep_kernels import STREAM_FORWARD, normal

CHECKPOINTS: Final = "checkpoints"
LOSS_FILE: Final = "loss.csv"


class Loss(Protocol):
    """What is minimised: the scalar "loss" of a batch, and parts of it worth a column of the record.

    `average` has the averaged weights, for a loss whose target the network is itself.
    """

    def __call__(self, module: nn.Module, batch: Batch, average: nn.Module | None = None) -> Mapping[str, Tensor]: ...


@dataclass(frozen=True)
class Progress:
    """Where a run is."""

    step: int  # steps done
    steps: int
    loss: float  # mean since the last row of the record
    samples_per_second: float
    seconds_left: float


def ignore(*_: object) -> None:
    """A listener that does nothing."""


@dataclass(frozen=True)
class Listeners:
    """What a run tells, and whom it asks; all of it may be left out."""

    progress: Callable[[Progress], None] = ignore  # after each step
    say: Callable[[str], None] = ignore  # a line a user should read
    data: Callable[[Dataset], None] = ignore  # before the first step: what is learned from
    sheet: Callable[[nn.Module, int], None] = ignore  # the averaged module and the step, every `sheet_every` steps
    stop: Callable[[], bool] = field(default=lambda: False)  # asked after each step: end here, with a checkpoint


@dataclass(frozen=True)
class Fitted:
    """A run that has ended."""

    module: nn.Module  # with the averaged weights
    step: int
    finished: bool  # else it was stopped, and can be resumed
    seconds: float  # of training, over all its sessions


class State:
    """All that a run changes: weights, their average, and the optimiser's moments. Nothing else has a memory."""

    def __init__(self, module: nn.Module, config: FitConfig) -> None:
        self.module = module
        self.ema = Ema(module, config.ema)
        self.named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        fused = all(p.device.type in ("cpu", "cuda") for p in self.named.values())
        self.optimiser = torch.optim.AdamW(
            self.named.values(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused
        )

    def tensors(self) -> dict[str, Tensor]:
        """Everything by name, as a checkpoint stores it."""
        found = {f"model.{name}": value for name, value in self.module.state_dict().items()}
        found |= {f"ema.{name}": value for name, value in self.ema.module.state_dict().items()}
        for name, parameter in self.named.items():
            found |= {f"adamw.{key}.{name}": value for key, value in self.optimiser.state[parameter].items()}
        return found

    def load(self, checkpoint: Checkpoint) -> None:
        """Take everything over. ModelError where the checkpoint is of another model."""
        given = checkpoint.tensors
        check_fits(checkpoint, self.module)
        for module, kind in ((self.module, "model"), (self.ema.module, "ema")):
            module.load_state_dict({name: given[f"{kind}.{name}"] for name in module.state_dict()})
        moments: dict[int, dict[str, Tensor]] = {}
        for index, (name, parameter) in enumerate(self.named.items()):
            # A moment must lie in memory as its weight does: the fused step walks both in memory order.
            means = {
                key: torch.empty_like(parameter).copy_(given[f"adamw.{key}.{name}"])
                for key in ("exp_avg", "exp_avg_sq")
            }
            moments[index] = {"step": given[f"adamw.step.{name}"], **means}
        self.optimiser.load_state_dict({"state": moments, "param_groups": self.optimiser.state_dict()["param_groups"]})


def check_fits(checkpoint: Checkpoint, module: nn.Module) -> None:
    """ModelError unless the checkpoint holds all that a run of this module changes, in its shapes, and nothing else."""
    weights = module.state_dict()
    shapes = {f"{kind}.{name}": value.shape for kind in ("model", "ema") for name, value in weights.items()}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            shapes |= {f"adamw.{key}.{name}": parameter.shape for key in ("exp_avg", "exp_avg_sq")}
            shapes[f"adamw.step.{name}"] = torch.Size()
    if {name: value.shape for name, value in checkpoint.tensors.items()} != shapes:
        raise ModelError(f"{checkpoint.path}: holds another model than the one that is trained")


def fit(
    module: nn.Module,
    loss: Loss,
    data: Dataset,
    config: FitConfig,
    folder: Path,
    *,
    about: Mapping[str, Any],  # kept in each checkpoint beside the settings
    null: int | None = None,  # the class that stands for no label
    label_dropout: float = 0.0,
    device: torch.device | None = None,
    resume: Checkpoint | None = None,
    listeners: Listeners | None = None,
) -> Fitted:
    """Train `module`, in place, for `config.steps` steps.

    Step k draws its images, their noise, timesteps and dropped labels as functions of (seed, k), so that a run killed
    at any moment and resumed ends with the same bits as one that was not, on the same machine with as many threads.

    Raises:
        FewstepError: a loss or gradient that is not finite; the checkpoints before it stay.
        OutputError: a checkpoint that cannot be written; those before it stay.
    """
    run = _Run(module, loss, data, config, folder, about, null, label_dropout, device, listeners or Listeners())
    if resume is not None:
        run.resume(resume)
    return run.go()


def last_checkpoint(
    folder: Path, say: Callable[[str], None] = ignore, check: Callable[[Checkpoint], None] | None = None
) -> Checkpoint | None:
    """The checkpoint that a run in `folder` would be resumed from; see `latest_checkpoint`."""
    mend(folder / CHECKPOINTS)
    return latest_checkpoint(folder / CHECKPOINTS, say, check)


def learning_rate(config: FitConfig, step: int) -> float:
    """Of step 0, 1, ...: learning_rate min(1, (step + 1) / warmup), times (1 + cos(pi step / steps)) / 2 to decay."""
    rate = config.learning_rate * min(1.0, (step + 1) / max(config.warmup, 1))
    return rate * (1 + math.cos(math.pi * step / config.steps)) / 2 if config.decay == "cosine" else rate


class _Run:
    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        data: Dataset,
        config: FitConfig,
        folder: Path,
        about: Mapping[str, Any],
        null: int | None,
        label_dropout: float,
        device: torch.device | None,
        listeners: Listeners,
    ) -> None:
        if label_dropout > 0 and null is None:
            raise ArgumentError("label_dropout", label_dropout, "0 for a model without a null class")
        self.device = device or torch.device("cpu")
        self.module = module.to(self.device).train()
        self.loss, self.data, self.config, self.folder, self.about = loss, data, config, folder, about
        self.null, self.label_dropout, self.listeners = null, label_dropout, listeners
        self.state = State(self.module, config)
        self.order = Order(len(data), config.seed)
        self.log = LossLog(folder / LOSS_FILE)
        self.dropout = any(isinstance(part, nn.Dropout) for part in module.modules()) or _has_dropout(module)
        self.step, self.seconds, self.saved = 0, 0.0, -1
        self.pending: list[Tensor] = []  # [row of numbers] of the steps since the last row of the record
        self.names: list[str] = []

    def resume(self, checkpoint: Checkpoint) -> None:
        self.state.load(checkpoint)
        self.step = self.saved = checkpoint.step
        self.seconds = float(checkpoint.about.get("seconds", 0.0))
        self.log.read(checkpoint.step)

    def go(self) -> Fitted:
        config, listeners = self.config, self.listeners
        rate, recent = 0.0, 0.0
        while self.step < config.steps:
            begun = time.perf_counter()
            self._advance()
            if self._due():
                recent = self._record()
            took = time.perf_counter() - begun
            self.seconds += took
            rate = _smooth(rate, config.batch / took)
            stop = listeners.stop()
            if stop or self.step % config.checkpoint_every == 0 or self.step == config.steps:
                self._save()
            if config.sheet_every and self.step % config.sheet_every == 0:
                listeners.sheet(self.state.ema.module, self.step)
            left = (config.steps - self.step) * config.batch / rate
            listeners.progress(Progress(self.step, config.steps, recent, rate, left))
            if stop:
                break
        return Fitted(self.state.ema.module, self.step, self.step >= config.steps, self.seconds)

    def _advance(self) -> None:
        """One step of the optimiser."""
        optimiser, config = self.state.optimiser, self.config
        batch = self._batch()
        optimiser.param_groups[0]["lr"] = learning_rate(config, self.step)
        optimiser.zero_grad()
        parts = self._parts(batch)
        parts["loss"].backward()
        norm = nn.utils.clip_grad_norm_(self.state.named.values(), config.clip_norm)
        optimiser.step()
        self.step += 1
        self.state.ema.update(self.module, self.step)
        self.names = [*parts, "grad_norm"]
        self.pending.append(torch.stack([*(part.detach().float() for part in parts.values()), norm.float()]))

    def _parts(self, batch: Batch) -> Mapping[str, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.dtype == "bfloat16"):
            if not self.dropout:
                return self.loss(self.module, batch, self.state.ema.module)
            devices = [self.device] if self.device.type == "cuda" else []
            with torch.random.fork_rng(devices):  # the one thing here that draws from torch's own generator
                torch.manual_seed(int(draw(self.config.seed, self.step, 1).seeds[0]) & (2**63 - 1))
                return self.loss(self.module, batch, self.state.ema.module)

    def _batch(self) -> Batch:
        size, chance = self.config.batch, draw(self.config.seed, self.step, self.config.batch)
        chosen = self.order.indices(self.step, size)
        x_0 = self.data.x_0(chosen).to(self.device)
        noise = normal(
            chance.seeds.to(self.device), torch.full_like(chance.seeds, self.step).to(self.device), STREAM_FORWARD,
            self.data.shape,
        )  # fmt: skip
        conditioning = {}
        if self.data.labels is not None:
            labels = self.data.labels[chosen]
            if self.null is not None:
                labels = torch.where(chance.drop < self.label_dropout, self.null, labels)
            conditioning["labels"] = labels.to(self.device)
        return Batch(x_0, noise, chance.u, chance.spare, conditioning)

    def _due(self) -> bool:
        """Whether to look at the numbers. On a CPU each step's loss is checked; a GPU is not stopped for that."""
        step, config = self.step, self.config
        last = step == config.steps
        return self.device.type == "cpu" or last or step % config.log_every == 0 or step % config.checkpoint_every == 0

    def _record(self) -> float:
        """Check the steps since the last time; where a row is due, add it to the record. The mean loss so far."""
        table = torch.stack(self.pending).cpu()
        bad = (~table.isfinite().all(1)).nonzero()
        if len(bad):
            self._not_finite(self.step - len(table) + int(bad[0]) + 1, table[int(bad[0])])
        config, step = self.config, self.step
        means = dict(zip(self.names, table.double().mean(0).tolist(), strict=True))
        if step % config.log_every == 0 or step % config.checkpoint_every == 0 or step == config.steps:
            self.log.append({"step": step, **means, "learning_rate": learning_rate(config, step - 1)})
            self.pending = []
        return float(means["loss"])

    def _not_finite(self, step: int, row: Tensor) -> None:
        name, value = next((n, v) for n, v in zip(self.names, row.tolist(), strict=True) if not math.isfinite(v))
        if self.saved >= 0:
            path = self.folder / CHECKPOINTS / f"step-{self.saved:08d}.safetensors"
            advice = f"the last good checkpoint is {path}: the run can be resumed from it with a lower learning_rate"
        else:
            advice = "there is no checkpoint yet: try a lower learning_rate"
        raise FewstepError(f"the {name.replace('_', ' ')} is {value} at step {step}; {advice}")

    def _save(self) -> None:
        if self.saved == self.step:
            return
        if self.pending:  # stopped between two rows; on a GPU nobody has looked at these steps yet
            self._record()
        self.log.write()
        about = {**self.about, "seconds": self.seconds, "config": self.config.to_dict()}
        save_checkpoint(self.folder / CHECKPOINTS, self.step, self.state.tensors(), about, self.config.keep)
        self.saved = self.step


def _has_dropout(module: nn.Module) -> bool:
    """Our residual blocks drop through a function, by a share of their own."""
    return any(getattr(part, "dropout", 0) for part in module.modules())


def _smooth(rate: float, latest: float) -> float:
    return latest if rate == 0 else 0.95 * rate + 0.05 * latest
