"""Training: `fewstep train` as functions, and what distillation shares with it."""

from fewstep.train.config import FitConfig, TrainConfig
from fewstep.train.data import Dataset, digits, load_data
from fewstep.train.fit import Fitted, Listeners, Progress, fit, last_checkpoint
from fewstep.train.losses import Batch, Objective
from fewstep.train.run import Trained, saved_config, train

__all__ = [
    "Batch",
    "Dataset",
    "FitConfig",
    "Fitted",
    "Listeners",
    "Objective",
    "Progress",
    "TrainConfig",
    "Trained",
    "digits",
    "fit",
    "last_checkpoint",
    "load_data",
    "saved_config",
    "train",
]
