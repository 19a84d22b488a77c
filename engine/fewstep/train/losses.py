"""What training minimises, written in x_0, z and the two scales of a level: x_t = signal x_0 + noise z."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor, nn

import fewstep_kernels
from fewstep.diffusion.forward import posterior_coefficients, transition, x_0_coefficients
from fewstep.diffusion.likelihood import discretised_log_likelihood
from fewstep.diffusion.schedules import Array, Schedule
from fewstep.errors import ArgumentError


@dataclass(frozen=True)
class Batch:
    """B images of one training step and what was drawn for them, on the device."""

    x_0: Tensor  # [B, C, H, W] float32 in [-1, 1]
    noise: Tensor  # [B, C, H, W] standard normals
    u: Tensor  # [B] float64 on the CPU, in [0, 1): where in the schedule
    spare: Tensor  # [B] float64 on the CPU, in [0, 1): for what a loss draws besides, such as a guidance scale
    conditioning: Mapping[str, Tensor]  # each [B, ...], what the module takes beside x_t and t: {"labels": ...}


@dataclass(frozen=True)
class Levels:
    """The coefficients of B samples' timesteps, each [B] float32."""

    t: Tensor  # what the model is told
    signal: Tensor
    noise: Tensor
    weight: Tensor
    k_x: Tensor  # x_0 = k_x x_t + k_m m
    k_m: Tensor
    coef1: Tensor  # posterior_mean_coef1, of x_0
    log_small: Tensor  # the posterior's log variance; at t = 0, where it is 0, that of t = 1
    log_large: Tensor  # log beta
    first: Tensor  # 1 at t = 0, else 0


class Objective:
    """L_simple, or with a learned variance L_hybrid = L_simple + lambda L_vlb (Nichol and Dhariwal, 2102.09672).

        L_simple   mean over samples and pixels of  weight_t (m - target_t)^2
        target_t   eps: z    x_0: x_0    v: signal z - noise x_0    flow: z - x_0
        weight_t   1, or min(SNR_t, gamma) k_m^2, where x_0 = k_x x_t + k_m m   (`loss_weights`)
        L_vlb      T mean of L_t, in bits a dimension: T, as t is one of T and the bound is their sum   (`vlb_terms`)

    Args:
        schedule: the noise levels; a sample's is u T, rounded down.
        prediction: "eps", "x_0", "v" or "flow".
        min_snr_gamma: gamma; 0 weighs all timesteps with 1.
        learned_range: the model answers 2C channels, of which the second C place its variance.
        vlb_weight: lambda.
    """

    def __init__(
        self,
        schedule: Schedule,
        prediction: str,
        min_snr_gamma: float = 0.0,
        learned_range: bool = False,
        vlb_weight: float = 1e-3,
    ) -> None:
        self.schedule, self.prediction = schedule, prediction
        self.learned_range, self.vlb_weight = learned_range, vlb_weight
        self._table = _table(schedule, prediction, min_snr_gamma)

    def levels(self, u: Tensor, device: torch.device) -> Levels:
        """The coefficients at the timesteps of u [B]: gathered on the CPU and moved at once, so that no GPU waits."""
        t = (u * len(self.schedule)).long().clamp(max=len(self.schedule) - 1)
        return Levels(*self._table[:, t].to(torch.float32).to(device).unbind())

    def __call__(self, module: nn.Module, batch: Batch, average: nn.Module | None = None) -> dict[str, Tensor]:
        """{"loss": what is minimised, and its parts}, scalars."""
        levels = self.levels(batch.u, batch.x_0.device)
        x_t = fewstep_kernels.add_noise(batch.x_0, levels.signal, levels.noise, batch.noise)
        answer = module(x_t, levels.t, **batch.conditioning).float()
        channels = batch.x_0.shape[1]
        m = answer[:, :channels]
        squared = (m - target(self.prediction, batch.x_0, batch.noise, levels.signal, levels.noise)).square()
        simple = (levels.weight * squared.flatten(1).mean(1)).mean()
        if not self.learned_range:
            return {"loss": simple}
        # The mean is L_simple's to learn: here it is a constant, or L_vlb's noisy gradient would drown L_simple's.
        x_0 = _each(levels.k_x, x_t) * x_t + _each(levels.k_m, m) * m.detach()
        vlb = len(self.schedule) * vlb_terms(batch.x_0, x_0, answer[:, channels:], levels).mean()
        return {"loss": simple + self.vlb_weight * vlb, "simple": simple, "vlb": vlb}


