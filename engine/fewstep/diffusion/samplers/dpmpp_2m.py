"""The second-order multistep solver of DPM-Solver++. Lu et al. (2211.01095)."""

from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers.clip import ClipLike
from fewstep.diffusion.samplers.dpmpp import Solver, dpmpp
from fewstep.diffusion.samplers.multistep import orders


def dpmpp_2m(
    levels: Levels,
    prediction: str = "eps",
    solver_type: str = "midpoint",
    lower_order_final: bool = True,
    euler_at_final: bool = False,
    clip: ClipLike = None,
) -> Plan:
    """Algorithm 2, with lambda = ln(signal / noise), h = lambda_s - lambda, and x_0' made h_0 before x_0:

    x' = (noise_s / noise) x + signal_s ((1 - e^-h) x_0 + A d),    d = (h / h_0) (x_0 - x_0')
    midpoint    A = (1 - e^-h) / 2
    heun        A = 1 - (1 - e^-h) / h

    The first row is of order 1 (d = 0, DDIM), as are those that `multistep.orders` names, and one that lands clean.
    """
    solver = Solver(orders(levels, 2, lower_order_final, euler_at_final), solver_type)
    return dpmpp("dpmpp_2m", levels, prediction, solver, clip)
