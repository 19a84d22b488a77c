"""Multistep sampling of consistency models. Song et al., Consistency Models (2303.01469), algorithm 1."""

import numpy as np

from fewstep.checks import exact, number
from fewstep.diffusion.levels import FLOAT32, Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers.clip import Clip, ClipLike, clip_columns
from fewstep.errors import ArgumentError

UNIT = Clip(1.0)


def consistency(
    levels: Levels, sigma_data: float = 0.5, sigma_boundary: float | None = None, clip: ClipLike = UNIT
) -> Plan:
    """The network's output m, given c_in x, becomes the consistency function, then fresh noise up to sigma':

    x_0 = clip(c_skip x + c_out m),    x' = x_0 + sqrt(sigma'^2 - sigma_boundary^2) z
    c_in = 1 / sqrt(sigma^2 + sigma_data^2)                                          (appendix C)
    c_skip = sigma_data^2 / ((sigma - sigma_boundary)^2 + sigma_data^2)
    c_out = sigma_data (sigma - sigma_boundary) / sqrt(sigma^2 + sigma_data^2)

    sigma_boundary is the model's: the epsilon of the paper, where its function is x itself. It is the lowest sigma of
    the schedule that the model was trained on, unless said, whichever levels a run visits. There c_out = 0, and a call
    would be for nothing.

    The levels's x is x_0 + sigma z (kind "ve"). The last row draws no noise. A run starts from sigma z.
    """
    if levels.kind != "ve":
        allowed = "levels of kind 've', such as those of schedules.karras()"
        raise ArgumentError("levels", f"kind {levels.kind!r}", allowed)
    sigma, sigma_next = levels.noise_scale[:-1], levels.noise_scale[1:]
    sigma_data = number("sigma_data", sigma_data, 0, 1e6, open_low=True)
    boundary = _boundary(levels, sigma_boundary)
    above = np.maximum(sigma - boundary, 0)
    s = np.sqrt(np.maximum(sigma_next**2 - boundary**2, 0))
    s[-1] = 0.0
    return Plan.build(
        "consistency",
        "consistency",
        levels,
        c_in=1 / np.sqrt(sigma**2 + sigma_data**2),
        k_x=sigma_data**2 / (above**2 + sigma_data**2),
        k_m=sigma_data * above / np.sqrt(sigma**2 + sigma_data**2),
        b=1.0,
        s=s,
        **clip_columns(clip),
    )


def _boundary(levels: Levels, said: float | None) -> float:
    """The model's boundary, which no level lies below."""
    last = float(levels.noise_scale[-2])
    if said is not None:
        return number("sigma_boundary", said, 0, last)
    if levels.lowest is None:
        allowed = "a number: these levels are of no schedule, whose lowest sigma would say it"
        raise ArgumentError("sigma_boundary", said, allowed)
    if last < levels.lowest * (1 - FLOAT32):
        allowed = (
            f"{exact(levels.lowest)} or more, the model's boundary (sigma_boundary), below which it has no function"
        )
        raise ArgumentError("sigma_min", last, allowed)
    return levels.lowest
