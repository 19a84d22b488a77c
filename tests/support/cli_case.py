"""What the command-line tests stand on: a way to run it, two tiny models, and failures on order."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from typer.main import get_command

from fewstep.cli.app import app
from fewstep.models.load import save_model
from fewstep.models.net.config import UNetConfig
from fewstep.models.net.unet import UNet
from fewstep.models.spec import ModelSpec

CONFIG = UNetConfig(
    in_channels=1,
    out_channels=1,
    channels=(8, 16),
    layers=1,
    down_attention=(False, True),
    up_attention=(False, True),
    down=("conv",),
    up=("conv",),
    groups=4,
    mid_attention_groups=4,
)


SPEC = ModelSpec(
    name="tiny",
    family="adm",
    unet=CONFIG,
    shape=(1, 16, 16),
    schedule={"name": "linear", "num_timesteps": 1000},
    prediction="eps",
    plan={"sampler": "ddim", "steps": 2, "clip": 1.0},
    licence="MIT",
)


@dataclass
class Ran:
    """One call of the command line."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line a failure is allowed."""
        assert self.out == ""
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("error: ")
        return self.err.removeprefix("error: ").rstrip("\n")


Run = Callable[..., Ran]


def parse_only(arguments: Sequence[str]) -> None:
    """Read a command line, without the program's name, as the command would, and do not run it."""
    group: Any = get_command(app)
    with group.make_context("fewstep", [], resilient_parsing=True) as context:
        verb, command, rest = group.resolve_command(context, list(arguments))
        command.make_context(verb, rest, parent=context).close()


def tiny_model(folder: Path, config: UNetConfig, **fields: Any) -> Path:
    torch.manual_seed(0)
    save_model(folder, UNet(config), replace(SPEC, unet=config, **fields))
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def pixels(path: Path) -> Any:
    return np.asarray(Image.open(path)).astype(int)


def fails_with(number: int) -> Callable[..., None]:
    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call
