"""A step of ancestral sampling: down below where it lands by the ODE, then back up by fresh noise."""

from typing import NamedTuple

import numpy as np

from fewstep.checks import number
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.schedules import Array


class Descent(NamedTuple):
    """[N] how each step goes down, and how it comes up again."""

    down: Array  # the noise scale that the ODE is followed to
    scale: Array  # x' = scale x_down + up z
    up: Array


def descent(levels: Levels, eta: float) -> Descent:
    """With s the noise scale where a step begins and s' where it lands:

    Karras time   down = s' sqrt(1 - eta^2 (1 - s'^2 / s^2)),    scale = 1
    a flow        down = s' (1 - eta (1 - s' / s)),              scale = (1 - s') / (1 - down)
    both          up^2 = s'^2 - scale^2 down^2

    At eta = 0 nothing is added; at eta = 1 down = s'^2 / s. The last row draws no noise. The former is k-diffusion's
    sigma_down and sigma_up, the latter that of LTX-Video, as diffusers' LTXEulerAncestralRFScheduler has it.
    """
    _, noise, signal_s, noise_s = levels.falls()
    added = np.full(len(levels), number("eta", eta, 0, 1))
    added[-1] = 0.0
    ratio = noise_s / noise
    if levels.kind == "flow":
        down = noise_s * (1 - added * (1 - ratio))
        scale = signal_s / (signal_s + (noise_s - down))  # 1 - down, and 1 to the bit where nothing is added
    else:
        down, scale = noise_s * np.sqrt(1 - added**2 * (1 - ratio**2)), np.ones_like(ratio)
    return Descent(down, scale, np.sqrt(noise_s**2 - (scale * down) ** 2))
