"""The midpoint method on the probability-flow ODE: k-diffusion's DPM2, after DPM-Solver-2 (Lu et al., 2206.00927)."""

import numpy as np

from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers.ancestral import descent
from fewstep.diffusion.samplers.clip import ClipLike, clip_columns
from fewstep.diffusion.samplers.woven import pooled, woven


def kdpm2(levels: Levels, prediction: str = "eps", eta: float = 0.0, clip: ClipLike = None) -> Plan:
    """From s to s' by the slope at the geometric mean m of both:

    at s    x' = x + (m - s) (x - x_0) / s,    h = x,    m = sqrt(s down)
    at m    x' = scale (h + (down - s) (x - x_0) / m) + up z

    At eta = 0 down is s' and no noise is added; else that is as in `euler_ancestral`: at eta = 1 it is k-diffusion's
    DPM2 ancestral. The last step is Euler's, so the plan of N levels has 2N - 1 rows. Coordinates and start are those
    of `euler`; a network that is told an index cannot be asked between two of its levels and raises.
    """
    steps = levels.straight()
    s = steps.noise_scale[:-1]
    down, scale, up = descent(steps, eta)
    s_1, down_1, scale_1 = s[:-1], down[:-1], scale[:-1]  # all but the last step
    middle = np.sqrt(s_1 * down_1)
    first = np.append(middle, down[-1]) / s
    second = scale_1 * (down_1 - s_1) / middle
    none = np.zeros_like(middle)
    pool = pooled(levels, middle / (1 - middle) if steps.kind == "flow" else middle)
    own = np.arange(len(steps))
    visits = pool.visited([*woven(own, len(steps) + own[:-1]), len(pool)]).straight()
    return Plan.build(
        "kdpm2",
        prediction,
        visits,
        history=1,
        a=woven(first, second),
        b=woven(1 - first, -second),
        c_1=woven(0 * s, scale_1),
        h_x=woven(0 * s + 1, none),
        h_0=0.0,
        s=woven(0 * s, up[:-1]),
        **clip_columns(clip),
    )
