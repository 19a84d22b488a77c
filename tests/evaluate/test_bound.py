"""The variational bound, against entropies known in closed form and term by term."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from fewstep import schedules
from fewstep.diffusion.likelihood import HALF_BIN, discretised_log_likelihood, gaussian_kl
from fewstep.diffusion.schedules import Schedule
from fewstep.errors import ArgumentError
from fewstep.evaluate.bound import Bound, Predict, headline, variational_bound

COARSE = schedules.linear(200, 5e-4, 0.1)


@dataclass(frozen=True)
class Normal:
    """x_0 ~ N(mean, spread^2) in every dimension."""

    mean: float
    spread: float

    @property
    def entropy(self) -> float:
        """log2(2 pi e spread^2) / 2 bits."""
        return 0.5 * math.log2(2 * math.pi * math.e * self.spread**2)

    def sample(self, count: int = 8, size: int = 64) -> Tensor:
        """[count, 1, size, size], of exactly this mean and spread."""
        z = torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return self.mean + self.spread * (z - z.mean()) / z.std(correction=0)

    def predictor(self, schedule: Schedule, prediction: str) -> Predict:
        """The exact denoiser: E[x_0 | x_t] = mean + signal spread^2 (x_t - signal mean) / (marginal variance)."""
        levels = dict(zip(schedule.t.tolist(), range(len(schedule)), strict=True))

        def predict(x_t: Tensor, t: Tensor, which: slice) -> Tensor:
            i = levels[float(t[0])]
            signal, noise = (torch.tensor(s[i]) for s in (schedule.signal_scale, schedule.noise_scale))
            marginal = signal**2 * self.spread**2 + noise**2
            x_0 = self.mean + signal * self.spread**2 / marginal * (x_t - signal * self.mean)
            if prediction == "x_0":
                return x_0
            eps = (x_t - signal * x_0) / noise
            return {"eps": eps, "v": signal * eps - noise * x_0, "flow": eps - x_0}[prediction]

        return predict


def bounds_of(data: Normal, schedule: Schedule, prediction: str = "eps", **options: object) -> dict[str, Bound]:
    found = variational_bound(
        data.predictor(schedule, prediction),
        data.sample(),
        schedule,
        prediction,
        clip=None,
        decoder="continuous",
        **options,  # type: ignore[arg-type]
    )
    return {bound.variance: bound for bound in found}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "prediction"),
    [(COARSE, "eps"), (schedules.cosine(200), "v"), (schedules.linear(1000), "x_0"), (schedules.flow(200), "flow")],
    ids=["linear, eps", "cosine, v", "a thousand steps, x_0", "flow"],
)
def test_the_bound_on_unit_gaussian_data_is_its_entropy(schedule: Schedule, prediction: str) -> None:
    """With x_0 ~ N(0, 1) each reverse step is Gaussian, of the variance that "optimal" finds; on vp it is beta_t, for
    the decoder too."""
    data = Normal(0.0, 1.0)
    found = bounds_of(data, schedule, prediction, large_decoder="beta")
    assert found["optimal"].total == pytest.approx(data.entropy, rel=0.005)
    if schedule.kind == "vp":
        assert found["fixed_large"].total == pytest.approx(data.entropy, rel=0.005)
    assert found["fixed_small"].total > 1.2 * data.entropy


def test_the_bound_with_the_optimal_variance_is_the_entropy_of_any_gaussian() -> None:
    data = Normal(0.3, 0.5)
    found = bounds_of(data, COARSE)
    assert found["optimal"].total == pytest.approx(data.entropy, rel=0.005)
    assert found["optimal"].total < min(found["fixed_small"].total, found["fixed_large"].total)


@pytest.mark.slow
def test_a_worse_model_has_a_higher_bound() -> None:
    data = Normal(0.0, 1.0)
    exact = data.predictor(COARSE, "eps")
    worse = variational_bound(
        lambda x, t, which: 0.9 * exact(x, t, which), data.sample(), COARSE, clip=None, decoder="continuous"
    )
    best = bounds_of(data, COARSE)
    for bound in worse:
        assert bound.total > best[bound.variance].total + 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    "schedule",
    [schedules.linear(1000), schedules.cosine(1000), schedules.linear(1000).rescale_zero_terminal_snr()],
    ids=["linear", "cosine", "zero terminal SNR"],
)
def test_what_is_left_of_x_0_at_the_start_is_small_and_is_the_closed_form(schedule: Schedule) -> None:
    data = Normal(0.1, 0.8)
    bound = bounds_of(data, schedule, "x_0")["fixed_large"]
    alphas_cumprod = schedule.alphas_cumprod[-1]
    expected = -0.5 * (math.log1p(-alphas_cumprod) + alphas_cumprod) + 0.5 * alphas_cumprod * (0.8**2 + 0.1**2)
    assert bound.prior == pytest.approx(expected / math.log(2), rel=1e-6, abs=1e-15)
    assert bound.prior < 1e-3


def test_the_terms_add_up() -> None:
    for bound in bounds_of(Normal(0.0, 1.0), COARSE).values():
        terms = bound.to_dict()["terms"]
        assert isinstance(terms, list)
        assert len(terms) == len(COARSE) + 1
        assert math.fsum(terms) == pytest.approx(bound.total, rel=1e-12)
        assert (bound.steps >= 0).all()


def learned(data: Normal, share: float) -> Predict:
    """The exact denoiser, and a variance at `share` between log fixed_small (-1) and log fixed_large (1)."""
    exact = data.predictor(COARSE, "eps")

    def predict(x_t: Tensor, t: Tensor, which: slice) -> Tensor:
        m = exact(x_t, t, which)
        return torch.cat([m, torch.full_like(m, share)], dim=1)

    return predict


@pytest.mark.slow
@pytest.mark.parametrize(("share", "same"), [(-1.0, "fixed_small"), (1.0, "fixed_large")])
def test_a_learned_variance_at_an_end_of_its_range_is_the_fixed_one(share: float, same: str) -> None:
    data = Normal(0.0, 1.0)
    for decoder in ("continuous", "discretised"):
        found = {
            bound.variance: bound
            for bound in variational_bound(
                learned(data, share),
                data.sample(4),
                COARSE,
                clip=None,
                decoder=decoder,  # type: ignore[arg-type]
                large_decoder="beta",
            )
        }
        assert found["learned_range"].total == pytest.approx(found[same].total, rel=1e-10)
        assert headline(list(found.values())).variance == "learned_range"


@pytest.mark.parametrize(
    ("data", "small_is_lower"),
    [(Normal(0.0, 1.0), False), (Normal(0.3, 0.005), True)],
    ids=["fixed_large is lower", "fixed_small is lower"],
)
def test_the_headline_of_a_fixed_variance_is_fixed_large_whichever_is_lower(data: Normal, small_is_lower: bool) -> None:
    found = bounds_of(data, COARSE)
    assert (found["fixed_small"].total < found["fixed_large"].total) == small_is_lower
    assert headline(list(found.values())) is found["fixed_large"]


def bits_by_erf(value: float, mean: float, variance: float) -> float:
    """-log2 of the mass of N(mean, variance) within half a grey value of an inner value, by math.erf alone."""

    def below(x: float) -> float:
        return (1 + math.erf((x - mean) / math.sqrt(2 * variance))) / 2

    return -math.log2(below(value + 1 / 255) - below(value - 1 / 255))


@pytest.mark.parametrize(
    ("large_decoder", "said"),
    [("posterior", "the posterior's at t = 1"), ("beta", "beta at t = 0")],
    ids=["as Ho et al. quote it", "as its other steps have it"],
)
def test_the_decoder_of_fixed_large_is_that_of_ho_et_al_unless_asked(large_decoder: str, said: str) -> None:
    """Their code: log(append(posterior_variance[1], betas[1:])), posterior_variance = beta (1 - ab_prev) / (1 - ab)."""
    betas = np.linspace(1e-3, 0.05, 20)
    ab = np.cumprod(1 - betas)
    posterior_1 = betas[1] * (1 - ab[0]) / (1 - ab[1])
    grey = (torch.arange(40, 72) * 2 / 255 - 1).view(1, 1, 4, 8).double()
    found = {
        bound.variance: bound
        for bound in variational_bound(
            lambda x, t, which: torch.full_like(x, -0.55),
            grey,
            schedules.linear(20, 1e-3, 0.05),
            "x_0",
            large_decoder=large_decoder,  # type: ignore[arg-type]
        )
    }
    large = found["fixed_large"]
    variance = {"posterior": posterior_1, "beta": betas[0]}[large_decoder]
    expected = [bits_by_erf(value, -0.55, variance) for value in grey.flatten().tolist()]
    assert large.decoder == pytest.approx(math.fsum(expected) / len(expected), rel=1e-9)
    assert (large.decoder_variance, large.to_dict()["decoder_variance"]) == (said, said)
    assert found["fixed_small"].decoder == pytest.approx(
        sum(bits_by_erf(value, -0.55, posterior_1) for value in grey.flatten().tolist()) / 32, rel=1e-9
    )
    gap = float(((grey + 0.55) ** 2).mean())
    for t in (1, 7, 19):  # the steps have beta_t either way
        true, coef = betas[t] * (1 - ab[t - 1]) / (1 - ab[t]), betas[t] * math.sqrt(ab[t - 1]) / (1 - ab[t])
        nats = (math.log(betas[t] / true) + true / betas[t] - 1 + coef**2 * gap / betas[t]) / 2
        assert large.steps[t - 1] == pytest.approx(nats / math.log(2), rel=1e-9)


def test_a_decoder_that_is_none_is_refused() -> None:
    with pytest.raises(ArgumentError, match="large_decoder: got 'theirs'; allowed: posterior or beta"):
        bounds_of(Normal(0.0, 1.0), COARSE, large_decoder="theirs")


@pytest.mark.slow
def test_the_noise_belongs_to_the_image_and_the_seed() -> None:
    data = Normal(0.0, 1.0)
    whole, in_parts = (bounds_of(data, COARSE, batch=batch)["fixed_large"] for batch in (8, 3))
    assert whole.total == pytest.approx(in_parts.total, rel=1e-12)
    assert bounds_of(data, COARSE, seed=1)["fixed_large"].total != whole.total


@pytest.mark.slow
def test_every_model_call_is_counted() -> None:
    calls: list[tuple[int, int]] = []
    data = Normal(0.0, 1.0)
    variational_bound(
        data.predictor(COARSE, "eps"),
        data.sample(5),
        COARSE,
        batch=2,
        advance=lambda done, all: calls.append((done, all)),
    )
    assert calls == [(done, 600) for done in range(1, 601)]


@pytest.mark.parametrize(("mean", "spread"), [(0.2, 0.05), (-0.9, 0.3), (0.0, 0.004)], ids=["middle", "edge", "narrow"])
def test_the_discretised_decoder_is_a_distribution_over_256_values(mean: float, spread: float) -> None:
    values = torch.linspace(-1, 1, 256, dtype=torch.float64)
    log_variance = torch.tensor(2 * math.log(spread), dtype=torch.float64)
    mass = discretised_log_likelihood(values, torch.tensor(mean, dtype=torch.float64), log_variance).exp()
    assert float(mass.sum()) == pytest.approx(1.0, rel=1e-12)
    cdf = torch.distributions.Normal(torch.tensor(mean, dtype=torch.float64), log_variance.exp().sqrt()).cdf
    inner = values[100]
    assert float(mass[100]) == pytest.approx(float(cdf(inner + HALF_BIN) - cdf(inner - HALF_BIN)), abs=1e-12)
    assert float(mass[0]) == pytest.approx(float(cdf(values[0] + HALF_BIN)), rel=1e-9, abs=1e-12)


def test_the_discretised_decoder_far_out_is_finite_and_symmetric() -> None:
    log_variance = torch.tensor(2 * math.log(0.005), dtype=torch.float64)
    mean = torch.tensor([-0.5, 0.5], dtype=torch.float64)
    found = discretised_log_likelihood(-mean, mean, log_variance)
    assert torch.isfinite(found).all()
    assert float(found[0]) == pytest.approx(float(found[1]), rel=1e-12)
    assert float(found[0]) == pytest.approx(-((1 - HALF_BIN) ** 2) / (2 * 0.005**2), rel=1e-3)  # the nearer edge rules


@pytest.mark.slow
def test_a_fine_discretisation_is_the_density_times_the_bin() -> None:
    """Data on a grid of 256 values spread over many: bits are those of the density, plus log2(127.5)."""
    data = Normal(0.0, 0.25)
    x_0 = (data.sample(8).clamp(-1, 1) * 127.5 + 127.5).round() / 127.5 - 1
    schedule = schedules.linear(200, 5e-3, 0.1)  # the decoder's spread is 9 grey values
    fine, dense = (
        variational_bound(data.predictor(schedule, "eps"), x_0, schedule, clip=None, decoder=decoder)  # type: ignore[arg-type]
        for decoder in ("discretised", "continuous")
    )
    for discretised, continuous in zip(fine, dense, strict=True):
        assert discretised.total == pytest.approx(continuous.total + math.log2(127.5), rel=0.002)
    entropy = {bound.variance: bound for bound in fine}["optimal"].total
    assert entropy == pytest.approx(data.entropy + math.log2(127.5), rel=0.01)


def test_the_divergence_of_two_gaussians_is_torchs() -> None:
    q, p = torch.distributions.Normal(0.3, 0.5), torch.distributions.Normal(-0.2, 0.8)
    ours = gaussian_kl(torch.tensor(0.25), torch.tensor(0.64), torch.tensor(0.5**2))
    assert float(ours) == pytest.approx(float(torch.distributions.kl_divergence(q, p)), rel=1e-6)


def test_eps_prediction_without_a_signal_is_refused() -> None:
    schedule = schedules.linear(10).rescale_zero_terminal_snr()
    data = Normal(0.0, 1.0)
    with pytest.raises(ArgumentError, match="zero terminal SNR"):
        variational_bound(data.predictor(schedule, "eps"), data.sample(2), schedule)
    with pytest.raises(ArgumentError, match="decoder"):
        variational_bound(data.predictor(COARSE, "eps"), data.sample(2), COARSE, decoder="fine")  # type: ignore[arg-type]


def test_steps_are_read_only() -> None:
    steps = next(iter(bounds_of(Normal(0.0, 1.0), COARSE).values())).steps
    assert isinstance(steps, np.ndarray)
    assert not steps.flags.writeable
