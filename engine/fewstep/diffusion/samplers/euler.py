"""Euler's method on the probability-flow ODE. Karras et al., Elucidating the Design Space (2206.00364)."""

from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers.clip import ClipLike, clip_columns


def euler(levels: Levels, prediction: str = "eps", clip: ClipLike = None) -> Plan:
    """One straight step along dx/dsigma = (x - x_0) / sigma, algorithm 1 without its correction:

    x' = x + (sigma' - sigma) (x - x_0) / sigma = (sigma' / sigma) x + (1 - sigma' / sigma) x_0

    Here x = x_0 + sigma z (`Levels.straight`), and the network is called in its own coordinates. Levels of a flow keep
    theirs: with noise_scale for sigma, the same formula is the straight step along z - x_0.

    The start is sigma z; on leading timesteps sqrt(1 + sigma^2) z, which allows for data of unit variance.
    Both are diffusers' choices. Zero terminal SNR has sigma = inf and raises; DDIM takes those steps.
    """
    steps = levels.straight()
    _, sigma, _, sigma_next = steps.falls()
    ratio = sigma_next / sigma
    return Plan.build("euler", prediction, steps, a=ratio, b=1 - ratio, **clip_columns(clip))