def target(prediction: str, x_0: Tensor, z: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
    """What the model should answer: x_0, z [B, C, H, W], signal, noise [B] -> [B, C, H, W].

    eps     z                       Ho et al. (2006.11239)
    x_0     x_0
    v       signal z - noise x_0    Salimans and Ho (2202.00512), appendix D
    flow    z - x_0                 Liu et al. (2209.03003)
    """
    if prediction == "eps":
        return z
    if prediction == "x_0":
        return x_0
    if prediction == "v":
        return _each(signal, z) * z - _each(noise, x_0) * x_0
    if prediction == "flow":
        return z - x_0
    raise ArgumentError("prediction", prediction, "eps, x_0, v or flow")


def loss_weights(schedule: Schedule, prediction: str, min_snr_gamma: float) -> Array:
    """[T] weight = min(SNR, gamma) k_m^2, since (m - target)^2 k_m^2 is the squared error of x_0; all 1 for gamma = 0.

    k_m^2 is 1 for x_0, 1 / SNR for eps and 1 / (SNR + 1) for v: Hang et al., Efficient Diffusion Training via Min-SNR
    Weighting Strategy (2303.09556), section 3.4.
    """
    if min_snr_gamma == 0:
        return np.ones(len(schedule))
    _, k_m = x_0_coefficients(prediction, schedule.signal_scale, schedule.noise_scale)
    return np.asarray(np.minimum(schedule.snr, min_snr_gamma) * k_m**2)


def vlb_terms(
    x_0: Tensor,  # [B, C, H, W], of 256 grey values in [-1, 1]
    estimate: Tensor,  # [B, C, H, W] of x_0
    v: Tensor,  # [B, C, H, W], the variance's place between its bounds: -1 the smaller, 1 the larger
    levels: Levels,
) -> Tensor:  # [B]
    """The term of the variational bound at each sample's t, in bits a dimension.

    t > 0    KL(q(x_{t-1} | x_t, x_0) || N(coef1 estimate + coef2 x_t, variance))
             = (log variance - log small + (small + coef1^2 (x_0 - estimate)^2) / variance - 1) / 2
    t = 0    -log of the mass that N(estimate, variance) has at x_0's grey value (`discretised_log_likelihood`)
    log variance = (1 + v)/2 log_large + (1 - v)/2 log_small        Nichol and Dhariwal (2102.09672), equation 15
    """
    log_small, log_large = _each(levels.log_small, v), _each(levels.log_large, v)
    log_variance = torch.lerp(log_small, log_large, (v + 1) / 2)
    gap = _each(levels.coef1, v).square() * (x_0 - estimate).square()
    kl = (log_variance - log_small + (log_small.exp() + gap) * (-log_variance).exp() - 1) / 2
    decoder = -discretised_log_likelihood(x_0, estimate, log_variance)
    nats = torch.where(_each(levels.first, v) == 1, decoder, kl)
    return nats.flatten(1).mean(1) / math.log(2)


def _table(schedule: Schedule, prediction: str, min_snr_gamma: float) -> Tensor:
    """[fields of Levels, T] float64."""
    signal, noise = schedule.signal_scale, schedule.noise_scale
    before = np.concatenate([[1.0], signal[:-1]]), np.concatenate([[0.0], noise[:-1]])
    coef1, _, small = posterior_coefficients(signal, noise, *before)
    _, large = transition(signal, noise, *before)
    k_x, k_m = x_0_coefficients(prediction, signal, noise)
    columns = {
        "t": schedule.t,
        "signal": signal,
        "noise": noise,
        "weight": loss_weights(schedule, prediction, min_snr_gamma),
        "k_x": k_x,
        "k_m": k_m,
        "coef1": coef1,
        "log_small": np.log(np.concatenate([small[1:2], small[1:]])),
        "log_large": np.log(large),
        "first": (np.arange(len(schedule)) == 0).astype(np.float64),
    }
    return torch.from_numpy(np.stack([columns[field.name] for field in fields(Levels)]))


def _each(coefficient: Tensor, x: Tensor) -> Tensor:
    """A coefficient [B] beside x [B, ...]."""
    return coefficient.reshape(-1, *[1] * (x.ndim - 1))
