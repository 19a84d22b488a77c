"""Euler's method on the probability-flow ODE. Karras et al., Elucidating the Design Space (2206.00364)."""

import numpy as np

from fewstep.forward import x_0_coefficients
from fewstep.paths import Path
from fewstep.plan import Plan
from fewstep.samplers.clip import ClipLike, clip_columns


def euler(path: Path, prediction: str = "eps", clip: ClipLike = None) -> Plan:
    """One straight step along dx/dsigma = (x - x_0) / sigma, algorithm 1 without its correction:

    x' = x + (sigma' - sigma) (x - x_0) / sigma = (sigma' / sigma) x + (1 - sigma' / sigma) x_0

    Here x = x_0 + sigma z. The model knows signal_scale x_0 + noise_scale z, so c_in = signal_scale, which
    is 1 / sqrt(1 + sigma^2) on "vp" paths. A flow path keeps its coordinates: with noise_scale for sigma, the
    same formula is the straight step along z - x_0.

    The start is sigma z; on leading timesteps sqrt(1 + sigma^2) z, which allows for data of unit variance.
    Both are diffusers' choices. Zero terminal SNR has sigma = inf and raises; DDIM takes those steps.
    """
    k_x, k_m = x_0_coefficients(prediction, path.signal_scale[:-1], path.noise_scale[:-1])
    if path.kind == "flow":
        steps, c_in = path, np.ones(len(path))
    else:
        steps, c_in = path.in_karras_time(), path.signal_scale[:-1]
    sigma, sigma_next = steps.noise_scale[:-1], steps.noise_scale[1:]
    init_scale = np.hypot(1, sigma[0]) if path.kind == "vp" and path.spacing == "leading" else sigma[0]
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
