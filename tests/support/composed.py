"""What a plan does as one linear map. Rows are not unique: two programs for one sampler agree in what they compose."""

from typing import Any

import numpy as np

from fewstep.diffusion.plan import Plan
from fewstep_kernels.row import COLUMNS


def composed(plan: Plan) -> Any:
    """[N + 1, 1 + 2 N] x before each row and at the end, in terms of the start, every m and every z; unclipped."""
    n = len(plan)
    unit = np.eye(1 + 2 * n)
    x, found, history = unit[0], [unit[0]], []
    for i, row in enumerate(plan.rows):
        r = dict(zip(COLUMNS, row, strict=True))
        m, z = unit[1 + i], unit[1 + n + i]
        x_0 = r["k_x"] * x + r["k_m"] * m
        past = sum(r[f"c_{j}"] * kept for j, kept in enumerate(history, start=1))
        history = [r["h_x"] * x + r["h_0"] * x_0 + r["h_m"] * m, *history][: plan.history]
        x = r["a"] * x + r["b"] * x_0 + r["e"] * m + past + r["s"] * z
        found.append(x)
    return np.stack(found)
