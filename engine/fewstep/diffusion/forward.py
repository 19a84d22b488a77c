"""The forward process and what can be computed from it in closed form.

With signal and noise the scales of a level, x_t = signal x_0 + noise z (see `fewstep.schedules`), and _prev
those of a cleaner level. The formulas hold for every kind of schedule; for "vp" they are those of Ho et al.
(2006.11239). The lower half works on batches: x [B, ...] of any floating dtype and t int64 [B] on its device.
The coefficients are float64.
"""

from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

import fewstep_kernels
from fewstep.checks import one_of
from fewstep.diffusion.ladders import MAX_SIGMA
from fewstep.diffusion.schedules import Array, Schedule
from fewstep.errors import ArgumentError

PREDICTIONS: tuple[str, ...] = ("eps", "x_0", "v", "flow", "score")
NETWORKS: tuple[str, ...] = (*PREDICTIONS, "edm")  # what a network may answer, preconditioned ones among them

Scale = TypeVar("Scale", Array, Tensor)  # the same formula, for a plan (numpy) and for a batch (torch)


def x_0_coefficients(prediction: str, signal: Scale, noise: Scale) -> tuple[Scale, Scale]:
    """k_x, k_m of x_0 = k_x x_t + k_m m, where the model predicts

    eps     m = z                       x_0 = (x_t - noise m) / signal
    x_0     m = x_0                     x_0 = m
    v       m = signal z - noise x_0    x_0 = (signal x_t - noise m) / (signal^2 + noise^2)
    flow    m = z - x_0                 x_0 = (x_t - noise m) / (signal + noise)
    score   m = -z / noise              x_0 = (x_t + noise^2 m) / signal

    eps and score say nothing about x_0 where no signal is left (zero terminal SNR, or sigma beyond MAX_SIGMA, where it
    is below the rounding of x): ArgumentError.
    """
    _check(prediction)
    if prediction in ("eps", "score") and bool((signal * MAX_SIGMA < noise).any()):
        allowed = "x_0, v or flow where no signal is left (zero terminal SNR), or levels that start later"
        raise ArgumentError("prediction", prediction, allowed)
    if prediction == "eps":
        return 1 / signal, -noise / signal
    if prediction == "x_0":
        return 0 * signal, 0 * signal + 1
    if prediction == "v":
        return signal / (signal**2 + noise**2), -noise / (signal**2 + noise**2)
    if prediction == "flow":
        return 1 / (signal + noise), -noise / (signal + noise)
    return 1 / signal, noise**2 / signal


def eps_coefficients(prediction: str, signal: Scale, noise: Scale) -> tuple[Scale, Scale]:
    """l_x, l_m of eps = l_x x_t + l_m m, where eps is the z in x_t = signal x_0 + noise z:

    eps     eps = m
    x_0     eps = (x_t - signal m) / noise
    v       eps = (noise x_t + signal m) / (signal^2 + noise^2)
    flow    eps = (x_t + signal m) / (signal + noise)
    score   eps = -noise m
    """
    _check(prediction)
    if prediction == "eps":
        return 0 * signal, 0 * signal + 1
    if prediction == "x_0":
        return 1 / noise, -signal / noise
    if prediction == "v":
        return noise / (signal**2 + noise**2), signal / (signal**2 + noise**2)
    if prediction == "flow":
        return 1 / (signal + noise), signal / (signal + noise)
    return 0 * signal, -noise


class Network(NamedTuple):
    """A network's answer m at the input c_in x, as what it says of x = signal x_0 + noise z.

    x_0 = k_x x + k_m m,    z = l_x x + l_m m
    """

    c_in: Array
    k_x: Array
    k_m: Array
    l_x: Array
    l_m: Array


