"""Models whose answers are known exactly: the denoiser of a Gaussian mixture, the flow map of one Gaussian."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fewstep.diffusion.levels import Levels
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.schedules import Array
from fewstep_kernels.row import COLUMNS


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
        whitened, log_density = self._components(x, signal, noise)
        estimates = self.means + signal * torch.einsum("kij,bkj->bki", self.covariances, whitened)
        return torch.einsum("bk,bki->bi", torch.softmax(self.weights.log() + log_density, dim=1), estimates)

    def responsibility(self, x: Tensor, signal: float, noise: float) -> Tensor:
        """[B, K] the probability that x [B, D] came of each component."""
        return torch.softmax(self.weights.log() + self._components(x, signal, noise)[1], dim=1)

    def _components(self, x: Tensor, signal: float, noise: float) -> tuple[Tensor, Tensor]:
        """Marginal^-1 (x - signal mean) [B, K, D] and the log density, up to a constant, [B, K] of each component."""
        eye = torch.eye(self.means.shape[1], dtype=torch.float64)
        marginal = signal**2 * self.covariances + noise**2 * eye  # [K, D, D]
        residual = x[:, None] - signal * self.means  # [B, K, D]
        whitened = torch.einsum("kij,bkj->bki", torch.linalg.inv(marginal), residual)
        return whitened, -0.5 * ((residual * whitened).sum(-1) + torch.logdet(marginal))

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
    """A network that predicts exactly, for inputs in its own coordinates, at the times that the levels tell it.

    Preconditioned for data of the scale s_d = levels.sigma_data, it is called with x / norm, and its answer F is that of

    edm     x_0 = c_skip x/signal + c_out F,    c_skip = s_d^2 / (sigma^2 + s_d^2),  c_out = sigma s_d / sqrt(sigma^2 + s_d^2)
    v       F = (cos(t) noise z / s_d - sin(t) x_0) / s_d, with tan(t) = sigma / s_d and x = cos(t) x_0 + sin(t) s_d z
    """  # noqa: E501
    scale = np.ones(len(levels)) if levels.scale is None else levels.scale
    told: dict[float, tuple[float, float]] = {}
    for t, signal, noise in zip(
        levels.t.tolist(), scale * levels.signal_scale[:-1], scale * levels.noise_scale[:-1], strict=True
    ):
        level = float(signal), float(noise)
        assert np.allclose(told.setdefault(t, level), level, rtol=1e-9), f"t = {t} is told of two levels"
    s_d = levels.sigma_data

    def model(x_in: Tensor, t: float) -> Tensor:
        signal, noise = told[t]
        if s_d is not None:
            return preconditioned(x_in, signal, noise, s_d)
        x_0 = mixture.denoise(x_in, signal, noise)
        if prediction == "x_0":
            return x_0
        eps = (x_in - signal * x_0) / noise
        return {"eps": eps, "v": signal * eps - noise * x_0, "flow": eps - x_0, "score": -eps / noise}[prediction]

    def preconditioned(x_in: Tensor, signal: float, noise: float, s_d: float) -> Tensor:
        angle = np.arctan2(noise, signal * s_d)
        x_0 = mixture.denoise(x_in * np.hypot(signal * s_d, noise), signal, noise)
        answer: Tensor = (x_0 - s_d * np.cos(angle) * x_in) / (s_d * np.sin(angle))
        return answer if prediction == "edm" else -answer

    return model


def exact_maps(gaussian: Mixture, plan: Plan) -> list[tuple[Tensor, Tensor]]:
    """(M, c) of m = M x_in + c for each row, where the network predicts exactly for one Gaussian.

    A network that is affine is known by what it says of the origin and of the unit vectors.
    """
    model = exact_model(gaussian, plan.levels, plan.prediction)
    points = torch.cat([torch.zeros(1, 2), torch.eye(2)]).double()
    answers = [model(points, t) for t in plan.levels.t.tolist()]
    return [((answer[1:] - answer[0]).T, answer[0]) for answer in answers]


def affine_run(plan: Plan, maps: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """(A, c, S) of x' = A x + c + N(0, S) for a whole run whose model is affine: in row i, m = M x_in + c of maps[i].

    Exact, with no sampling: with what is remembered, youngest first, behind x, each row is
    (x', h, h^(-1), ..) = A (x, h^(-1), h^(-2), ..) + c + (s z, 0, 0, ..).
    """
    size, depth = len(maps[0][1]), plan.history
    eye = torch.eye(size, dtype=torch.float64)
    total = torch.eye(size * (depth + 1), dtype=torch.float64)
    offset, noise = total.new_zeros(len(total)), total.new_zeros(total.shape)
    for row, (linear, answer) in zip(plan.rows.tolist(), maps, strict=True):
        r = dict(zip(COLUMNS, row, strict=True))
        slope = r["c_in"] * linear  # m = slope x + answer
        weight, kept = r["b"] * r["k_m"] + r["e"], r["h_0"] * r["k_m"] + r["h_m"]
        matrix, shift = torch.zeros_like(total), torch.zeros_like(offset)
        matrix[:size, :size] = (r["a"] + r["b"] * r["k_x"]) * eye + weight * slope
        shift[:size] = weight * answer
        for j in range(depth):
            matrix[:size, size * (j + 1) : size * (j + 2)] = r[f"c_{j + 1}"] * eye
        if depth:
            matrix[size : 2 * size, :size] = (r["h_x"] + r["h_0"] * r["k_x"]) * eye + kept * slope
            shift[size : 2 * size] = kept * answer
            matrix[2 * size :, size:-size] = torch.eye(size * (depth - 1))
        total, offset, noise = matrix @ total, matrix @ offset + shift, matrix @ noise @ matrix.T
        noise[:size, :size] += r["s"] ** 2 * eye
    return total[:size, :size], offset[:size], noise[:size, :size]


def affine_moments(
    plan: Plan, maps: list[tuple[Tensor, Tensor]], mean: Tensor, covariance: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean [D] and covariance [D, D] after an `affine_run` from a start that has these."""
    linear, offset, noise = affine_run(plan, maps)
    return linear @ mean + offset, linear @ covariance @ linear.T + noise


def slope_of(errors: list[float], calls: list[int]) -> float:
    """The order p of error ~ calls^-p, by least squares in logarithms."""
    fit: Array = np.polyfit(np.log(calls), np.log(errors), 1)
    return -float(fit[0])
