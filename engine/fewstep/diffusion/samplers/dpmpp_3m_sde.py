"""DPM-Solver++ of order 3 for the reverse SDE. Lu et al. (2211.01095); k-diffusion's released code."""

from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers.clip import ClipLike
from fewstep.diffusion.samplers.dpmpp import Solver, dpmpp
from fewstep.diffusion.samplers.multistep import orders


def dpmpp_3m_sde(
    levels: Levels,
    prediction: str = "eps",
    eta: float = 1.0,
    s_noise: float = 1.0,
    solver_type: str = "heun",
    exact: bool = False,
    lower_order_final: bool = False,
    euler_at_final: bool = False,
    clip: ClipLike = None,
) -> Plan:
    """The step of dpmpp_3m with H = (1 + eta) h in place of h in e^-h, phi_2 and phi_3, and noise drawn anew:

    x' = (noise_s / noise) e^(-eta h) x + signal_s ((1 - e^-H) x_0 + phi_2 D_1 - phi_3 D_2)
         + noise_s sqrt(1 - e^(-2 eta h)) s_noise z
    phi_2 = 1 - (1 - e^-H) / H,    phi_3 = phi_2 / H - 1/2

    The row of order 2 is by phi_2 too ("heun"), as k-diffusion has it. The last row draws no noise.
    """
    order = orders(levels, 3, lower_order_final, euler_at_final)
    return dpmpp("dpmpp_3m_sde", levels, prediction, Solver(order, solver_type, exact, eta, s_noise), clip)
