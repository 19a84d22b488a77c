"""The eager reference: a plan, row by row, in plain torch. It runs every sampler, and it is what the images should be.

The formulas are those of `fewstep_kernels.row`. Nothing here is shared with the engine but the plan's numbers and the
network; `loops.py` has, for the samplers that papers print, a loop that does not even share the plan.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fewstep.diffusion.plan import Plan
from fewstep_kernels.row import COLUMNS

Network = Callable[[Tensor, Tensor, Tensor], Tensor]  # (c_in x [B, C, ...], t [B], r [B]) -> m [B, C or 2C, ...]
Noise = Callable[[int], Tensor]  # standard normals [B, C, ...] of a row; of the start for START
START = -1


@torch.no_grad()
def sample(plan: Plan, network: Network, noise: Noise) -> Tensor:
    """The images of a plan, [B, C, ...] in the dtype of the noise, not clamped.

    Guidance by two halves, a mask and gradients belong to a request, not to a plan, and are not run here.
    """
    x = plan.init_scale * noise(START)
    history: list[Tensor] = []
    for index, numbers in enumerate(plan.rows.tolist()):
        row = dict(zip(COLUMNS, numbers, strict=True))
        t, r = (torch.full((len(x),), row[name], device=x.device) for name in ("t", "r"))
        m = network(row["c_in"] * x, t, r)
        m, std = _split(plan, row, m, x.shape[1])
        x_0 = _clipped(row["k_x"] * x + row["k_m"] * m, row["clip"], row["clip_ratio"])
        kept = row["h_x"] * x + row["h_0"] * x_0 + row["h_m"] * m
        x = row["a"] * x + row["b"] * x_0 + row["e"] * m
        for age, past in enumerate(history, start=1):
            x = x + row[f"c_{age}"] * past
        if row["s"] != 0:
            x = x + row["s"] * std * noise(index)
        history = [kept, *history][: plan.history]
    return x


def _split(plan: Plan, row: dict[str, float], m: Tensor, channels: int) -> tuple[Tensor, Tensor | float]:
    """What the network predicts, and what s is multiplied by: exp(log_var / 2) where it learned the variance, else 1.

    Nichol and Dhariwal, Improved Denoising Diffusion Probabilistic Models, equation 15.
    """
    prediction, v = m[:, :channels], m[:, channels:]
    if not plan.learned_variance:
        return prediction, 1.0
    share = (v + 1) / 2
    log_var = row["log_var_min"] + share * (row["log_var_max"] - row["log_var_min"])
    return prediction, torch.exp(0.5 * log_var)


def _clipped(x_0: Tensor, limit: float, ratio: float) -> Tensor:
    """Within a limit; or, dynamically, within a quantile of |x_0| that is then scaled to 1.

    Saharia et al., Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding, section 2.3.
    """
    if ratio == 0:
        return x_0.clamp(-limit, limit)
    threshold = torch.quantile(x_0.abs().flatten(1), ratio, dim=1).clamp(1, limit)
    threshold = threshold.view(-1, *[1] * (x_0.ndim - 1))
    return x_0.clamp(-threshold, threshold) / threshold
