"""The step that the samplers of DPM-Solver++ share. Lu et al. (2211.01095)."""

from dataclasses import dataclass

import numpy as np

from fewstep.checks import flag, number, one_of
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers.clip import ClipLike, clip_columns
from fewstep.diffusion.samplers.multistep import Orders, half_log_snr, moments, nodes, past, steps
from fewstep.errors import ArgumentError

SOLVER_TYPES = ("midpoint", "heun")


@dataclass(frozen=True)
class Solver:
    """What a step of DPM-Solver++ leaves open.

    Attributes:
        order: [N] how many x_0 each row combines.
        solver_type: "midpoint" or "heun", how a row of order 2 weighs its slope.
        exact: a row of order 3 integrates the parabola through its x_0; else it takes half of its bend.
        eta: 0 for the ODE, 1 for the reverse SDE: how fast noise is drawn anew.
        s_noise: the scale of what is drawn.
    """

    order: Orders
    solver_type: str = "midpoint"
    exact: bool = False
    eta: float = 0.0
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        if not one_of(self.solver_type, SOLVER_TYPES):
            raise ArgumentError("solver_type", self.solver_type, ", ".join(SOLVER_TYPES))
        object.__setattr__(self, "exact", flag("exact", self.exact))
        object.__setattr__(self, "eta", number("eta", self.eta, 0, 10))
        object.__setattr__(self, "s_noise", number("s_noise", self.s_noise, 0, 10))


def dpmpp(sampler: str, levels: Levels, prediction: str, solver: Solver, clip: ClipLike) -> Plan:
    """A step h = lambda_s - lambda long on the axis lambda = ln(signal / noise), with q = e^-h and H = (1 + eta) h:

    x' = (noise_s / noise) q^eta x + signal_s ((1 - e^-H) x_0 + A D_1 + B D_2) + noise_s sqrt(1 - q^(2 eta)) s_noise z

    The x_0 of this and the past two calls are values of a function of u, which is 0 here and 1 where the step lands;
    they were made at 0 > u_1 > u_2 (`multistep.nodes`). d_0 and d_1 are its slopes, D_2 is its bend:

    d_0 = (x_0 - x_0') / -u_1,    d_1 = (x_0' - x_0'') / (u_1 - u_2)
    D_2 = (d_0 - d_1) / -u_2,     D_1 = d_0 - u_1 D_2

    order 1    A = B = 0: DDIM
    order 2    D_1 = d_0, B = 0, and A = (1 - e^-H) / 2 (midpoint) or H I_1(-H) (heun)
    order 3    A = H I_1(-H), and B = H I_2(-H) (exact) or half of it; I_k are those of `multistep.moments`

    Where the run starts with no signal left, h = inf in the first row and u = -inf in the second: D_1 = 0 there, and
    the formulas hold. The last row draws no noise: its eta is 0.
    """
    signal, noise, signal_s, noise_s = levels.falls()
    eta = np.full(len(levels), solver.eta)
    eta[-1] = 0.0
    q = np.minimum(signal * noise_s / (noise * signal_s), 1.0)
    at = half_log_snr(levels)
    length = (1 + eta) * steps(at)
    whole = 1 - q ** (1 + eta)
    _, first, second = length * moments(-length, 3)

    _, u_1, u_2 = nodes(at, solver.order, 3)
    third = (solver.order > 2) & np.isfinite(u_1)
    of_slope = np.where(third | (solver.solver_type == "heun"), first, whole / 2)
    of_bend = np.where(third, second if solver.exact else second / 2, 0.0) - of_slope * np.where(third, u_1, 0.0)
    bend = of_bend / -u_2  # what d_0 - d_1 weighs
    of_d_0 = (of_slope + bend) / -u_1
    of_d_1 = bend / (np.where(third, u_1, 1.0) - np.where(third, u_2, 0.0))

    return Plan.build(
        sampler,
        prediction,
        levels,
        a=noise_s / noise * q**eta,
        b=signal_s * (whole + of_d_0),
        s=noise_s * np.sqrt(1 - q ** (2 * eta)) * solver.s_noise,
        h_0=1.0,
        **past(signal_s * np.array([-of_d_0 - of_d_1, of_d_1])),
        **clip_columns(clip),
    )
