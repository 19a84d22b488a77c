"""Log-rho DEIS. Zhang and Chen, Fast Sampling of Diffusion Models with Exponential Integrator (2204.13902)."""

from fewstep.checks import integer
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers.clip import ClipLike, clip_columns
from fewstep.diffusion.samplers.multistep import adams, half_log_snr, nodes, orders, past, steps


def deis(
    levels: Levels, prediction: str = "eps", order: int = 2, lower_order_final: bool = True, clip: ClipLike = None
) -> Plan:
    """Equation 15 in rho = noise / signal, with polynomials in ln rho (appendix H, log-rho AB-DEIS):

    x' / signal_s = x / signal + sum_j C_j eps^(-j),    C_j = integral from rho to rho_s of l_j(ln rho) d rho

    so with w_j = signal_s C_j, whose sum is noise_s - signal_s noise / signal,

    x' = signal_s x_0 + noise_s eps + sum_(j > 0) w_j (eps^(-j) - eps),    eps = (x - signal x_0) / noise

    With h = ln(rho / rho_s), w_j = -noise_s h `adams`(h). A row that lands clean is of order 1, as are the first and
    those that `multistep.orders` names. An eps that was found where no signal was left weighs nothing later.
    """
    signal, noise, signal_s, noise_s = levels.falls()
    order = integer("order", order, 1, 3)
    at = half_log_snr(levels)
    h = steps(at)
    w = -noise_s * h * adams(h, nodes(at, orders(levels, order, lower_order_final), order))[1:]
    of_eps = noise_s - w.sum(0)
    return Plan.build(
        "deis",
        prediction,
        levels,
        a=of_eps / noise,
        b=signal_s - of_eps * signal / noise,
        h_x=1 / noise,
        h_0=-signal / noise,
        **past(w),
        **clip_columns(clip),
    )
