"""Multistep sampling of a network that gives x_0 in one call. Song et al. (2303.01469), algorithm 1."""

import numpy as np

from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers.clip import ClipLike, clip_columns


def scm(levels: Levels, prediction: str = "eps", clip: ClipLike = None) -> Plan:
    """The network's x_0, then fresh noise up to where the row lands (signal_s, noise_s):

    x' = signal_s x_0 + noise_s z

    On TrigFlow's levels, with v predicted, this is the sampler of sCM (Lu and Song, 2410.11081),

    x_0 = cos(t) x - sigma_data sin(t) F(x / sigma_data, t),    x' = cos(s) x_0 + sigma_data sin(s) z

    and on those of any other kind that of what is distilled to one call: DMD2 (Yin et al., 2405.14867) among them. The
    last row draws no noise.
    """
    *_, signal_s, noise_s = levels.falls()
    s = np.append(noise_s[:-1], 0.0)
    return Plan.build("scm", prediction, levels, b=signal_s, s=s, **clip_columns(clip))
