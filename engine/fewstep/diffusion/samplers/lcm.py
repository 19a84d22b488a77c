"""Multistep sampling of latent consistency models. Luo et al. (2310.04378)."""

from dataclasses import replace
from typing import Any

import numpy as np

from fewstep.checks import integer, number
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers.clip import ClipLike, clip_columns
from fewstep.diffusion.schedules import Array
from fewstep.errors import ArgumentError


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
    shifted_timestep: int | None = None,
    clip: ClipLike = None,
) -> Plan:
    """A consistency step, then fresh noise up to where the row lands (signal_s, noise_s):

    x' = signal_s (c_skip x + c_out x_0) + noise_s z,    c_skip and c_out as `boundary` has them

    with t the timestep, whatever the network is told. At t = 0 c_out = 0, and a call would be for nothing. The last row
    draws no noise.

    With a `shifted_timestep` S the network is told floor(t S / T) of the schedule's T timesteps, and x is taken for one
    of that level: Chen et al., NitroFusion (2412.02030), released code.
    """
    *_, signal_s, noise_s = levels.falls()
    taken = levels if shifted_timestep is None else _shifted(levels, shifted_timestep)
    c_skip, c_out = boundary(taken.timesteps, timestep_scaling, sigma_data)
    columns: dict[str, Any] = {"a": signal_s * c_skip, "b": signal_s * c_out, "s": np.append(noise_s[:-1], 0.0)}
    if taken is not levels:
        columns["c_in"], columns["k_x"], columns["k_m"], *_ = taken.network(prediction)
        columns |= {"t": taken.t, "r": taken.t}
    return Plan.build("lcm", prediction, levels, **columns, **clip_columns(clip))


def _shifted(levels: Levels, shifted_timestep: int) -> Levels:
    """The levels of the same calls at the timesteps floor(t S / T)."""
    schedule = levels.schedule
    if schedule is None:
        raise ArgumentError("shifted_timestep", shifted_timestep, "None: these levels are of no schedule")
    shift = integer("shifted_timestep", shifted_timestep, 1, len(schedule))
    index = np.floor(levels.timesteps * shift / len(schedule)).astype(np.int64)
    signal_scale = np.append(schedule.signal_scale[index], levels.signal_scale[-1])
    noise_scale = np.append(schedule.noise_scale[index], levels.noise_scale[-1])
    t = schedule.t[index]
    return replace(levels, t=t, signal_scale=signal_scale, noise_scale=noise_scale, index=index.astype(np.float64))
