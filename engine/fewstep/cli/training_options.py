"""The options that `fewstep train` and `fewstep distill` share, under the headings of both."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from typer import Option

WHAT, HOW, RUN = "What to learn", "How to learn it", "The run"

Batch = Annotated[int | None, Option(help="Images a step.", rich_help_panel=HOW)]
LearningRate = Annotated[float | None, Option(help="Of AdamW, at its highest.", rich_help_panel=HOW)]
Ema = Annotated[float | None, Option(help="Decay of the averaged weights.", rich_help_panel=HOW)]
Dtype = Annotated[str | None, Option(help="float32, or bfloat16 for the network's products.", rich_help_panel=HOW)]
Seed = Annotated[int | None, Option(help="Of all that is random.", rich_help_panel=HOW)]
LogEvery = Annotated[int | None, Option(help="Steps a row of loss.csv.", rich_help_panel=RUN)]
CheckpointEvery = Annotated[int | None, Option(help="Steps between checkpoints.", rich_help_panel=RUN)]
SheetEvery = Annotated[int | None, Option(help="Steps between sheets of samples; 0: none.", rich_help_panel=RUN)]
Device = Annotated[str | None, Option(help="cpu, cuda or cuda:1. Default: CUDA if there is one.", rich_help_panel=RUN)]
Threads = Annotated[int | None, Option(help="CPU threads. Default: torch's choice.", rich_help_panel=RUN)]
Quiet = Annotated[bool, Option("--quiet", "-q", help="No progress.", rich_help_panel=RUN)]
Config = Annotated[Path | None, Option(help="A TOML file of settings; flags come on top.", rich_help_panel=WHAT)]


def train_defaults() -> dict[str, str]:
    """What `fewstep train` does where an option is not given; from the settings, which alone say it."""
    from fewstep.train.config import TrainConfig, unet_config

    config = TrainConfig()
    network = unet_config(config.unet, channels=1, classes=None, learned_range=config.learned_range)
    own: dict[str, object] = {
        "schedule": config.schedule["name"],
        "channels": network.channels,
        "layers": network.layers,
        "learned_range": "learned" if config.learned_range else "fixed",
    }
    return _shown(vars(config) | own)


def distill_defaults() -> dict[str, str]:
    """The same of `fewstep distill`."""
    from fewstep.train.distill_config import DistillConfig

    return _shown(vars(DistillConfig()))


def _shown(values: Mapping[str, object]) -> dict[str, str]:
    found = {}
    for name, value in values.items():
        if isinstance(value, tuple):
            found[name] = ",".join(f"{each:g}" for each in value)
        elif value is not None:
            found[name] = str(value)
    return found
