"""Every sampler on the list, sorted by what its rows say of it, and levels to run it on."""

from typing import get_args

import numpy as np

from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import SAMPLERS
from fewstep.diffusion.schedules import Kind

KINDS: tuple[Kind, ...] = get_args(Kind)
SIGMA_DATA = 0.5


def dense(kind: Kind, levels: int, high: float = 20.0, low: float = 0.05) -> Levels:
    """`levels` calls on Karras et al.'s ladder from sigma = high down to low, where the last one lands.

    It is not clean there, so that as the steps get shorter all of them do. The network is told sigma.
    """
    u = np.linspace(0, 1, levels + 1)
    sigmas = (high ** (1 / 7) + u * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    angle = np.arctan(sigmas / SIGMA_DATA)
    signal_scale, noise_scale = {
        "vp": (1 / np.hypot(1, sigmas), sigmas / np.hypot(1, sigmas)),
        "flow": (1 / (1 + sigmas), sigmas / (1 + sigmas)),
        "ve": (np.ones_like(sigmas), sigmas),
        "trig": (np.cos(angle), SIGMA_DATA * np.sin(angle)),
    }[kind]
    sigma_data = SIGMA_DATA if kind == "trig" else None
    return Levels(sigmas[:-1], signal_scale, noise_scale, kind, "dense", "sigma", sigma_data=sigma_data)


def dense_plan(name: str, kind: Kind, levels: int, **options: object) -> Plan:
    """A sampler's plan on these levels, with all rows of the order it claims: the last too, where it can be told so."""
    whole = {"lower_order_final": False} if "lower_order_final" in SAMPLERS[name].options else {}
    return SAMPLERS[name].build(dense(kind, levels), "edm" if kind == "trig" else "eps", **whole, **options)


SOLVERS = [name for name, sampler in SAMPLERS.items() if sampler.order > 0]
DRAWS = {name: dense_plan(name, SAMPLERS[name].kinds[0], 8).stochastic for name in SOLVERS}
DETERMINISTIC = [name for name in SOLVERS if not DRAWS[name]]
NOISY: list[tuple[str, dict[str, float]]] = [
    *((name, {}) for name in SOLVERS if DRAWS[name]),
    # A flow map adds noise to what one call made of a whole step; the network of a solver has no such answer.
    *((name, {"eta": 0.9}) for name in DETERMINISTIC if "eta" in SAMPLERS[name].options and name != "flow_map"),
]
