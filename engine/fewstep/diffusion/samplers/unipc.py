"""UniPC. Zhao et al., UniPC: A Unified Predictor-Corrector Framework (2302.04867)."""

import numpy as np

from fewstep.checks import flag, integer, one_of
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers.clip import ClipLike, clip_columns
from fewstep.diffusion.samplers.multistep import Orders, adams, half_log_snr, nodes, past, steps
from fewstep.diffusion.schedules import Array
from fewstep.errors import ArgumentError

SOLVER_TYPES = ("bh2", "bh1")


def unipc(
    levels: Levels,
    prediction: str = "eps",
    order: int = 2,
    solver_type: str = "bh2",
    lower_order_final: bool = True,
    clip: ClipLike = None,
) -> Plan:
    """Algorithms 5 to 8, for x_0: each call corrects the step that led to it, and predicts the next.

    With lambda = ln(signal / noise) and h = lambda_s - lambda, from a level to the one below, where the network is
    called at the predicted x' and its answer there is y,

    predict    x'   = (noise_s / noise) x^c + signal_s sum_j P_j x_0^(-j)
    correct    x'^c = (noise_s / noise) x^c + signal_s (C_y y + sum_j C_j x_0^(-j)) = x' + signal_s (C_y y + ..)

    P_j and C_j are h `multistep.adams`(-h), the weights of Adams-Bashforth and of Adams-Moulton, which has y among its
    nodes, and sum to 1 - e^-h. Of two x_0 alone, they weigh the slope by B(h) / 2: B = 1 - e^-h (bh2) or h (bh1).

    So x^c, which no row holds, is x and a combination of x_0: nobody else may write to x (`Plan.closed`),
    unless no row looks back, as of two that land clean. With `lower_order_final` the last rows are of order .., 2, 1.
    """
    if not one_of(solver_type, SOLVER_TYPES):
        raise ArgumentError("solver_type", solver_type, ", ".join(SOLVER_TYPES))
    signal, noise, signal_s, noise_s = levels.falls()
    if solver_type == "bh1" and signal[0] == 0 and len(levels) > 1:
        allowed = "bh2 where the run starts with no signal: B(h) = h is infinite there"
        raise ArgumentError("solver_type", solver_type, allowed)
    each = _orders(levels, integer("order", order, 1, 3), flag("lower_order_final", lower_order_final))
    at = half_log_snr(levels)
    h = steps(at)
    whole = 1 - np.minimum(signal * noise_s / (noise * signal_s), 1.0)
    half = (whole if solver_type == "bh2" else h) / 2

    u = nodes(at, each, order)
    predict = signal_s * predictor(h, u, whole, half, each)
    correct = signal_s * corrector(h, u, whole, half, each)

    weights = np.zeros((order + 1, len(levels)))
    weights[:-1] = predict
    ratio = noise_s / noise
    weights[:, 1:] += ratio[1:] * correct[:, :-1]
    weights[1:, 1:] -= ratio[1:] * predict[:, :-1]
    return Plan.build(
        "unipc",
        prediction,
        levels,
        closed=bool(weights[1:].any()),
        a=ratio,
        b=weights[0],
        h_0=1.0,
        **past(weights[1:]),
        **clip_columns(clip),
    )


def predictor(h: Array, u: Array, whole: Array, half: Array, order: Orders) -> Array:
    """[J, N] P_j of x_0, x_0', ..: those of two by `half`, else exact."""
    found = h * adams(-h, u)
    found[0, order == 1] = whole[order == 1]
    if len(found) > 1:
        two = order == 2
        slope = half[two] / -u[1, two]
        found[0, two], found[1, two] = whole[two] + slope, -slope
    return found


def corrector(h: Array, u: Array, whole: Array, half: Array, order: Orders) -> Array:
    """[J + 1, N] C_j of y, x_0, x_0', ..: those of two by `half`, else exact."""
    landed = np.ones_like(h)
    found = h * adams(-h, np.array([landed, *u]))
    one = order == 1
    found[0, one], found[1, one] = half[one], (whole - half)[one]
    return found


def _orders(levels: Levels, order: int, lower_order_final: bool) -> Orders:
    """[N] of the predictors: min(order, i + 1), min(order, N - i) at the end, 1 where a row lands clean."""
    i = np.arange(len(levels))
    found = np.minimum(order, i + 1)
    if lower_order_final:
        found = np.minimum(found, len(levels) - i)
    if levels.noise_scale[-1] == 0:
        found[-1] = 1
    return found
