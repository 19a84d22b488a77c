"""DDIM. Song et al., Denoising Diffusion Implicit Models (2010.02502)."""

import numpy as np

from fewstep.checks import flag, number
from fewstep.diffusion.forward import posterior_coefficients
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers.clip import ClipLike, clip_columns


def ddim(
    levels: Levels,
    prediction: str = "eps",
    eta: float = 0.0,
    clip: ClipLike = None,
    clipped_direction: bool = False,
) -> Plan:
    """Equations 12 and 16, with signal_s and noise_s the scales where the row lands:

    x' = signal_s x_0 + direction eps + s z
    s = eta sqrt(posterior variance),    direction = sqrt(noise_s^2 - s^2)

    eps = l_x x + l_m m comes from the unclipped prediction (`forward.network`), as diffusers has it; with
    `clipped_direction` from the clipped x_0, eps = (x - signal x_0) / noise, as guided-diffusion has it: the choice for
    guidance in pixel space, where x_0 is clipped at most places and an eps that does not know of it leads astray.
    eta = 0 follows the probability-flow ODE, eta = 1 is DDPM with fixed_small variance. The last row draws no
    noise.
    """
    signal, noise, signal_s, noise_s = levels.falls()
    *_, variance = posterior_coefficients(signal, noise, signal_s, noise_s)
    s = number("eta", eta, 0, 1) * np.sqrt(variance)
    s[-1] = 0.0
    direction = np.sqrt(noise_s**2 - s**2)

    if flag("clipped_direction", clipped_direction):
        a, b, e = direction / noise, signal_s - direction * signal / noise, 0.0 * noise
    else:
        *_, l_x, l_m = levels.network(prediction)
        a, b, e = direction * l_x, signal_s, direction * l_m
    return Plan.build("ddim", prediction, levels, a=a, b=b, e=e, s=s, **clip_columns(clip))
