"""fewstep: the sampling engine for diffusion U-Nets at 1 to 8 steps."""

from fewstep import presets, samplers, schedules
from fewstep.diffusion.density import log_prob
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.trained import Trained
from fewstep.engine import Engine
from fewstep.errors import (
    ArgumentError,
    BackendWarning,
    FewstepError,
    ModelError,
    NonFiniteWarning,
    OutputError,
    OvershootWarning,
    UnfinishedWriteWarning,
    UntrainedPlanWarning,
    UnusedPartWarning,
    WastedCallWarning,
)
from fewstep.models.model import Model
from fewstep.pipelines.accelerate import accelerate, restore
from fewstep.request.conditions import Classes, Numbers, Prompts, Unconditional
from fewstep.request.guidance import ClassifierFree, EmbeddedGuidance
from fewstep.request.start import Image, Inpaint, Resume
from fewstep.results import Samples
from fewstep.run.backends import BACKENDS
from fewstep.run.callbacks import Step
from fewstep.run.sample import Sample
from fewstep.run.session import Session
from fewstep.version import __version__

__all__ = [
    "BACKENDS",
    "ArgumentError",
    "BackendWarning",
    "Classes",
    "ClassifierFree",
    "EmbeddedGuidance",
    "Engine",
    "FewstepError",
    "Image",
    "Inpaint",
    "Model",
    "ModelError",
    "NonFiniteWarning",
    "Numbers",
    "OutputError",
    "OvershootWarning",
    "Plan",
    "Prompts",
    "Resume",
    "Sample",
    "Samples",
    "Session",
    "Step",
    "Trained",
    "Unconditional",
    "UnfinishedWriteWarning",
    "UntrainedPlanWarning",
    "UnusedPartWarning",
    "WastedCallWarning",
    "__version__",
    "accelerate",
    "log_prob",
    "presets",
    "restore",
    "samplers",
    "schedules",
]
