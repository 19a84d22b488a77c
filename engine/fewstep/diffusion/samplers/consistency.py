"""Multistep sampling of consistency models. Song et al., Consistency Models (2303.01469), algorithm 1."""

import numpy as np

from fewstep.checks import number
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers.clip import Clip, ClipLike, clip_columns
from fewstep.errors import ArgumentError

UNIT = Clip(1.0)


def consistency(levels: Levels, sigma_data: float = 0.5, sigma_min: float = 0.002, clip: ClipLike = UNIT) -> Plan:
    """The network's output m, given c_in x, becomes the consistency function, then fresh noise up to sigma':

    x_0 = clip(c_skip x + c_out m),    x' = x_0 + sqrt(sigma'^2 - sigma_min^2) z
    c_in = 1 / sqrt(sigma^2 + sigma_data^2)                                          (appendix C)
    c_skip = sigma_data^2 / ((sigma - sigma_min)^2 + sigma_data^2)
    c_out = sigma_data (sigma - sigma_min) / sqrt(sigma^2 + sigma_data^2)

    The levels's x is x_0 + sigma z (kind "ve"). The last row draws no noise. A run starts from sigma z.
    """
    if levels.kind != "ve":
        allowed = "levels of kind 've', such as those of schedules.karras()"
        raise ArgumentError("levels", f"kind {levels.kind!r}", allowed)
    sigma, sigma_next = levels.noise_scale[:-1], levels.noise_scale[1:]
    sigma_data = number("sigma_data", sigma_data, 0, 1e6, open_low=True)
    sigma_min = number("sigma_min", sigma_min, 0, float(sigma[-1]))
    s = np.sqrt(np.maximum(sigma_next**2 - sigma_min**2, 0))
    s[-1] = 0.0
    return Plan.build(
        "consistency",
        "consistency",
        levels,
        c_in=1 / np.sqrt(sigma**2 + sigma_data**2),
        k_x=sigma_data**2 / ((sigma - sigma_min) ** 2 + sigma_data**2),
        k_m=sigma_data * (sigma - sigma_min) / np.sqrt(sigma**2 + sigma_data**2),
        b=1.0,
        s=s,
        **clip_columns(clip),
    )
