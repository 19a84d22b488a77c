"""fewstep: the sampling engine for diffusion U-Nets at 1 to 8 steps."""

from fewstep import samplers, schedules
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.trained import Trained
from fewstep.engine import Engine
from fewstep.errors import ArgumentError, FewstepError, ModelError, OutputError, UntrainedPlanWarning
from fewstep.request.conditions import ClassLabels, ContinuousLabels
from fewstep.request.guidance_input import GuidanceInput
from fewstep.results import Samples
from fewstep.run.callbacks import Step
from fewstep.version import __version__

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
    "__version__",
    "samplers",
    "schedules",
]
