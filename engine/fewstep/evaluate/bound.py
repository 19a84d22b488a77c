"""The variational bound on the negative log-likelihood, term by term.

    -log p(x_0) <= L_T + sum_{t=1}^{T-1} L_t + L_0
    L_T = KL(q(x_T | x_0) || p(x_T))                        what is left of x_0 in the noise a run starts from
    L_t = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))     one reverse step
    L_0 = -log p(x_0 | x_first)                             the decoder, from the schedule's first level

Ho et al., Denoising Diffusion Probabilistic Models (2006.11239), equation 5; index t here is the schedule's own, so
that the step from level t to level t - 1 is L_t, and L_0 the step from level 0 to the image. All in bits a dimension.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from fewstep.diffusion.forward import posterior_coefficients, transition, x_0_coefficients
from fewstep.diffusion.likelihood import discretised_log_likelihood, gaussian_kl, gaussian_log_likelihood
from fewstep.diffusion.schedules import Array, Schedule, read_only
from fewstep.errors import ArgumentError, FewstepError
from fewstep_kernels import STREAM_FORWARD, normal

FIXED: Final = ("fixed_small", "fixed_large", "optimal")
LEARNED: Final = "learned_range"
LN_2: Final = math.log(2)

Predict = Callable[[Tensor, Tensor, slice], Tensor]
"""(x_t [B, C, H, W], t [B], which of the images these are) -> the model's answer, [B, C or 2C, H, W]."""
Decoder = Literal["discretised", "continuous"]
LargeDecoder = Literal["posterior", "beta"]
POSTERIOR: Final = "the posterior's at t = 1"
BETA: Final = "beta at t = 0"


@dataclass(frozen=True)
class Bound:
    """The bound for one choice of the reverse variance, averaged over images, in bits a dimension."""

    variance: str
    decoder_variance: str  # that of L_0, in words: it is no step of the posterior, whose variance is 0 there
    prior: float  # L_T
    steps: Array  # [T - 1]: L_1 .. L_{T-1}
    decoder: float  # L_0
    standard_error: float  # of the total, over images

    @property
    def total(self) -> float:
        """L_T + sum_t L_t + L_0."""
        return self.prior + float(self.steps.sum()) + self.decoder

    def to_dict(self) -> dict[str, object]:
        """As JSON stores it."""
        return {
            "variance": self.variance,
            "decoder_variance": self.decoder_variance,
            "total": self.total,
            "L_T": self.prior,
            "L_t": float(self.steps.sum()),
            "L_0": self.decoder,
            "standard_error": self.standard_error,
            "terms": [self.decoder, *self.steps.tolist(), self.prior],
        }


