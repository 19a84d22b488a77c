"""DPM-Solver++ of order 2 for the reverse SDE. Lu et al. (2211.01095), section 5; k-diffusion's released code."""

from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers.clip import ClipLike
from fewstep.diffusion.samplers.dpmpp import Solver, dpmpp
from fewstep.diffusion.samplers.multistep import orders


def dpmpp_2m_sde(
    levels: Levels,
    prediction: str = "eps",
    eta: float = 1.0,
    s_noise: float = 1.0,
    solver_type: str = "midpoint",
    lower_order_final: bool = True,
    euler_at_final: bool = False,
    clip: ClipLike = None,
) -> Plan:
    """With lambda = ln(signal / noise), h = lambda_s - lambda, H = (1 + eta) h, and x_0' made h_0 before x_0:

    x' = (noise_s / noise) e^(-eta h) x + signal_s ((1 - e^-H) x_0 + A d) + noise_s sqrt(1 - e^(-2 eta h)) s_noise z
    d = (h / h_0) (x_0 - x_0'),    midpoint: A = (1 - e^-H) / 2,    heun: A = 1 - (1 - e^-H) / H

    eta = 1 is the paper's, eta = 0 is dpmpp_2m. The first row is of order 1 (d = 0), as are those that
    `multistep.orders` names, and one that lands clean. The last row draws no noise.
    """
    order = orders(levels, 2, lower_order_final, euler_at_final)
    return dpmpp("dpmpp_2m_sde", levels, prediction, Solver(order, solver_type, eta=eta, s_noise=s_noise), clip)
