"""Heun's method on the probability-flow ODE. Karras et al., Elucidating the Design Space (2206.00364)."""

from typing import Any

import numpy as np

from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers.clip import ClipLike, clip_columns
from fewstep.diffusion.samplers.woven import woven
from fewstep.diffusion.schedules import Array


def heun_columns(s: Array, s_next: Array) -> dict[str, Any]:
    """The rows of N steps from s to s', two for each but the last:

    at s     x' = x + (s' - s) (x - x_0) / s,        h = (x + x') / 2
    at s'    x'' = h + (s' - s) / 2 (x' - x_0') / s'
    """
    ratio = s_next / s
    second = (s_next - s)[:-1] / (2 * s_next[:-1])
    none = np.zeros_like(second)
    return {
        "history": 1,
        "a": woven(ratio, second),
        "b": woven(1 - ratio, -second),
        "c_1": woven(0 * s, none + 1),
        "h_x": woven((1 + ratio) / 2, none),
        "h_0": woven((1 - ratio) / 2, none),
    }


def heun(levels: Levels, prediction: str = "eps", clip: ClipLike = None) -> Plan:
    """Algorithm 1: Euler's step, then the mean of the slopes at both of its ends (`heun_columns`).

    The second call is made where the first one landed, so the plan of N levels has 2N - 1 rows. The last step is
    Euler's alone: no noise has no slope. Coordinates and start are those of `euler`; the formula holds on a flow too.
    """
    steps = levels.straight()
    _, s, _, s_next = steps.falls()
    visits = steps.visited(np.repeat(np.arange(len(steps) + 1), 2)[1:-1].tolist())
    return Plan.build("heun", prediction, visits, **heun_columns(s, s_next), **clip_columns(clip))