def variational_bound(
    predict: Predict,
    x_0: Tensor,  # [B, C, H, W] in [-1, 1]; of 256 grey values for the discretised decoder
    schedule: Schedule,
    prediction: str = "eps",
    *,
    clip: float | None = 1.0,
    decoder: Decoder = "discretised",
    large_decoder: LargeDecoder = "posterior",
    seed: int = 0,
    batch: int = 64,
    advance: Callable[[int, int], None] | None = None,
) -> list[Bound]:
    """The bound of a model at every level of its schedule, one `Bound` for each variance that it can sample with.

    The mean of p(x_{t-1} | x_t) is the posterior's at the estimated x_0; its variance

    fixed_small     that of q(x_{t-1} | x_t, x_0); for the decoder, where it is 0, that of t = 1
    fixed_large     beta_t, exact where x_0 is N(0, 1); for the decoder the posterior's at t = 1 as well, by which
                    Ho et al. and guided-diffusion quote bits a dimension ("fixedlarge" in their code)
    optimal         the best number at each t, fixed_small + mean |mean_q - mean_p|^2, found on these images; for the
                    decoder the one best for its density. Bao et al., Analytic-DPM (2201.06503)
    learned_range   exp(lerp(log fixed_small, log beta_t, (v + 1) / 2)), of a model that answers 2C channels, for the
                    decoder too; Nichol and Dhariwal (2102.09672), equation 15

    Args:
        predict: the model. The noise of image i at level t is normal(seed + i, t), so the batch changes nothing.
        clip: the estimated x_0 is kept within +-clip; None leaves it.
        decoder: "discretised" gives each grey value the decoder's mass between its half-way points, the outer two
            all that lies beyond (equation 13); "continuous" its density, so that the bound is one on a differential
            entropy, lower by log2(127.5) where the density is flat across a grey value.
        large_decoder: the decoder's variance with fixed_large: "posterior", as above, or "beta", that of its other
            steps, beta at t = 0.
        advance: called with (done, total) model calls.

    Raises:
        ArgumentError: a prediction that is no diffusion model's, or eps at zero terminal SNR.
        FewstepError: a model that answers something that is not finite.
    """
    if schedule.sigma_data is not None:
        allowed = "a plain network: the bound calls it with x itself"
        raise ArgumentError(
            "schedule", f"one for a network preconditioned for sigma_data = {schedule.sigma_data}", allowed
        )
    if decoder not in ("discretised", "continuous"):
        raise ArgumentError("decoder", decoder, "discretised or continuous")
    if large_decoder not in ("posterior", "beta"):
        raise ArgumentError("large_decoder", large_decoder, "posterior or beta")
    errors, learned, last = _walk(predict, x_0, schedule, prediction, clip, seed, batch, advance)
    dims = x_0[0].numel()
    small, large, weight = _variances(schedule)
    prior = _prior(schedule, x_0)
    optimal = small + weight * errors.mean(1)
    optimal[0] = errors[0].mean()
    own = BETA if len(schedule) == 1 else POSTERIOR
    if large_decoder == "posterior":
        large = torch.cat([small[:1], large[1:]])
    by_name = {
        "fixed_small": (small, own),
        "fixed_large": (large, own if large_decoder == "posterior" else BETA),
        "optimal": (optimal.clamp(min=1e-12), "the best on these images"),
    }
    bounds = []
    for name, (variance, of_decoder) in by_name.items():
        steps = gaussian_kl(small[1:, None], variance[1:, None], weight[1:, None] * errors[1:])
        first = _decoder_bits(x_0, last.x_0, variance[0].log(), decoder)
        bounds.append(_bound(name, of_decoder, prior, steps / LN_2, first))
    if learned is not None and last.log_variance is not None:
        first = _decoder_bits(x_0, last.x_0, last.log_variance, decoder)
        bounds.append(_bound(LEARNED, "learned", prior, learned[1:] / LN_2, first))
    for bound in bounds:
        if not math.isfinite(bound.total):
            raise FewstepError(f"the bound with {bound.variance} variance is not finite, over {dims} dimensions")
    return bounds


@dataclass(frozen=True)
class _Last:
    """The model's answer at level 0."""

    x_0: Tensor  # [B, C, H, W] float64
    log_variance: Tensor | None  # [B, C, H, W] float64, of a model that learned it


