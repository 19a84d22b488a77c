"""Linear multistep. Katherine Crowson, k-diffusion; the equation is that of Karras et al. (2206.00364)."""

import numpy as np

from fewstep.checks import integer
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers.clip import ClipLike, clip_columns
from fewstep.diffusion.samplers.multistep import adams, nodes, past, steps


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
    at = straight.noise_scale
    each = np.minimum(order, np.arange(1, len(levels) + 1))
    w = steps(at) * adams(np.zeros(len(levels)), nodes(at, each, order))
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
