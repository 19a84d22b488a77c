"""The stochastic samplers of Karras et al., Elucidating the Design Space (2206.00364), algorithm 2."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fewstep.checks import number
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers.clip import ClipLike, clip_columns
from fewstep.diffusion.samplers.heun import heun_columns
from fewstep.diffusion.samplers.woven import pooled, woven
from fewstep.diffusion.schedules import Array


def edm(
    levels: Levels,
    prediction: str = "eps",
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
    clip: ClipLike = None,
) -> Plan:
    """Each of N steps first adds noise, then takes Heun's step from the raised level (`heun_columns`):

    raised = (1 + gamma) sigma,    gamma = min(s_churn / N, sqrt(2) - 1) where s_tmin <= sigma <= s_tmax, else 0
    x = x + s_noise sqrt(raised^2 - sigma^2) z

    A row lands where the next one begins, so noise is added by the row before. That of the first step is one with the
    start, whose variance is the sum of both. The network is told the raised level, as in the paper; diffusers' Euler
    asks it at the level below. Beyond the schedule's own last level it is told that one's time.
    """
    pool, start, added, raised = _churned(levels, s_churn, s_tmin, s_tmax, s_noise)
    visits = pool.visited([*woven(raised, np.arange(1, len(raised))), len(pool)]).in_karras_time()
    s, s_next = pool.sigmas[raised], levels.sigmas[1:]
    return Plan.build(
        "edm",
        prediction,
        visits,
        init_scale=start,
        s=woven(0 * s, added[1:]),
        **heun_columns(s, s_next),
        **clip_columns(clip),
    )


def edm_euler(
    levels: Levels,
    prediction: str = "eps",
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
    clip: ClipLike = None,
) -> Plan:
    """As `edm`, with Euler's step (`euler`) in place of Heun's: N calls of N levels."""
    pool, start, added, raised = _churned(levels, s_churn, s_tmin, s_tmax, s_noise)
    visits = pool.visited([*raised, len(pool)]).in_karras_time()
    ratio = levels.sigmas[1:] / pool.sigmas[raised]
    return Plan.build(
        "edm_euler",
        prediction,
        visits,
        init_scale=start,
        a=ratio,
        b=1 - ratio,
        s=np.append(added[1:], 0.0),
        **clip_columns(clip),
    )


class Churned(NamedTuple):
    """Where the steps begin, and how they get there."""

    pool: Levels  # the levels and those they are raised to
    start: float  # the scale of the first noise
    added: Array  # [N] s of the noise that each step adds
    raised: npt.NDArray[np.int64]  # [N] the places in the pool where each begins


def _churned(levels: Levels, s_churn: float, s_tmin: float, s_tmax: float, s_noise: float) -> Churned:
    steps, count = levels.in_karras_time(), len(levels)
    sigma = steps.falls().noise
    gamma = min(number("s_churn", s_churn, 0, math.inf) / count, math.sqrt(2) - 1)
    s_tmin = number("s_tmin", s_tmin, 0, math.inf)
    churns = (s_tmin <= sigma) & (sigma <= number("s_tmax", s_tmax, s_tmin, math.inf)) & (gamma > 0)
    pool = pooled(levels, (1 + gamma) * sigma[churns])
    raised = np.arange(count)
    raised[churns] = count + np.arange(churns.sum())
    added = number("s_noise", s_noise, 0, 1e6) * np.sqrt(pool.sigmas[raised] ** 2 - sigma**2)
    return Churned(pool, math.hypot(steps.init_scale, added[0]), added, raised)
