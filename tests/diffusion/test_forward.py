"""The forward process: closed form, one step, recovery and posterior, on batches."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fewstep import schedules
from fewstep.diffusion import forward
from fewstep.diffusion.schedules import Schedule
from fewstep.errors import ArgumentError

SCHEDULES: dict[str, Schedule] = {
    "linear": schedules.linear(),
    "cosine": schedules.cosine(),
    "zero terminal SNR": schedules.scaled_linear().rescale_zero_terminal_snr(),
    "flow": schedules.flow(),
    "karras": schedules.karras(),
}
BATCH = 6


def draw(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """x_0 and z."""
    generator = torch.Generator().manual_seed(seed)
    x_0, z = (torch.randn(BATCH, 2, 3, 5, generator=generator, dtype=dtype) for _ in range(2))
    return x_0, z


def times(schedule: Schedule, with_signal: bool = False) -> Tensor:
    """Both ends and what lies between."""
    last = len(schedule) - 1 - (with_signal and bool(schedule.signal_scale[-1] == 0))
    return torch.tensor([0, 1, last // 3, last // 2, last - 1, last])


def targets(schedule: Schedule, x_0: Tensor, z: Tensor, t: Tensor) -> dict[str, Tensor]:
    """What a perfect model predicts."""
    signal, noise = (torch.tensor(s)[t].reshape(-1, 1, 1, 1) for s in (schedule.signal_scale, schedule.noise_scale))
    return {"eps": z, "x_0": x_0, "v": signal * z - noise * x_0, "flow": z - x_0, "score": -z / noise}


@pytest.mark.parametrize("name", SCHEDULES)
def test_add_noise_is_the_closed_form(name: str) -> None:
    schedule, (x_0, z) = SCHEDULES[name], draw()
    t = times(schedule)
    x_t = forward.add_noise(schedule, x_0, t, z)
    for i, index in enumerate(t.tolist()):
        expected = float(schedule.signal_scale[index]) * x_0[i] + float(schedule.noise_scale[index]) * z[i]
        assert float((x_t[i] - expected).abs().max()) < 1e-12


@pytest.mark.parametrize("name", SCHEDULES)
def test_one_step_after_another_is_the_closed_form(name: str) -> None:
    """Mean and variance of x_t after t + 1 steps from x_0, carried along exactly."""
    schedule = SCHEDULES[name]
    one, none = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    signal, variance = one, none
    for index in range(len(schedule)):
        t = torch.tensor([index])
        ratio = forward.q_step(schedule, one, t, none)
        variance = ratio**2 * variance + forward.q_step(schedule, none, t, one) ** 2
        signal = ratio * signal
        assert float(signal) == pytest.approx(float(schedule.signal_scale[index]), abs=1e-11)
        assert float(variance) == pytest.approx(float(schedule.noise_scale[index]) ** 2, rel=1e-9)


def test_beta_of_a_step_is_the_schedules_own() -> None:
    schedule = schedules.linear()
    none, one = torch.zeros(1000, 1, dtype=torch.float64), torch.ones(1000, 1, dtype=torch.float64)
    noise = forward.q_step(schedule, none, torch.arange(1000), one)[:, 0]
    assert (noise**2).numpy() == pytest.approx(schedule.betas, rel=1e-8)


@pytest.mark.parametrize("prediction", forward.PREDICTIONS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_x_0_and_eps_are_recovered_from_every_prediction(name: str, prediction: str) -> None:
    schedule, (x_0, z) = SCHEDULES[name], draw()
    t = times(schedule, with_signal=prediction in ("eps", "score"))
    x_t = forward.add_noise(schedule, x_0, t, z)
    m = targets(schedule, x_0, z, t)[prediction]
    assert float((forward.recover_x_0(schedule, x_t, m, t, prediction) - x_0).abs().max()) < 1e-8
    assert float((forward.recover_eps(schedule, x_t, m, t, prediction) - z).abs().max()) < 1e-8


def test_v_target_is_what_v_prediction_recovers_from() -> None:
    schedule, (x_0, z) = SCHEDULES["zero terminal SNR"], draw()
    t = times(schedule)
    v = forward.v_target(schedule, x_0, z, t)
    assert torch.equal(v, targets(schedule, x_0, z, t)["v"])
    assert torch.equal(v[-1], -x_0[-1])  # no signal is left: v is all x_0


@pytest.mark.parametrize("prediction", ["eps", "score"])
def test_eps_and_score_at_zero_terminal_snr_raise(prediction: str) -> None:
    schedule, (x_0, z) = SCHEDULES["zero terminal SNR"], draw()
    with pytest.raises(ArgumentError, match=f"prediction: got '{prediction}'; allowed: x_0, v or flow"):
        forward.recover_x_0(schedule, x_0, z, times(schedule), prediction)


@pytest.mark.parametrize("name", SCHEDULES)
def test_posterior_is_bayes_rule(name: str) -> None:
    """Against the product of q(x_t | x_prev) and q(x_prev | x_0), completed to a square."""
    schedule, (x_0, x_t) = SCHEDULES[name], draw()
    t = times(schedule, with_signal=True)
    got = forward.posterior(schedule, x_0, x_t, t)
    for i, index in enumerate(t.tolist()):
        if index == 0:
            assert torch.allclose(got.mean[i], x_0[i], atol=1e-12)
            assert float(got.variance[i]) == 0
            assert float(got.log_variance[i]) == pytest.approx(math.log(float(got.variance[1])))
            continue
        ratio = float(schedule.signal_scale[index] / schedule.signal_scale[index - 1])
        beta = float(schedule.noise_scale[index] ** 2 - ratio**2 * schedule.noise_scale[index - 1] ** 2)
        prior = float(schedule.noise_scale[index - 1] ** 2)
        precision = ratio**2 / beta + 1 / prior
        mean = (ratio / beta * x_t[i] + float(schedule.signal_scale[index - 1]) / prior * x_0[i]) / precision
        assert float((got.mean[i] - mean).abs().max()) < 1e-9
        assert float(got.variance[i]) == pytest.approx(1 / precision, rel=1e-7)
        assert float(got.log_variance[i]) == pytest.approx(-math.log(precision), abs=1e-7)


def test_posterior_coefficients_are_those_of_ho_et_al() -> None:
    """coef1 = sqrt(ab_prev) beta / (1 - ab), coef2 = (1 - ab_prev) sqrt(alpha) / (1 - ab)."""
    schedule = schedules.linear()
    levels = (
        schedule.signal_scale[1:],
        schedule.noise_scale[1:],
        schedule.signal_scale[:-1],
        schedule.noise_scale[:-1],
    )
    coef1, coef2, variance = forward.posterior_coefficients(*levels)
    ab, ab_prev, beta = schedule.alphas_cumprod[1:], schedule.alphas_cumprod[:-1], schedule.betas[1:]
    assert coef1 == pytest.approx(ab_prev**0.5 * beta / (1 - ab), rel=1e-8)
    assert coef2 == pytest.approx((1 - ab_prev) * (1 - beta) ** 0.5 / (1 - ab), rel=1e-8)
    assert variance == pytest.approx(beta * (1 - ab_prev) / (1 - ab), rel=1e-8)


@given(st.floats(0, 1), st.floats(0.01, 1), st.floats(0.01, 1), st.floats(0, 1))
def test_posterior_keeps_the_marginal(a: float, n: float, a_prev: float, cleaner: float) -> None:
    """x_t = signal x_0 + noise z goes to signal_prev x_0 with variance noise_prev^2, whatever the two levels."""
    n_prev = n / max(a, 1e-3) * a_prev * cleaner  # any level with a larger signal-to-noise ratio
    signal, noise, signal_prev, noise_prev = (torch.tensor([s], dtype=torch.float64) for s in (a, n, a_prev, n_prev))
    coef1, coef2, variance = forward.posterior_coefficients(signal, noise, signal_prev, noise_prev)
    assert float(coef1 + coef2 * signal) == pytest.approx(a_prev, rel=1e-9, abs=1e-12)
    assert float(variance + coef2**2 * noise**2) == pytest.approx(n_prev**2, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_the_dtype_of_x_is_kept(dtype: torch.dtype) -> None:
    schedule, (x_0, z) = schedules.linear(), draw(dtype=torch.float64)
    t = times(schedule)
    x, m = x_0.to(dtype), z.to(dtype)
    outputs = (
        forward.add_noise(schedule, x, t, m),
        forward.q_step(schedule, x, t, m),
        forward.recover_x_0(schedule, x, m, t, "v"),
        forward.recover_eps(schedule, x, m, t, "v"),
        forward.v_target(schedule, x, m, t),
        forward.posterior(schedule, x, m, t).mean,
    )
    assert [y.dtype for y in outputs] == [dtype] * len(outputs)


@pytest.mark.parametrize(
    ("t", "said"),
    [
        (torch.tensor([0, 1, 2, 3, 4, 1000]), "integers from 0 to 999"),
        (torch.tensor([0, 1, 2, 3, 4, -1]), "integers from 0 to 999"),
        (torch.zeros(5, dtype=torch.int64), "int64 of shape [6]"),
        (torch.zeros(6), "int64 of shape [6]"),
    ],
    ids=["past the end", "negative", "too few", "floats"],
)
def test_a_wrong_t_is_named(t: Tensor, said: str) -> None:
    x_0, z = draw()
    with pytest.raises(ArgumentError) as error:
        forward.add_noise(schedules.linear(), x_0, t, z)
    assert said in str(error.value)


def test_an_unknown_prediction_lists_the_known_ones() -> None:
    x_0, z = draw()
    for recover in (forward.recover_x_0, forward.recover_eps):
        with pytest.raises(ArgumentError, match="prediction: got 'epsilon'; allowed: eps, x_0, v, flow, score"):
            recover(schedules.linear(), x_0, z, times(schedules.linear()), "epsilon")
