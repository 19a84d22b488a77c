"""Models whose answers are known exactly: the denoiser of a Gaussian mixture, the flow map of one Gaussian."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.schedules import Array


@dataclass(frozen=True)
class Mixture:
    """sum_k weights[k] N(means[k], covariances[k]) in D dimensions."""

    weights: Tensor  # [K]
    means: Tensor  # [K, D]
    covariances: Tensor  # [K, D, D]

    @property
    def mean(self) -> Tensor:
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        centred = self.means - self.mean
        return torch.einsum("k,kij->ij", self.weights, self.covariances + centred[:, :, None] * centred[:, None])

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """[count, D]"""
        which = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        z = torch.randn(count, self.means.shape[1], generator=generator, dtype=torch.float64)
        return self.means[which] + torch.einsum("nij,nj->ni", torch.linalg.cholesky(self.covariances)[which], z)

    def denoise(self, x: Tensor, signal: float, noise: float) -> Tensor:
        """E[x_0 | signal x_0 + noise z = x] for x [B, D]: each component's own estimate, weighted by its posterior."""
        eye = torch.eye(self.means.shape[1], dtype=torch.float64)
        marginal = signal**2 * self.covariances + noise**2 * eye  # [K, D, D]
        residual = x[:, None] - signal * self.means  # [B, K, D]
        whitened = torch.einsum("kij,bkj->bki", torch.linalg.inv(marginal), residual)
        log_density = -0.5 * ((residual * whitened).sum(-1) + torch.logdet(marginal))
        responsibility = torch.softmax(self.weights.log() + log_density, dim=1)
        estimates = self.means + signal * torch.einsum("kij,bkj->bki", self.covariances, whitened)
        return torch.einsum("bk,bki->bi", responsibility, estimates)

    def flow(self, x: Tensor, sigma: float, sigma_end: float, substeps: int = 1500) -> Tensor:
        """The exact probability flow dx/dsigma = (x - E[x_0 | x]) / sigma in Karras time, by RK4 in u = ln sigma."""

        def slope(x: Tensor, u: float) -> Tensor:  # dx/du = sigma dx/dsigma
            return x - self.denoise(x, 1.0, float(np.exp(u)))

        u, du = float(np.log(sigma)), float(np.log(sigma_end / sigma)) / substeps
        for _ in range(substeps):
            k_1 = slope(x, u)
            k_2 = slope(x + du / 2 * k_1, u + du / 2)
            k_3 = slope(x + du / 2 * k_2, u + du / 2)
            k_4 = slope(x + du * k_3, u + du)
            x, u = x + du / 6 * (k_1 + 2 * k_2 + 2 * k_3 + k_4), u + du
        return x


def three_moons() -> Mixture:
    """Three unequal, tilted components in the plane, of about unit variance in all."""
    return Mixture(
        weights=torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
        means=torch.tensor([[-0.9, 0.3], [0.8, 0.9], [1.0, -1.2]], dtype=torch.float64),
        covariances=torch.tensor(
            [[[0.09, 0.03], [0.03, 0.05]], [[0.04, -0.02], [-0.02, 0.08]], [[0.06, 0.0], [0.0, 0.03]]],
            dtype=torch.float64,
        ),
    )


def one_gaussian() -> Mixture:
    """A tilted Gaussian away from the origin."""
    return Mixture(
        weights=torch.ones(1, dtype=torch.float64),
        means=torch.tensor([[0.7, -0.4]], dtype=torch.float64),
        covariances=torch.tensor([[[0.5, 0.2], [0.2, 0.3]]], dtype=torch.float64),
    )


def exact_flow_map(
    gaussian: Mixture, signal: float, noise: float, signal_end: float, noise_end: float
) -> tuple[Tensor, Tensor]:
    """(R, c) of x' = R x + c, where the probability flow takes x for one Gaussian (mu, C); signal = 0 is allowed.

    R = ((signal_end^2 C + noise_end^2) / (signal^2 C + noise^2))^(1/2),  c = signal_end mu - R signal mu
    """
    mean, covariance = gaussian.means[0], gaussian.covariances[0]
    values, vectors = torch.linalg.eigh(covariance)
    ratio = ((signal_end**2 * values + noise_end**2) / (signal**2 * values + noise**2)).sqrt()
    linear = (vectors * ratio) @ vectors.T
    return linear, signal_end * mean - linear @ (signal * mean)


def exact_denoiser_map(gaussian: Mixture, signal: float, noise: float) -> tuple[Tensor, Tensor]:
    """(M, c) of E[x_0 | x] = M x + c for one Gaussian (mu, C): M = signal C (signal^2 C + noise^2)^-1."""
    mean, covariance = gaussian.means[0], gaussian.covariances[0]
    eye = torch.eye(len(mean), dtype=torch.float64)
    linear = signal * covariance @ torch.linalg.inv(signal**2 * covariance + noise**2 * eye)
    return linear, mean - linear @ (signal * mean)


def exact_model(mixture: Mixture, levels: Levels, prediction: str) -> Callable[[Tensor, float], Tensor]:
    """A model that predicts exactly, for x_in in the levels' coordinates and at their own times."""
    scales = zip(levels.signal_scale[:-1].tolist(), levels.noise_scale[:-1].tolist(), strict=True)
    levels = dict(zip(levels.t.tolist(), scales, strict=True))

    def model(x_in: Tensor, t: float) -> Tensor:
        signal, noise = levels[t]
        x_0 = mixture.denoise(x_in, signal, noise)
        if prediction == "x_0":
            return x_0
        eps = (x_in - signal * x_0) / noise
        return {"eps": eps, "v": signal * eps - noise * x_0, "flow": eps - x_0, "score": -eps / noise}[prediction]

    return model


def affine_moments(
    plan: Plan, maps: list[tuple[Tensor, Tensor]], mean: Tensor, covariance: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean [D] and covariance [D, D] after a run whose model is affine: in row i, m = M x_in + c, (M, c) = maps[i].

    Exact, with no sampling: each row is x' = A x + offset + s z.
    """
    eye = torch.eye(len(mean), dtype=torch.float64)
    for i, (linear, offset) in enumerate(maps):
        c_in, k_x, k_m, a, b, e, s = (float(plan.column(n)[i]) for n in ("c_in", "k_x", "k_m", "a", "b", "e", "s"))
        matrix = (a + b * k_x) * eye + (b * k_m + e) * c_in * linear
        mean = matrix @ mean + (b * k_m + e) * offset
        covariance = matrix @ covariance @ matrix.T + s**2 * eye
    return mean, covariance


def slope_of(errors: list[float], calls: list[int]) -> float:
    """The order p of error ~ calls^-p, by least squares in logarithms."""
    fit: Array = np.polyfit(np.log(calls), np.log(errors), 1)
    return -float(fit[0])
