"""Sampling of flow maps: networks that are told where a step goes, as well as where it begins.

Consistency trajectory models (Kim et al., 2310.02279), shortcut models (Frans et al., 2410.12557), MeanFlow (Geng et
al., 2505.13447), Align Your Flow (Sabour et al., 2506.14603), AnyFlow (Gu et al., 2605.13724).
"""

import numpy as np

from fewstep.checks import number
from fewstep.diffusion.forward import transition
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers.clip import ClipLike, clip_columns
from fewstep.diffusion.times import OF_SIGMA, time_of_sigma
from fewstep.errors import ArgumentError


def flow_map(levels: Levels, prediction: str = "flow", eta: float = 0.0, clip: ClipLike = None) -> Plan:
    """From t to r, where the network's answer holds for the whole step; it is told both:

    x_r = signal_r x_0 + noise_r eps

    On a flow, with u the flow predicted, that is x_r = x_t - (t - r) u(x_t, t, r); in Karras time, with x_0 predicted,
    (r / t) x_t + (1 - r / t) g(x_t, t, r), as consistency trajectory models have it; on TrigFlow's levels
    cos(t - r) x_t - sigma_data sin(t - r) F. A network that answers for t alone makes it DDIM.

    At eta = 0 r is where the row lands. Else r is below, at sqrt(1 - eta^2) times the Karras sigma there, and noise
    leads back up: x' = ratio x_r + sqrt(beta) z (`transition`), the gamma-sampling of consistency trajectory models,
    which at 1 would be `scm`. The last row draws no noise.
    """
    eta = number("eta", eta, 0, 1, open_high=True)
    *_, l_x, l_m = levels.network(prediction)
    *_, signal_s, noise_s = levels.falls()
    r, signal_r, noise_r = np.append(levels.t[1:], _end_time(levels)), np.array(signal_s), np.array(noise_s)
    if eta > 0 and len(levels) > 1:
        below = levels.at(np.sqrt(1 - eta**2) * levels.sigmas[1:])
        r[:-1], signal_r[:-1], noise_r[:-1] = below.t, below.signal_scale[:-1], below.noise_scale[:-1]
    ratio, beta = transition(signal_s, noise_s, signal_r, noise_r)
    a, b, e = ratio * noise_r * l_x, ratio * signal_r, ratio * noise_r * l_m
    s = np.sqrt(np.maximum(beta, 0))  # below 0 by its rounding, where eta is next to none
    return Plan.build("flow_map", prediction, levels, r=r, a=a, b=b, e=e, s=s, **clip_columns(clip))


def _end_time(levels: Levels) -> float:
    """What a network is told of the level where the last row lands."""
    if levels.sigmas[-1] > 0:
        return float(levels.at(np.append(levels.sigmas[-1], 0.0)).t[0])
    if levels.kind == "flow" and levels.time in ("timestep", "unit"):
        return 0.0
    if levels.time in OF_SIGMA and levels.time != "edm":
        return float(time_of_sigma(0.0, levels.time))
    allowed = "sigma, consistency or trigflow; timestep or unit on a flow: a flow map is told of the clean end too"
    raise ArgumentError("time", levels.time, allowed)
