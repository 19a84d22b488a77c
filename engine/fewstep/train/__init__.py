"""Training: `fewstep train` and `fewstep distill`."""

from fewstep.train.config import FitConfig, TrainConfig
from fewstep.train.data import Dataset, digits, load_data
from fewstep.train.distill import distill
from fewstep.train.distill_config import DistillConfig
from fewstep.train.fit import Fitted, Listeners, Progress, fit, last_checkpoint
from fewstep.train.losses import Batch, Objective
from fewstep.train.run import saved_config, train
from fewstep.train.session import Trained

__all__ = [
    "Batch",
    "Dataset",
    "DistillConfig",
    "FitConfig",
    "Fitted",
    "Listeners",
    "Objective",
    "Progress",
    "TrainConfig",
    "Trained",
    "digits",
    "distill",
    "fit",
    "last_checkpoint",
    "load_data",
    "saved_config",
    "train",
]
