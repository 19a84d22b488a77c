"""Multistep sampling of latent consistency models. Luo et al. (2310.04378)."""

import numpy as np

from fewstep.checks import number
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers.clip import ClipLike, clip_columns
from fewstep.diffusion.schedules import Array


def boundary(t: Array, timestep_scaling: float = 10.0, sigma_data: float = 0.5) -> tuple[Array, Array]:
    """c_skip and c_out of f = c_skip x + c_out x_0, which is x itself where there is no noise:

    u = timestep_scaling t,    c_skip = sigma_data^2 / (u^2 + sigma_data^2),    c_out = u / sqrt(u^2 + sigma_data^2)
    """
    u = number("timestep_scaling", timestep_scaling, 0, 1e6, open_low=True) * t
    sigma_data = number("sigma_data", sigma_data, 0, 1e6, open_low=True)
    return sigma_data**2 / (u**2 + sigma_data**2), u / np.sqrt(u**2 + sigma_data**2)


def lcm(
    levels: Levels,
    prediction: str = "eps",
    timestep_scaling: float = 10.0,
    sigma_data: float = 0.5,
    clip: ClipLike = None,
) -> Plan:
    """A consistency step, then fresh noise up to where the row lands (signal_s, noise_s):

    x' = signal_s (c_skip x + c_out x_0) + noise_s z,    c_skip and c_out as `boundary` has them

    with t the timestep, whatever the network is told. At t = 0 c_out = 0, and a call would be for nothing. The last row
    draws no noise.
    """
    *_, signal_s, noise_s = levels.falls()
    c_skip, c_out = boundary(levels.timesteps, timestep_scaling, sigma_data)
    s = np.append(noise_s[:-1], 0.0)
    return Plan.build("lcm", prediction, levels, a=signal_s * c_skip, b=signal_s * c_out, s=s, **clip_columns(clip))
