"""Ladders: sigmas between two ends, noisiest first. The first and the last are the ends to the bit."""

import math

import numpy as np
import numpy.typing as npt

from fewstep.checks import integer, number

Array = npt.NDArray[np.float64]

MAX_TIMESTEPS = 100_000
MAX_SIGMA = 1e6  # Karras time beyond which no signal counts as left: float32 cannot tell x from its noise


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Array:
    """[steps] sigma_max (1 + u ((sigma_min / sigma_max)^(1/rho) - 1))^rho, u from 0 to 1.

    Noisiest first; one step is sigma_max. Karras et al., Elucidating the Design Space of Diffusion-Based
    Generative Models (2206.00364), equation 5, with sigma_max taken out of the sum: a power of it alone overflows.
    """
    u = np.linspace(0, 1, integer("steps", steps, 1, MAX_TIMESTEPS))
    low, high = _ends(sigma_min, sigma_max, len(u))
    rho = number("rho", rho, 1e-2, 1e3)
    return pinned(high * (1 + u * ((low / high) ** (1 / rho) - 1)) ** rho, high, low)


def exponential_sigmas(steps: int, sigma_min: float, sigma_max: float) -> Array:
    """[steps] exp(ln sigma_max + u (ln sigma_min - ln sigma_max)), u = 0 .. 1: noisiest first."""
    u = np.linspace(0, 1, integer("steps", steps, 1, MAX_TIMESTEPS))
    low, high = _ends(sigma_min, sigma_max, len(u))
    return pinned(np.exp(math.log(high) + u * (math.log(low) - math.log(high))), high, low)


def pinned(values: Array, first: float, last: float) -> Array:
    """`values` from `first` to `last`, which a formula meets only up to its rounding; one value is the first."""
    ends = np.clip(values, min(first, last), max(first, last))
    ends[-1] = last
    ends[0] = first
    return ends


def _ends(sigma_min: float, sigma_max: float, steps: int) -> tuple[float, float]:
    low = number("sigma_min", sigma_min, 0, MAX_SIGMA, open_low=True)
    return low, number("sigma_max", sigma_max, low, MAX_SIGMA, open_low=steps > 1)
