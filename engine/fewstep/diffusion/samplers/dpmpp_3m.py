"""The third-order multistep solver of DPM-Solver++. Lu et al. (2211.01095), released code."""

from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers.clip import ClipLike
from fewstep.diffusion.samplers.dpmpp import Solver, dpmpp
from fewstep.diffusion.samplers.multistep import orders


def dpmpp_3m(
    levels: Levels,
    prediction: str = "eps",
    solver_type: str = "midpoint",
    exact: bool = False,
    lower_order_final: bool = True,
    euler_at_final: bool = False,
    clip: ClipLike = None,
) -> Plan:
    """With lambda = ln(signal / noise), h = lambda_s - lambda, and x_0' and x_0'' made h_0 and h_0 + h_1 before x_0:

    x' = (noise_s / noise) x + signal_s ((1 - e^-h) x_0 + phi_2 D_1 - phi_3 D_2)
    phi_2 = 1 - (1 - e^-h) / h,    phi_3 = phi_2 / h - 1/2
    d_0 = (h / h_0) (x_0 - x_0'),                     d_1 = (h / h_1) (x_0' - x_0'')
    D_1 = d_0 + h_0 / (h_0 + h_1) (d_0 - d_1),        D_2 = h / (h_0 + h_1) (d_0 - d_1)

    D_2 is half of the second derivative that belongs there, so the error is of order 2, with a smaller constant than
    that of dpmpp_2m. It is what the released code and its descendants do; `exact` doubles D_2, for order 3.
    The first two rows are of order 1 and 2 (dpmpp_2m), as are those that `multistep.orders` names.
    """
    order = orders(levels, 3, lower_order_final, euler_at_final)
    return dpmpp("dpmpp_3m", levels, prediction, Solver(order, solver_type, exact), clip)
