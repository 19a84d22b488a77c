"""Gaussian likelihoods of grey values: what the variational bound is made of, in training and in evaluation."""

import math
from typing import Final

import torch
from torch import Tensor
from torch.special import log_ndtr

HALF_BIN: Final = 1 / 255  # half the distance between two of 256 grey values in [-1, 1]


def discretised_log_likelihood(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log of the mass of N(mean, variance) within HALF_BIN of x, in nats; x = -1 and x = 1 own all that lies beyond.

    Ho et al. (2006.11239), equation 13. By symmetry Phi(b) - Phi(a) is taken in the lower tail, where
    log(Phi(b) - Phi(a)) = log Phi(b) + log(1 - exp(log Phi(a) - log Phi(b))) keeps its digits.
    """
    scale = torch.exp(-0.5 * log_variance)
    distance = (x - mean).abs()
    log_b, log_a = log_ndtr((HALF_BIN - distance) * scale), log_ndtr((-HALF_BIN - distance) * scale)
    inside = log_b + torch.log(-torch.expm1(log_a - log_b))
    below, above = log_ndtr((x - mean + HALF_BIN) * scale), log_ndtr(-(x - mean - HALF_BIN) * scale)
    return torch.where(x < -1 + HALF_BIN, below, torch.where(x > 1 - HALF_BIN, above, inside))


def gaussian_log_likelihood(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log N(x; mean, variance) = -(log(2 pi variance) + (x - mean)^2 / variance) / 2, in nats."""
    return -(math.log(2 * math.pi) + log_variance + (x - mean).square() * torch.exp(-log_variance)) / 2


def gaussian_kl(variance_q: Tensor, variance_p: Tensor, squared_gap: Tensor) -> Tensor:
    """KL(N(m_q, v_q) || N(m_p, v_p)) = (log(v_p / v_q) + v_q / v_p - 1 + (m_q - m_p)^2 / v_p) / 2, in nats."""
    nats: Tensor = (torch.log(variance_p / variance_q) + (variance_q + squared_gap) / variance_p - 1) / 2
    return nats
