"""Pseudo linear multistep (F-PNDM). Liu et al., Pseudo Numerical Methods for Diffusion Models (2202.09778)."""

import numpy as np

from fewstep.checks import one_of
from fewstep.diffusion.ladders import MAX_SIGMA
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers.clip import ClipLike, clip_columns
from fewstep.diffusion.samplers.multistep import past
from fewstep.diffusion.schedules import Array
from fewstep.errors import ArgumentError

# Adams-Bashforth on equal steps, youngest first: for the step from the second level, the third, and all after it.
WEIGHTS = ((3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
COMBINED = ("eps", "m")


def plms_calls(levels: int) -> int:
    """At N noise levels N + 1 calls, two of them at the second level; one at one."""
    return levels + (levels > 1)


def plms(levels: Levels, prediction: str = "eps", combined: str = "eps", clip: ClipLike = None) -> Plan:
    """Steps of equation 11 along a combination e of this eps and those before it (equation 12):

    x' = (signal_s / signal) x + E e = signal_s x_0 + noise_s eps + E (e - eps),    eps = (x - signal x_0) / noise
    E  = noise_s - signal_s noise / signal

    1st call    e = eps
    2nd call    x' = x + E (eps - eps') / 2: the first step again, by the mean of both its ends
    3rd call    e = (3 eps - eps') / 2
    4th call    e = (23 eps - 16 eps' + 5 eps'') / 12
    others      e = (55 eps - 59 eps' + 37 eps'' - 9 eps''') / 24

    The second and the third call are at the same level, and what the second said is left out of what follows. The
    weights are those of steps that are equal in t. E is about the sigma that a step begins at: next to no signal at the
    start, as on the cosine schedule, makes the second row overshoot, and none at all raises.

    combined = "m" combines the network's own answers, and takes for e the eps that follows from the combination and
    this x. diffusers does so; unless m is eps, that is a method of order 1.
    """
    if not one_of(combined, COMBINED):
        raise ArgumentError("combined", combined, ", ".join(COMBINED))
    signal, noise, signal_s, noise_s = levels.falls()
    if signal[0] * MAX_SIGMA < noise[0]:
        allowed = "levels with some signal; ddim takes the same steps and can begin where no signal is left"
        raise ArgumentError("levels", f"a first level with sigma = {levels.sigmas[0]:.3g}", allowed)
    step = noise_s - signal_s * noise / signal
    n = len(levels)
    visited = levels.visited([0, 1] if n == 1 else [0, 1, *range(1, n + 1)])
    signal, noise, signal_s, noise_s = (
        scale[rows]
        for rows in (slice(None, -1), slice(1, None))
        for scale in (visited.signal_scale, visited.noise_scale)
    )
    if combined == "m":
        w = differences(step * levels.network(prediction).l_m)
        eps, kept = noise_s, {"e": w[0], "h_m": 1.0}
    else:
        w = differences(step)
        eps, kept = noise_s + w[0], {"h_x": 1 / noise, "h_0": -signal / noise}
    return Plan.build(
        "plms",
        prediction,
        visited,
        a=eps / noise,
        b=signal_s - eps * signal / noise,
        **kept,
        **past(w[1:]),
        **clip_columns(clip),
    )


def differences(step: Array) -> Array:
    """[5, calls] the weights of E (e - eps) on eps, eps', .. by calls; those of a row sum to 0. step [N] is E."""
    n = len(step)
    w = np.zeros((5, plms_calls(n)))
    if n > 1:
        w[:2, 1] = step[0] / 2, -step[0] / 2
    for level in range(1, n):
        own, *before = WEIGHTS[min(level, 3) - 1]
        w[0, level + 1] = step[level] * (own - 1)
        for j, weight in enumerate(before, start=1):
            w[j + (j == level), level + 1] = step[level] * weight  # the second call lies before the first
    return w
