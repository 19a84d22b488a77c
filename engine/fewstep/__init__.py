"""fewstep: the sampling engine for diffusion U-Nets at 1 to 8 steps."""

from fewstep import samplers, schedules
from fewstep.callbacks import Step
from fewstep.engine import Engine
from fewstep.errors import ArgumentError, FewstepError, ModelError, OutputError, UntrainedPlanWarning
from fewstep.guidance_input import GuidanceInput
from fewstep.labels import ClassLabels, ContinuousLabels
from fewstep.plan import Plan
from fewstep.results import Samples
from fewstep.trained import Trained

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "ClassLabels",
    "ContinuousLabels",
    "Engine",
    "FewstepError",
    "GuidanceInput",
    "ModelError",
    "OutputError",
    "Plan",
    "Samples",
    "Step",
    "Trained",
    "UntrainedPlanWarning",
    "samplers",
    "schedules",
]