def network(
    prediction: str, signal: Array, noise: Array, sigma_data: float | None = None, scale: Array | float = 1.0
) -> Network:
    """What a row needs to know of the network, [N] each.

    A plain one is called with scale x, in the coordinates it was trained in, and m is what `x_0_coefficients` says.
    One that is preconditioned for data of the scale sigma_data (not None) is called with an input of unit variance, and

    norm^2 = signal^2 sigma_data^2 + noise^2,    c_in = 1 / norm
    edm     x_0 = (signal sigma_data^2 / norm^2) x + (noise sigma_data / norm) m    Karras et al. (2206.00364), table 1
    v       x_0 = (signal sigma_data^2 / norm^2) x - (noise sigma_data / norm) m    Lu and Song (2410.11081), equation 4

    with c_skip, c_out and c_in of the former where signal = 1. The two differ by a sign. In TrigFlow's coordinates they
    are x_0 = cos(t) x -+ sigma_data sin(t) m. Other predictions have no such form.
    """
    one = np.ones_like(signal)
    if sigma_data is None and one_of(prediction, ("edm",)):
        allowed = "the scale of the data that an edm network was made for: schedule.preconditioned(0.5)"
        raise ArgumentError("sigma_data", sigma_data, allowed)
    if sigma_data is None:
        k_x, k_m = x_0_coefficients(prediction, scale * signal, scale * noise)
        l_x, l_m = eps_coefficients(prediction, scale * signal, scale * noise)
        return Network(scale * one, scale * k_x, k_m, scale * l_x, l_m)
    if not one_of(prediction, ("edm", "v")):
        raise ArgumentError("prediction", prediction, "edm or v, of a network that is preconditioned for sigma_data")
    sign = 1.0 if prediction == "edm" else -1.0
    norm = np.hypot(signal * sigma_data, noise)
    return Network(
        c_in=1 / norm,
        k_x=signal * sigma_data**2 / norm**2,
        k_m=sign * noise * sigma_data / norm,
        l_x=noise / norm**2,
        l_m=-sign * signal * sigma_data / norm,
    )


def _check(prediction: object) -> None:
    if not one_of(prediction, PREDICTIONS):
        raise ArgumentError("prediction", prediction, ", ".join(PREDICTIONS))


def transition(signal: Scale, noise: Scale, signal_prev: Scale, noise_prev: Scale) -> tuple[Scale, Scale]:
    """ratio, beta of q(x_t | x_prev) = N(ratio x_prev, beta):

    ratio = signal / signal_prev,  beta = noise^2 - ratio^2 noise_prev^2       (vp: beta = 1 - ratio^2)
    """
    ratio = signal / signal_prev
    return ratio, noise**2 - ratio**2 * noise_prev**2


def posterior_coefficients(
    signal: Scale, noise: Scale, signal_prev: Scale, noise_prev: Scale
) -> tuple[Scale, Scale, Scale]:
    """posterior_mean_coef1, posterior_mean_coef2 and variance of q(x_prev | x_t, x_0):

    N(coef1 x_0 + coef2 x_t, variance) with ratio and beta of `transition` and
    coef1 = signal_prev beta / noise^2,  coef2 = ratio noise_prev^2 / noise^2
    variance = beta noise_prev^2 / noise^2
    Ho et al. (2006.11239), equations 6 and 7.
    """
    ratio, beta = transition(signal, noise, signal_prev, noise_prev)
    return (
        signal_prev * beta / noise**2,
        ratio * noise_prev**2 / noise**2,
        beta * noise_prev**2 / noise**2,
    )


