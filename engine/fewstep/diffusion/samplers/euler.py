"""Euler's method on the probability-flow ODE. Karras et al., Elucidating the Design Space (2206.00364)."""

import numpy as np

from fewstep.diffusion.forward import x_0_coefficients
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers.clip import ClipLike, clip_columns


def euler(levels: Levels, prediction: str = "eps", clip: ClipLike = None) -> Plan:
    """One straight step along dx/dsigma = (x - x_0) / sigma, algorithm 1 without its correction:

    x' = x + (sigma' - sigma) (x - x_0) / sigma = (sigma' / sigma) x + (1 - sigma' / sigma) x_0

    Here x = x_0 + sigma z. The model knows signal_scale x_0 + noise_scale z, so c_in = signal_scale, which
    is 1 / sqrt(1 + sigma^2) on "vp" levels. A flow levels keeps its coordinates: with noise_scale for sigma, the
    same formula is the straight step along z - x_0.

    The start is sigma z; on leading timesteps sqrt(1 + sigma^2) z, which allows for data of unit variance.
    Both are diffusers' choices. Zero terminal SNR has sigma = inf and raises; DDIM takes those steps.
    """
    k_x, k_m = x_0_coefficients(prediction, levels.signal_scale[:-1], levels.noise_scale[:-1])
    if levels.kind == "flow":
        steps, c_in = levels, np.ones(len(levels))
    else:
        steps, c_in = levels.in_karras_time(), levels.signal_scale[:-1]
    sigma, sigma_next = steps.noise_scale[:-1], steps.noise_scale[1:]
    init_scale = np.hypot(1, sigma[0]) if levels.kind == "vp" and levels.spacing == "leading" else sigma[0]
    return Plan.build(
        "euler",
        prediction,
        steps,
        init_scale=float(init_scale),
        c_in=c_in,
        k_x=k_x * c_in,
        k_m=k_m,
        a=sigma_next / sigma,
        b=1 - sigma_next / sigma,
        **clip_columns(clip),
    )
