"""How probable a step is under a row of a plan, as a function of what the network said: for training by reward."""

import math

import torch
from torch import Tensor

from fewstep.checks import integer
from fewstep.diffusion.plan import Plan
from fewstep.errors import ArgumentError


def log_prob(
    plan: Plan,
    step: int,
    x: Tensor,
    m: Tensor,
    x_next: Tensor,
    *,
    history: Tensor | None = None,
    mask: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """log p(x' | x) of row `step`, in nats: what the engine counts with `log_prob=True`, differentiable in m.

        x_0  = clip(k_x x + k_m m)
        mean = a x + b x_0 + e m + sum_j c_j h^(-j)
        std  = s, or s exp(log_std) where the variance is learned: log_std lies between log_var_min / 2 and
               log_var_max / 2, as v does between -1 and 1 (Nichol and Dhariwal 2021, eq. 15)
        log p = sum over elements of -(x' - mean)^2 / (2 std^2) - log std - log(2 pi) / 2

    A step of a stochastic plan is a Gaussian policy in this sense: Black et al., Training Diffusion Models with
    Reinforcement Learning (2305.13301), section 4.2.

    Args:
        plan: whose row it is.
        step: the number of the row, from 0.
        x: [B, C, ...] before the step.
        m: [B, C, ...] the network's prediction at c_in x, guided and rescaled already (`fewstep_kernels.cfg_combine` is
            the formula). Where the plan's variance is learned, [B, 2C, ...]: that, then v of the conditional half.
        x_next: [B, C, ...] after it.
        history: [D, B, C, ...] what the rows before left, youngest first, as `State.history`; for a plan that reads it.
        mask: [B or 1, C or 1, ...], 1 where the sample is generated: those elements count, and no others, so none that
            is partly known either.
        dtype: in which it is computed: that of x unless given, float32 at the least.

    Returns:
        [B] in that dtype.

    Raises:
        ArgumentError: a row that adds no noise, so that x' has no density; a tensor that is not there, or does not fit.
    """
    if not isinstance(plan, Plan):
        raise ArgumentError("plan", plan, "a Plan, such as Sample.plan")
    step = integer("step", step, 0, len(plan) - 1)
    for name, tensor in (("x", x), ("m", m), ("x_next", x_next)):
        _check_floats(name, tensor)
    row = {name: float(plan.column(name)[step]) for name in ("k_x", "k_m", "a", "b", "e", "s")}
    if row["s"] == 0:
        noisy = [i for i, s in enumerate(plan.column("s").tolist()) if s]
        raise ArgumentError("step", step, f"a row that adds noise: of this plan {noisy or 'none does'}")
    wide = torch.promote_types(x.dtype, torch.float32) if dtype is None else dtype
    m, v = _split(plan, x, m.to(wide))
    _check_shape("x_next", x_next, x.shape)
    x, x_next = x.to(wide), x_next.to(wide)
    x_0 = _clip(plan, step, row["k_x"] * x + row["k_m"] * m)
    mean = row["a"] * x + row["b"] * x_0 + row["e"] * m + _past(plan, step, history, x)
    log_std = math.log(row["s"]) + (0.0 if v is None else _learned_log_std(plan, step, v))
    z = (x_next - mean) * torch.exp(-torch.as_tensor(log_std, dtype=wide, device=x.device))
    each = -z.square() / 2 - log_std - math.log(2 * math.pi) / 2
    if mask is not None and float(plan.column("known_signal")[step]) != 0:  # else nothing is re-noised
        each = torch.where(_fitting(mask, x).to(x.device) == 1, each, 0.0)
    return each.flatten(1).sum(1)


def _split(plan: Plan, x: Tensor, m: Tensor) -> tuple[Tensor, Tensor | None]:
    """m and v, which is None where the variance is not learned."""
    batch, channels, *size = x.shape
    if not plan.learned_variance:
        _check_shape("m", m, x.shape)
        return m, None
    _check_shape("m", m, (batch, 2 * channels, *size))
    return m[:, :channels], m[:, channels:]


def _learned_log_std(plan: Plan, step: int, v: Tensor) -> Tensor:
    low, high = (float(plan.column(name)[step]) / 2 for name in ("log_var_min", "log_var_max"))
    if low == high:  # not learned here: v weighs nothing
        return torch.full_like(v, low)
    return (1 + v) / 2 * high + (1 - v) / 2 * low


def _clip(plan: Plan, step: int, x_0: Tensor) -> Tensor:
    """Within the row's limit; or within a threshold, the quantile of |x_0| held to [1, limit], and over it."""
    limit, ratio = (float(plan.column(name)[step]) for name in ("clip", "clip_ratio"))
    if ratio == 0:
        return x_0 if math.isinf(limit) else x_0.clamp(-limit, limit)
    ordered = x_0.abs().flatten(1).sort(1).values
    place = ratio * (ordered.shape[1] - 1)
    low, high = ordered[:, math.floor(place)], ordered[:, math.ceil(place)]
    threshold = torch.lerp(low, high, place - math.floor(place)).clamp(1, max(limit, 1.0))
    threshold = threshold.view(-1, *[1] * (x_0.ndim - 1))
    return torch.minimum(torch.maximum(x_0, -threshold), threshold) / threshold


def _past(plan: Plan, step: int, history: Tensor | None, x: Tensor) -> Tensor | float:
    """sum_j c_j h^(-j)."""
    weights = [float(plan.column(f"c_{j}")[step]) for j in range(1, plan.history + 1)]
    reach = max((j for j, c in enumerate(weights, start=1) if c), default=0)
    if reach == 0:
        return 0.0
    if history is None or len(history) < reach or history.shape[1:] != x.shape:
        found = None if history is None else f"shape {list(history.shape)}"
        raise ArgumentError(
            "history", found, f"[{reach} or more, {', '.join(map(str, x.shape))}]: row {step} looks back"
        )
    return sum((c * history[j].to(x) for j, c in enumerate(weights) if c), torch.zeros_like(x))


def _check_floats(argument: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.ndim < 2:
        found = f"{tensor.dtype} of shape {list(tensor.shape)}" if isinstance(tensor, Tensor) else tensor
        raise ArgumentError(argument, found, "a tensor of floats [B, C, ...]")


def _fitting(mask: Tensor, x: Tensor) -> Tensor:
    """The mask, which may be one for all samples or channels."""
    sizes = zip(reversed(mask.shape), reversed(x.shape), strict=False) if isinstance(mask, Tensor) else ()
    if not isinstance(mask, Tensor) or mask.ndim > x.ndim or any(size not in (1, full) for size, full in sizes):
        found = f"shape {list(mask.shape)}" if isinstance(mask, Tensor) else mask
        allowed = f"a tensor that fits {list(x.shape)}, with 1 where it is one for all"
        raise ArgumentError("mask", found, allowed)
    return mask


def _check_shape(argument: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != tuple(shape):
        raise ArgumentError(argument, f"shape {list(tensor.shape)}", f"{list(shape)}")
