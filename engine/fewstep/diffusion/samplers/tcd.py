"""Strategic stochastic sampling. Zheng et al., Trajectory Consistency Distillation (2402.19159)."""

import numpy as np

from fewstep.checks import number
from fewstep.diffusion.forward import transition
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers.clip import ClipLike, clip_columns
from fewstep.errors import ArgumentError


def tcd(levels: Levels, prediction: str = "eps", eta: float = 0.3, clip: ClipLike = None) -> Plan:
    """To the timestep (1 - eta) t' of the schedule, below where the row lands at t', and back up by fresh noise:

    x_u = signal_u x_0 + noise_u eps,    u = floor((1 - eta) t')
    x' = ratio x_u + sqrt(beta) z                                      (`transition`, from u to t')

    eta is the paper's gamma: at 0 nothing is added, at 1 all is new. eps = l_x x + l_m m comes from the unclipped
    prediction, as in `ddim`. The last row draws no noise: it lands clean, or with final = "first" at timestep 0, as
    diffusers does.
    """
    *_, l_x, l_m = levels.network(prediction)
    if levels.schedule is None:
        raise ArgumentError("levels", "of no schedule", "levels of a schedule, to whose timesteps tcd descends")
    schedule = levels.schedule
    *_, signal_s, noise_s = levels.falls()
    exact = np.round((1 - number("eta", eta, 0, 1)) * levels.timesteps[1:], 9)  # 0.7 * 90 is 62.99999999999999
    below = np.floor(exact).astype(np.int64)
    signal_u, noise_u = np.array(signal_s), np.array(noise_s)
    signal_u[:-1], noise_u[:-1] = schedule.signal_scale[below], schedule.noise_scale[below]
    ratio, beta = transition(signal_s, noise_s, signal_u, noise_u)
    a, b, e = ratio * noise_u * l_x, ratio * signal_u, ratio * noise_u * l_m
    return Plan.build("tcd", prediction, levels, a=a, b=b, e=e, s=np.sqrt(beta), **clip_columns(clip))
