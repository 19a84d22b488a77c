"""Ladders: sigmas between two ends, noisiest first. The first and the last are the ends to the bit."""

import math

import numpy as np
import numpy.typing as npt

from fewstep.checks import integer, number
from fewstep.diffusion.quantiles import beta_quantile

Array = npt.NDArray[np.float64]

MAX_TIMESTEPS = 100_000
MAX_SIGMA = 1e6  # Karras time beyond which no signal counts as left: float32 cannot tell x from its noise
MIN_SIGMA = 1e-12  # below which a slope (x - x_0) / sigma has no digits, in float64 either


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


def polyexponential_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float = 1.0) -> Array:
    """[steps] exp(ln sigma_min + (1 - u)^rho (ln sigma_max - ln sigma_min)), u = 0 .. 1: noisiest first.

    rho = 1 is `exponential_sigmas`; more of it brings the levels closer to sigma_min. A ladder of k-diffusion's.
    """
    u = np.linspace(0, 1, integer("steps", steps, 1, MAX_TIMESTEPS))
    low, high = _ends(sigma_min, sigma_max, len(u))
    rho = number("rho", rho, 1e-2, 1e3)
    return pinned(np.exp(math.log(low) + (1 - u) ** rho * (math.log(high) - math.log(low))), high, low)


def beta_sigmas(steps: int, sigma_min: float, sigma_max: float, alpha: float = 0.6, beta: float = 0.6) -> Array:
    """[steps] sigma_min + q(1 - u) (sigma_max - sigma_min), u = 0 .. 1, q the quantiles of Beta(alpha, beta).

    Noisiest first. Below 1, alpha and beta put levels near both ends. Lee et al., Beta Sampling is All You Need
    (2407.12173), as diffusers has it (use_beta_sigmas): over the sigmas, where the paper's is over the timesteps.
    """
    u = np.linspace(0, 1, integer("steps", steps, 1, MAX_TIMESTEPS))
    low, high = _ends(sigma_min, sigma_max, len(u))
    alpha, beta = number("alpha", alpha, 0.1, 5), number("beta", beta, 0.1, 5)
    return pinned(low + beta_quantile(1 - u, alpha, beta) * (high - low), high, low)


def pinned(values: Array, first: float, last: float) -> Array:
    """`values` from `first` to `last`, which a formula meets only up to its rounding; one value is the first."""
    ends = np.clip(values, min(first, last), max(first, last))
    ends[-1] = last
    ends[0] = first
    return ends


def _ends(sigma_min: float, sigma_max: float, steps: int) -> tuple[float, float]:
    low = number("sigma_min", sigma_min, MIN_SIGMA, MAX_SIGMA)
    return low, number("sigma_max", sigma_max, low, MAX_SIGMA, open_low=steps > 1)
