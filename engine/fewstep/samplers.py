"""The samplers under the name that users import them by; they are made in `fewstep.diffusion.samplers`."""

from fewstep.diffusion.samplers import *  # noqa: F403 (its __all__ is the list, written once)
from fewstep.diffusion.samplers import __all__ as __all__
