"""The losses of training against their formulas, written another way."""

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from fewstep import schedules
from fewstep.diffusion import forward
from fewstep.diffusion.likelihood import discretised_log_likelihood
from fewstep.errors import ArgumentError
from fewstep.train.ema import Ema
from fewstep.train.losses import Batch, Levels, Objective, loss_weights, target, vlb_terms

SCHEDULE = schedules.cosine(20)


def draws(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def grey(seed: int, *shape: int) -> Tensor:
    """Some of 256 grey values in [-1, 1], black and white among them."""
    levels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed))
    levels.view(-1)[:2] = torch.tensor([0, 255])
    return levels.double() / 127.5 - 1


class Answers(nn.Module):
    """Answers what it was told to, and keeps what it was asked."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = nn.Parameter(answer)

    def forward(self, x: Tensor, t: Tensor, **conditioning: Tensor) -> Tensor:
        self.asked = x, t, conditioning
        return self.answer


def batch_at(t: Tensor, x_0: Tensor, noise: Tensor, **conditioning: Tensor) -> Batch:
    return Batch(x_0.float(), noise.float(), (t.double() + 0.5) / len(SCHEDULE), torch.zeros(len(t)), conditioning)


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
def test_an_answer_on_target_recovers_x_0_and_costs_nothing(prediction: str) -> None:
    t = torch.arange(20)
    x_0, z = grey(0, 20, 1, 4, 4), draws(1, 20, 1, 4, 4)
    signal, noise = (torch.tensor(scale) for scale in (SCHEDULE.signal_scale, SCHEDULE.noise_scale))
    m = target(prediction, x_0, z, signal, noise)
    x_t = forward.add_noise(SCHEDULE, x_0, t, z)
    recovered = forward.recover_x_0(SCHEDULE, x_t, m, t, prediction)
    assert torch.allclose(recovered, x_0, atol=1e-9)
    parts = Objective(SCHEDULE, prediction, 5.0)(Answers(m.float()), batch_at(t, x_0, z))
    assert parts["loss"].item() < 1e-12


def test_v_is_alpha_eps_minus_sigma_x_0() -> None:
    t = torch.arange(20)
    x_0, z = grey(0, 20, 1, 4, 4), draws(1, 20, 1, 4, 4)
    alpha = torch.tensor(SCHEDULE.alphas_cumprod).sqrt()
    sigma = (1 - alpha**2).sqrt()
    expected = torch.stack([alpha[i] * z[i] - sigma[i] * x_0[i] for i in range(20)])
    assert torch.allclose(target("v", x_0, z, alpha, sigma), expected)
    assert torch.allclose(target("v", x_0, z, alpha, sigma), forward.v_target(SCHEDULE, x_0, z, t))


def test_the_flow_target_points_from_image_to_noise() -> None:
    x_0, z = grey(0, 2, 1, 4, 4), draws(1, 2, 1, 4, 4)
    level = torch.tensor([0.25, 0.75], dtype=torch.float64)
    assert torch.equal(target("flow", x_0, z, 1 - level, level), z - x_0)


def test_the_module_is_asked_at_x_t_with_its_time_and_conditioning() -> None:
    t, x_0, z = torch.tensor([0, 7, 19]), grey(0, 3, 1, 4, 4), draws(1, 3, 1, 4, 4)
    module = Answers(torch.zeros(3, 1, 4, 4))
    Objective(SCHEDULE, "v")(module, batch_at(t, x_0, z, labels=torch.tensor([1, 2, 3]), w=torch.tensor([1.0, 2, 3])))
    x_t, told, conditioning = module.asked
    assert torch.allclose(x_t.double(), forward.add_noise(SCHEDULE, x_0, t, z), atol=1e-6)
    assert torch.equal(told, t.float())
    assert conditioning["labels"].tolist() == [1, 2, 3]
    assert conditioning["w"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("prediction", "formula"),
    [
        ("x_0", lambda snr, gamma: min(snr, gamma)),
        ("eps", lambda snr, gamma: min(snr, gamma) / snr),
        ("v", lambda snr, gamma: min(snr, gamma) / (snr + 1)),
    ],
    ids=["x_0", "eps", "v"],
)
def test_min_snr_weights_are_the_papers(prediction: str, formula: Any) -> None:
    expected = [formula(snr, 5.0) for snr in SCHEDULE.snr]
    np.testing.assert_allclose(loss_weights(SCHEDULE, prediction, 5.0), expected, rtol=1e-9)
    assert loss_weights(SCHEDULE, prediction, 0.0).tolist() == [1.0] * 20


def test_every_prediction_weighs_the_same_error_of_x_0_alike() -> None:
    x_0, z, wrong = grey(0, 20, 1, 4, 4), draws(1, 20, 1, 4, 4), draws(2, 20, 1, 4, 4)
    t = torch.arange(20)
    losses = []
    for prediction in ("x_0", "eps", "v"):
        # The answers that all mean the estimate x_0 + wrong.
        signal, noise = (torch.tensor(scale) for scale in (SCHEDULE.signal_scale, SCHEDULE.noise_scale))
        eps = z - (signal / noise)[:, None, None, None] * wrong
        answer = target(prediction, x_0 + wrong, eps, signal, noise)
        losses.append(Objective(SCHEDULE, prediction, 5.0)(Answers(answer.float()), batch_at(t, x_0, z))["loss"].item())
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)


def test_the_bound_is_the_divergence_of_two_gaussians_and_the_decoders_mass() -> None:
    t = torch.arange(20)
    x_0, z, v = grey(0, 20, 1, 4, 4), draws(1, 20, 1, 4, 4), draws(3, 20, 1, 4, 4)
    estimate = x_0 + 0.05 * draws(2, 20, 1, 4, 4)
    x_t = forward.add_noise(SCHEDULE, x_0, t, z)
    q, p = forward.posterior(SCHEDULE, x_0, x_t, t), forward.posterior(SCHEDULE, estimate, x_t, t)
    share = (v + 1) / 2
    log_beta = torch.tensor(np.log(SCHEDULE.betas))[:, None, None, None]
    std = (share * log_beta + (1 - share) * q.log_variance[:, None, None, None]).exp().sqrt()
    divergence = kl_divergence(Normal(q.mean[1:], q.variance[1:, None, None, None].sqrt()), Normal(p.mean[1:], std[1:]))
    decoder = Normal(estimate[0], std[0])
    half = 1 / 255
    upper = torch.where(x_0[0] == 1, 1.0, decoder.cdf(x_0[0] + half))
    lower = torch.where(x_0[0] == -1, 0.0, decoder.cdf(x_0[0] - half))
    expected = torch.cat([-(upper - lower).log().mean()[None], divergence.flatten(1).mean(1)]) / math.log(2)
    levels = Objective(SCHEDULE, "eps").levels((t + 0.5).double() / 20, torch.device("cpu"))
    found = vlb_terms(x_0, estimate, v, Levels(*(getattr(levels, each.name).double() for each in fields(levels))))
    assert torch.allclose(found, expected, rtol=2e-5)


def test_the_masses_of_all_grey_values_add_up_to_one() -> None:
    values = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for mean, log_variance in ((0.3, -4.0), (1.2, -9.0), (-0.9, 1.0), (0.5, -13.0)):
        place, spread = torch.full((256,), mean).double(), torch.full((256,), log_variance).double()
        total = discretised_log_likelihood(values, place, spread).exp().sum()
        assert float(total) == pytest.approx(1, abs=1e-7)


def test_a_grey_value_far_from_the_mean_has_a_finite_mass_and_gradient() -> None:
    spread = torch.full((3,), -12.0, requires_grad=True)
    found = discretised_log_likelihood(torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([1.0, -1.0, -1.0]), spread)
    found.sum().backward()
    assert found.isfinite().all()
    assert spread.grad is not None
    assert spread.grad.isfinite().all()


def test_the_bound_does_not_move_the_mean_and_alone_moves_the_variance() -> None:
    t, x_0, z = torch.tensor([0, 3, 19]), grey(0, 3, 1, 4, 4), draws(1, 3, 1, 4, 4)
    answer = draws(2, 3, 2, 4, 4).float()
    gradients = {}
    for weight in (0.0, 1e-3, 1.0):
        module = Answers(answer)
        parts = Objective(SCHEDULE, "v", 5.0, learned_range=True, vlb_weight=weight)(module, batch_at(t, x_0, z))
        assert parts["loss"].item() == pytest.approx(parts["simple"].item() + weight * parts["vlb"].item())
        parts["loss"].backward()
        assert module.answer.grad is not None
        gradients[weight] = module.answer.grad
    assert torch.equal(gradients[1.0][:, :1], gradients[0.0][:, :1])
    assert gradients[0.0][:, :1].abs().min() > 0
    assert gradients[0.0][:, 1:].abs().max() == 0
    assert gradients[1e-3][:, 1:].abs().min() > 0


def test_the_hybrid_loss_sums_the_bound_over_all_timesteps() -> None:
    x_0, z = grey(0, 20, 1, 4, 4), draws(1, 20, 1, 4, 4)
    objective = Objective(SCHEDULE, "x_0", learned_range=True)
    answer = torch.cat([x_0 + 0.1, draws(2, 20, 1, 4, 4)], 1).float()
    parts = objective(Answers(answer), batch_at(torch.arange(20), x_0, z))
    levels = objective.levels((torch.arange(20) + 0.5).double() / 20, torch.device("cpu"))
    terms = vlb_terms(x_0.float(), answer[:, :1], answer[:, 1:], levels)
    assert parts["vlb"].item() == pytest.approx(float(terms.sum()), rel=1e-5)


def test_an_unknown_prediction_is_named() -> None:
    with pytest.raises(ArgumentError, match="prediction: got 'noise'"):
        Objective(SCHEDULE, "noise")


def test_the_average_follows_its_formula() -> None:
    module = nn.Linear(1, 1, bias=False)
    module.register_buffer("seen", torch.zeros(1))
    ema = Ema(module, decay=0.8)
    expected = module.weight.item()
    for k in range(1, 60):
        with torch.no_grad():
            module.weight.fill_(math.sin(k))
            module.get_buffer("seen").fill_(k)
        ema.update(module, k)
        decay = min(0.8, (1 + k) / (10 + k))
        expected = decay * expected + (1 - decay) * math.sin(k)
    assert float(ema.module.weight) == pytest.approx(expected, abs=1e-6)
    assert float(ema.module.get_buffer("seen")) == 59
    assert not ema.module.weight.requires_grad
    assert not ema.module.training
