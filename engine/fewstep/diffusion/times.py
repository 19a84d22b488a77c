"""What a network is told as its time: the words for it, and the formulas of those that follow from sigma alone.

"timestep"     as the schedule counts: the index (vp), T noise_scale (flow)
"unit"         that divided by T; both are for the kinds "vp" and "flow"
"index"        which level it is, 0 .. T - 1, as integers: for a network that looks its time up
"sigma"        Karras time itself, noise_scale / signal_scale
"edm"          0.25 ln sigma                   Karras et al. (2206.00364), table 1, c_noise
"consistency"  1000 * 0.25 ln(sigma + 1e-44)   Song et al. (2303.01469), released code
"trigflow"     atan(sigma / sigma_data)        Lu and Song (2410.11081), section 3: the angle
"""

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from fewstep.diffusion.ladders import Array
from fewstep.errors import ArgumentError

Time = Literal["timestep", "unit", "index", "sigma", "edm", "consistency", "trigflow"]
TIMES: tuple[str, ...] = get_args(Time)
OF_SIGMA = ("sigma", "edm", "consistency", "trigflow")


def time_of_sigma(sigma: npt.ArrayLike, time: str, sigma_data: float = 1.0) -> Array:
    """What a network is told at sigma, where that depends on sigma alone:

    "sigma"        t = sigma
    "edm"          t = 0.25 ln sigma
    "consistency"  t = 1000 * 0.25 ln(sigma + 1e-44)
    "trigflow"     t = atan(sigma / sigma_data), pi / 2 at sigma = inf
    """
    sigmas = np.asarray(sigma, dtype=np.float64)
    if time == "sigma":
        return np.array(sigmas)
    if time == "edm":
        return np.asarray(0.25 * np.log(sigmas))
    if time == "consistency":
        return np.asarray(1000 * 0.25 * np.log(sigmas + 1e-44))
    if time == "trigflow":
        return np.asarray(np.arctan(sigmas / sigma_data))
    raise ArgumentError("time", time, "'sigma', 'edm', 'consistency' or 'trigflow'")


def sigma_of_time(t: npt.ArrayLike, time: str, sigma_data: float = 1.0) -> Array:
    """The inverse of `time_of_sigma`."""
    times = np.asarray(t, dtype=np.float64)
    if time == "sigma":
        return np.array(times)
    if time == "trigflow":
        return np.asarray(sigma_data * np.tan(times))
    return np.asarray(np.exp(4 * times if time == "edm" else times / 250))
