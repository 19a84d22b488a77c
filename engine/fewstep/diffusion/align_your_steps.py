"""Align your steps: noise levels that were optimised for a network, ten calls at a time."""

from typing import Final

import numpy as np

from fewstep.checks import exact, named, one_of
from fewstep.diffusion.ladders import Array
from fewstep.errors import ArgumentError

ROUNDED: Final = 1e-3  # of a sigma in the table, which has three digits behind the point

TABLES: Final = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}
"""Where ten calls are made, and where the last would land if x were not taken clean from there."""


def align_your_steps_sigmas(steps: int, table: str = "sd15", highest: float = np.inf) -> Array:
    """[steps] exp of ln sigma, linear between the table's entries, at steps + 1 even places but the last of them.

    Sabour et al., Align Your Steps: Optimizing Sampling Schedules in Diffusion Models (2404.14507), appendix B, and
    the interpolation of its web page. Ten steps are the table itself.

    Args:
        steps: model calls.
        table: "sd15", "sdxl" or "svd", the network it was optimised for.
        highest: the sigma to begin at, where that is less than the table's first.

    Raises:
        ArgumentError: another table, or a `highest` below all of it.
    """
    if not one_of(table, TABLES):
        raise ArgumentError("table", table, named(TABLES, table))
    sigmas = np.array(TABLES[table])
    if highest <= sigmas[-1]:
        allowed = f"more, so that the noise is above the last of the table {table}, {exact(sigmas[-1])}"
        raise ArgumentError("strength", f"one that begins at sigma = {exact(highest)}", allowed)
    within = highest > sigmas[0] * (1 - ROUNDED)
    start = 0.0 if within else np.interp(-np.log(highest), -np.log(sigmas), np.arange(len(sigmas)))
    places = np.linspace(start, len(sigmas) - 1, steps + 1)[:-1]
    found = np.exp(np.interp(places, np.arange(len(sigmas)), np.log(sigmas)))
    return np.asarray(np.minimum(found, highest))
