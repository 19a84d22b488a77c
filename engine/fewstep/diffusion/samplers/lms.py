"""Linear multistep. Katherine Crowson, k-diffusion; the equation is that of Karras et al. (2206.00364)."""

import numpy as np

from fewstep.checks import integer
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers.clip import ClipLike, clip_columns
from fewstep.diffusion.samplers.multistep import adams, nodes, past, steps
from fewstep.diffusion.schedules import Array

HEAVIEST = 2000  # which float32 rounds to 1e-4 of the step; a flow with a shift of 10 needs 1150 at four steps


def lms(levels: Levels, prediction: str = "eps", order: int = 4, clip: ClipLike = None) -> Plan:
    """The Adams-Bashforth method for dx/dsigma = d = (x - x_0) / sigma, whose steps need not be of equal length:

    x' = x + sum_j w_j d^(-j),    w_j = integral from sigma to sigma' of l_j

    with l_j the Lagrange polynomials of the sigmas where d, d', .. were found (`multistep.adams`); Hairer, Norsett and
    Wanner, Solving Ordinary Differential Equations I, section III.5. Row i combines at most i + 1 of them,
    so that the first is Euler's, and a run is of order 3 to 4.

    Here x = x_0 + sigma z (`Levels.straight`), and levels of a flow keep their coordinates, with noise_scale for sigma.
    Zero terminal SNR has sigma = inf and raises.
    """
    straight = levels.straight()
    sigma = straight.falls().noise
    order = integer("order", order, 1, 4)
    w = weights(straight.noise_scale, order)
    return Plan.build(
        "lms",
        prediction,
        straight,
        a=1 + w[0] / sigma,
        b=-w[0] / sigma,
        h_x=1 / sigma,
        h_0=-1 / sigma,
        **past(w[1:]),
        **clip_columns(clip),
    )


def weights(at: Array, order: int) -> Array:
    """[order, N] w_j of each row; at [N + 1] are the sigmas."""
    length = steps(at)
    each = np.minimum(order, np.arange(1, len(at)))
    while True:
        w = length * adams(np.zeros_like(length), nodes(at, each, order))
        heavy = (np.abs(w).sum(0) > HEAVIEST * np.abs(length)) & (each > 1)
        if not heavy.any():
            return w
        each = each - heavy
