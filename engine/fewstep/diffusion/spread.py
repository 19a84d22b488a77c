"""Whether a plan's steps are too long for its method, told before it is run: on a Gaussian all of it is exact."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fewstep_kernels.row import COLUMNS

if TYPE_CHECKING:
    from fewstep.diffusion.plan import Plan


def spread(plan: Plan) -> float:
    """The standard deviation of where a run from init_scale z ends, over what is right there: 1 for a good plan.

    For data N(0, v), v = sigma_data^2 or else 1, and the exact network, x_0 = v signal / (v signal^2 + noise^2) x. Then
    every row is a matrix on x and what is remembered. Clips are left out: they keep x_0 in range, not x.
    """
    levels, depth = plan.levels, plan.history
    variance = 1.0 if levels.sigma_data is None else levels.sigma_data**2
    of_level = variance * levels.signal_scale**2 + levels.noise_scale**2
    exact = variance * levels.signal_scale / of_level
    covariance = np.zeros((depth + 1, depth + 1))
    covariance[0, 0] = plan.init_scale**2
    for row, x_0 in zip(plan.rows, exact, strict=False):
        r = dict(zip(COLUMNS, row.tolist(), strict=True))
        m = (x_0 - r["k_x"]) / r["k_m"] if r["k_m"] else 0.0
        step = np.zeros_like(covariance)
        step[0] = [r["a"] + r["b"] * x_0 + r["e"] * m, *(r[f"c_{j}"] for j in range(1, depth + 1))]
        if depth:
            step[1, 0] = r["h_x"] + r["h_0"] * x_0 + r["h_m"] * m
            step[2:, 1:-1] = np.eye(depth - 1)
        covariance = step @ covariance @ step.T
        covariance[0, 0] += r["s"] ** 2
    return float(np.sqrt(covariance[0, 0] / of_level[-1]))
