"""The schedules under the name that users import them by; they are made in `fewstep.diffusion.schedules`."""

from fewstep.diffusion.schedules import (
    Schedule,
    cosine,
    exponential,
    flow,
    from_alphas_cumprod,
    from_betas,
    from_config,
    karras,
    linear,
    scaled_linear,
    sigmoid,
    trigflow,
)
from fewstep.diffusion.shifts import dynamic_mu

__all__ = [
    "Schedule",
    "cosine",
    "dynamic_mu",
    "exponential",
    "flow",
    "from_alphas_cumprod",
    "from_betas",
    "from_config",
    "karras",
    "linear",
    "scaled_linear",
    "sigmoid",
    "trigflow",
]