def _walk(
    predict: Predict,
    x_0: Tensor,
    schedule: Schedule,
    prediction: str,
    clip: float | None,
    seed: int,
    batch: int,
    advance: Callable[[int, int], None] | None,
) -> tuple[Tensor, Tensor | None, _Last]:
    """The model at every level: mean (x_0 - estimate)^2 [T, B], the learned steps' KL [T, B] in nats, level 0."""
    T, B, C = len(schedule), len(x_0), x_0.shape[1]
    signal, noise = (torch.tensor(s, dtype=torch.float64) for s in (schedule.signal_scale, schedule.noise_scale))
    k_x, k_m = x_0_coefficients(prediction, signal, noise)
    small, large, weight = _variances(schedule)
    truth = x_0.to(torch.float64)
    errors = torch.empty(T, B, dtype=torch.float64)
    kl: Tensor | None = None
    estimates, log_variances = [], []
    for number, start in enumerate(range(0, B, batch)):
        part = slice(start, min(start + batch, B))
        rows = part.stop - part.start
        seeds = torch.arange(seed + part.start, seed + part.stop, dtype=torch.int64)
        for t in reversed(range(T)):
            z = normal(seeds, torch.full((rows,), t), STREAM_FORWARD, list(x_0.shape[1:])).to(torch.float64)
            x_t = signal[t] * truth[part] + noise[t] * z
            told = torch.full((rows,), float(schedule.t[t]), dtype=x_0.dtype)
            answer = predict(x_t.to(x_0.dtype), told, part).to(torch.float64)
            m, v = answer[:, :C], answer[:, C:]
            estimate = k_x[t] * x_t + k_m[t] * m
            estimate = estimate if clip is None else estimate.clamp(-clip, clip)
            gap = (truth[part] - estimate).square()
            errors[t, part] = gap.flatten(1).mean(1)
            if v.shape[1]:
                kl = torch.zeros(T, B, dtype=torch.float64) if kl is None else kl
                log_variance = torch.lerp(small[t].log(), large[t].log(), (v + 1) / 2)
                kl[t, part] = gaussian_kl(small[t], log_variance.exp(), weight[t] * gap).flatten(1).mean(1)
            if advance is not None:
                advance(number * T + T - t, math.ceil(B / batch) * T)
        estimates.append(estimate)
        if v.shape[1]:
            log_variances.append(log_variance)
    return errors, kl, _Last(torch.cat(estimates), torch.cat(log_variances) if log_variances else None)


def _variances(schedule: Schedule) -> tuple[Tensor, Tensor, Tensor]:
    """[T] each: fixed_small, fixed_large, and the square of x_0's weight in the posterior mean."""
    signal, noise = (torch.tensor(s, dtype=torch.float64) for s in (schedule.signal_scale, schedule.noise_scale))
    levels = signal, noise, torch.cat([torch.ones(1), signal[:-1]]), torch.cat([torch.zeros(1), noise[:-1]])
    coef1, _, small = posterior_coefficients(*levels)
    _, large = transition(*levels)
    small[0] = small[1] if len(schedule) > 1 else large[0]
    return small, large, coef1.square()


def _prior(schedule: Schedule, x_0: Tensor) -> Tensor:
    """[B] KL(N(signal x_0, noise^2) || N(0, s^2)) at the last level: s = 1, or s = noise on schedules of kind "ve"."""
    signal, noise = (torch.tensor(s[-1], dtype=torch.float64) for s in (schedule.signal_scale, schedule.noise_scale))
    scale = noise if schedule.kind == "ve" else torch.ones_like(noise)
    squared_gap = (signal * x_0.to(torch.float64)).square().flatten(1).mean(1)
    return gaussian_kl(noise**2, scale**2, squared_gap) / LN_2


def _decoder_bits(x_0: Tensor, mean: Tensor, log_variance: Tensor, decoder: Decoder) -> Tensor:
    """[B] L_0 in bits a dimension."""
    likelihood = discretised_log_likelihood if decoder == "discretised" else gaussian_log_likelihood
    return -likelihood(x_0.to(torch.float64), mean, log_variance).flatten(1).mean(1) / LN_2


def _bound(name: str, of_decoder: str, prior: Tensor, steps: Tensor, first: Tensor) -> Bound:
    """From what each image contributes: prior [B], steps [T - 1, B], first [B]."""
    totals = prior + steps.sum(0) + first
    spread = float(totals.std()) / math.sqrt(len(totals)) if len(totals) > 1 else math.nan
    return Bound(name, of_decoder, float(prior.mean()), read_only(steps.mean(1).numpy()), float(first.mean()), spread)


def headline(bounds: Sequence[Bound]) -> Bound:
    """The bound to quote, by one protocol for every model: with the variance it learned, or else fixed_large.

    That is what Ho et al. and guided-diffusion quote, and it is chosen before the numbers are seen: the lower of two
    would be no bound of one model.
    """
    named: Mapping[str, Bound] = {bound.variance: bound for bound in bounds}
    return named.get(LEARNED, named["fixed_large"])