def add_noise(schedule: Schedule, x_0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """A sample of q(x_t | x_0), x_t = signal_scale[t] x_0 + noise_scale[t] noise; x_0, noise [B, C, H, W]."""
    signal_scale, noise_scale = _levels(schedule, x_0, t)
    return fewstep_kernels.add_noise(x_0, signal_scale, noise_scale, noise)


def q_step(schedule: Schedule, x_prev: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """A sample of q(x_t | x_prev): x_t = ratio x_prev + sqrt(beta) noise; before t = 0 lies x_0 itself."""
    ratio, beta = transition(*_levels(schedule, x_prev, t), *_previous_levels(schedule, t))
    return _term(ratio, x_prev, x_prev) + _term(beta.sqrt(), noise, x_prev)


def recover_x_0(schedule: Schedule, x_t: Tensor, m: Tensor, t: Tensor, prediction: str = "eps") -> Tensor:
    """x_0 = k_x x_t + k_m m (`x_0_coefficients`); eps and score raise at zero terminal SNR."""
    k_x, k_m = x_0_coefficients(prediction, *_levels(schedule, x_t, t))
    return _term(k_x, x_t, x_t) + _term(k_m, m, x_t)


def recover_eps(schedule: Schedule, x_t: Tensor, m: Tensor, t: Tensor, prediction: str = "x_0") -> Tensor:
    """eps = l_x x_t + l_m m (`eps_coefficients`)."""
    l_x, l_m = eps_coefficients(prediction, *_levels(schedule, x_t, t))
    return _term(l_x, x_t, x_t) + _term(l_m, m, x_t)


def v_target(schedule: Schedule, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """v = signal_scale[t] noise - noise_scale[t] x_0. Salimans and Ho (2202.00512), appendix D."""
    signal_scale, noise_scale = _levels(schedule, x_0, t)
    return _term(signal_scale, noise, x_0) - _term(noise_scale, x_0, x_0)


class Posterior(NamedTuple):
    """q(x_{t-1} | x_t, x_0)."""

    mean: Tensor  # [B, ...]
    variance: Tensor  # [B] float64; 0 at t = 0
    log_variance: Tensor  # [B] float64; at t = 0 that of t = 1, so that it is finite


def posterior(schedule: Schedule, x_0: Tensor, x_t: Tensor, t: Tensor) -> Posterior:
    """mean = coef1 x_0 + coef2 x_t and variance of q(x_{t-1} | x_t, x_0) (`posterior_coefficients`)."""
    levels = (*_levels(schedule, x_t, t), *_previous_levels(schedule, t))
    coef1, coef2, variance = posterior_coefficients(*levels)
    later = t.clamp(min=min(1, len(schedule) - 1))
    levels = (*_levels(schedule, x_t, later), *_previous_levels(schedule, later))
    *_, positive = posterior_coefficients(*levels)
    mean = _term(coef1, x_0, x_t) + _term(coef2, x_t, x_t)
    return Posterior(mean, variance, positive.log())


def _levels(schedule: Schedule, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """signal_scale[t], noise_scale[t] as float64 [B], after the checks every function here needs."""
    if t.dtype != torch.int64 or t.shape != x.shape[:1]:
        raise ArgumentError("t", f"{t.dtype} of shape {list(t.shape)}", f"int64 of shape [{x.shape[0]}]")
    # On a GPU the range check would stop the host; there the gather itself fails.
    if t.device.type == "cpu" and t.numel() and (int(t.min()) < 0 or int(t.max()) >= len(schedule)):
        raise ArgumentError("t", t.tolist(), f"integers from 0 to {len(schedule) - 1}")
    return _gather(schedule.signal_scale, t), _gather(schedule.noise_scale, t)


def _previous_levels(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    prev = t.clamp(min=1) - 1
    signal_scale, noise_scale = _gather(schedule.signal_scale, prev), _gather(schedule.noise_scale, prev)
    return torch.where(t == 0, 1.0, signal_scale), torch.where(t == 0, 0.0, noise_scale)


def _gather(values: Array, t: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=t.device)[t]


def _term(coefficient: Tensor, operand: Tensor, x: Tensor) -> Tensor:
    """A coefficient [B], in x's dtype, times an operand [B, ...]; 0 where it is 0, whatever the operand holds."""
    each = coefficient.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    return each * torch.where(each == 0, 0.0, operand)
