"""fewstep: the sampling engine for diffusion U-Nets at 1 to 8 steps."""

from fewstep import samplers, schedules
from fewstep.callbacks import Step
from fewstep.engine import Engine
from fewstep.errors import ArgumentError, FewstepError, ModelError, OutputError
from fewstep.labels import ClassLabels, ContinuousLabels
from fewstep.plan import Plan
from fewstep.results import Samples

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "ClassLabels",
    "ContinuousLabels",
    "Engine",
    "FewstepError",
    "ModelError",
    "OutputError",
    "Plan",
    "Samples",
    "Step",
    "samplers",
    "schedules",
]
