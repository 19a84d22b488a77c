"""Euler's method with fresh noise at every step, of k-diffusion (github.com/crowsonkb/k-diffusion)."""

from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers.ancestral import descent
from fewstep.diffusion.samplers.clip import ClipLike, clip_columns


def euler_ancestral(levels: Levels, prediction: str = "eps", eta: float = 1.0, clip: ClipLike = None) -> Plan:
    """A straight step (`euler`) to below where the row lands, and noise up to there (`descent`):

    x' = scale (x + (down - s) (x - x_0) / s) + up z = scale (down / s) x + scale (1 - down / s) x_0 + up z

    In Karras time (`Levels.straight`) it is DDIM with the same eta, and at eta = 1 DDPM. The start is that of `euler`,
    and zero terminal SNR raises as there.
    """
    steps = levels.straight()
    down, scale, up = descent(steps, eta)
    ratio = down / steps.noise_scale[:-1]
    a, b = scale * ratio, scale * (1 - ratio)
    return Plan.build("euler_ancestral", prediction, steps, a=a, b=b, s=up, **clip_columns(clip))
