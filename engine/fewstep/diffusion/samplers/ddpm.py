"""Ancestral sampling. Ho et al., Denoising Diffusion Probabilistic Models (2006.11239)."""

import numpy as np

from fewstep.checks import one_of
from fewstep.diffusion.forward import posterior_coefficients, transition
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers.clip import ClipLike, clip_columns
from fewstep.errors import ArgumentError

VARIANCES = ("fixed_small", "fixed_large", "learned_range")


def ddpm(levels: Levels, prediction: str = "eps", variance: str = "fixed_small", clip: ClipLike = None) -> Plan:
    """A sample of q(x_s | x_t, x_0) at the estimated x_0; s is the level the row lands on.

    x' = posterior_mean_coef1 x_0 + posterior_mean_coef2 x + sqrt(variance) z

    fixed_small     the posterior's own variance (`posterior_coefficients`): right where x_0 is one point
    fixed_large     beta of the step (`transition`): right where x_0 is N(0, 1)
    learned_range   exp(lerp(log fixed_small, log fixed_large, (v + 1) / 2)), v the model's second C channels;
                    Nichol and Dhariwal (2102.09672), equation 15

    The last row draws no noise.
    """
    if not one_of(variance, VARIANCES):
        raise ArgumentError("variance", variance, ", ".join(VARIANCES))
    scales = levels.falls()
    coef1, coef2, small = posterior_coefficients(*scales)
    _, large = transition(*scales)

    learned = variance == "learned_range"
    log_var_min, log_var_max, s = np.zeros((3, len(levels)))
    if learned:
        log_var_min[:-1], log_var_max[:-1], s[:-1] = np.log(small[:-1]), np.log(large[:-1]), 1.0
    else:
        s[:-1] = np.sqrt((small if variance == "fixed_small" else large)[:-1])
    return Plan.build(
        "ddpm",
        prediction,
        levels,
        learned_variance=learned,
        a=coef2,
        b=coef1,
        s=s,
        log_var_min=log_var_min,
        log_var_max=log_var_max,
        **clip_columns(clip),
    )
