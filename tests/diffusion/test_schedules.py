"""Noise schedules: known values, their properties, and their JSON."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewstep import schedules
from fewstep.diffusion.schedules import Schedule, exponential_sigmas, karras_sigmas, time_of_sigma
from fewstep.errors import ArgumentError

VP: dict[str, Schedule] = {
    "linear": schedules.linear(),
    "linear, one timestep": schedules.linear(1),
    "scaled linear": schedules.scaled_linear(),
    "cosine": schedules.cosine(),
    "cosine, 4000": schedules.cosine(4000),
    "sigmoid": schedules.sigmoid(),
    "custom betas": schedules.from_betas([0.1, 0.05, 0.5, 1.0]),
    "alphas_cumprod": schedules.from_alphas_cumprod([0.99, 0.3, 0.0]),
    "zero terminal SNR": schedules.scaled_linear().rescale_zero_terminal_snr(),
}
OTHERS: dict[str, Schedule] = {
    "flow": schedules.flow(),
    "flow, shifted": schedules.flow(100, 3.0),
    "karras": schedules.karras(),
    "karras, told edm": schedules.karras(18, 0.01, 50.0, 5.0, "edm"),
    "exponential": schedules.exponential(),
}
ALL = VP | OTHERS


@pytest.mark.parametrize("name", ALL)
def test_noise_grows_and_the_kinds_keep_their_sum(name: str) -> None:
    schedule = ALL[name]
    total = {
        "vp": schedule.signal_scale**2 + schedule.noise_scale**2,
        "flow": schedule.signal_scale + schedule.noise_scale,
        "ve": schedule.signal_scale,
    }
    assert total[schedule.kind] == pytest.approx(np.ones(len(schedule)), abs=1e-15)
    assert (np.diff(schedule.snr) < 0).all()
    assert (np.diff(schedule.log_snr) < 0).all()
    assert (np.diff(schedule.sigmas) > 0).all()
    assert (np.diff(schedule.t) > 0).all()
    assert schedule.log_snr == pytest.approx(-2 * np.log(schedule.sigmas), abs=1e-12)
    assert schedule.num_timesteps == len(schedule) == len(schedule.t)


@pytest.mark.parametrize("name", VP)
def test_betas_and_alphas_cumprod_are_each_others(name: str) -> None:
    schedule = VP[name]
    assert np.cumprod(1 - schedule.betas) == pytest.approx(schedule.alphas_cumprod, abs=1e-13)
    assert schedule.snr == pytest.approx(schedule.alphas_cumprod / (1 - schedule.alphas_cumprod), rel=1e-9)


def test_linear_is_that_of_ho_et_al() -> None:
    """1e-4 to 0.02 over 1000: almost no signal is left, 0.0063 x_0."""
    schedule = schedules.linear()
    assert schedule.betas[[0, 999]] == pytest.approx([1e-4, 0.02], rel=1e-9)
    assert schedule.betas[500] == pytest.approx(1e-4 + (0.02 - 1e-4) * 500 / 999, rel=1e-9)
    assert schedule.alphas_cumprod[0] == pytest.approx(0.9999, rel=1e-14)
    assert schedule.alphas_cumprod[999] == pytest.approx(4.0358e-5, rel=1e-4)


def test_scaled_linear_is_stable_diffusions() -> None:
    """Its sigmas run from 0.0292 to 14.6146, as k-diffusion lists them."""
    schedule = schedules.scaled_linear()
    assert schedule.sigmas[[0, 999]] == pytest.approx([0.0292, 14.6146], abs=5e-5)
    assert np.sqrt(schedule.betas[[0, 999]]) == pytest.approx(np.sqrt([0.00085, 0.012]), rel=1e-9)


def test_cosine_is_that_of_nichol_and_dhariwal() -> None:
    """alphas_cumprod is cos^2 until the last beta is held at 0.999."""
    schedule = schedules.cosine(1000)

    def f(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    for t in (0, 250, 499, 998):
        assert schedule.alphas_cumprod[t] == pytest.approx(f((t + 1) / 1000) / f(0), rel=1e-9)
    assert schedule.alphas_cumprod[499] == pytest.approx(0.49384, abs=1e-5)
    assert schedule.betas[999] == pytest.approx(0.999, rel=1e-12)


def test_sigmoid_is_symmetric_about_its_middle() -> None:
    betas = schedules.sigmoid(1001, 0.001, 0.021).betas
    assert betas[500] == pytest.approx(0.011, rel=1e-9)
    assert betas + betas[::-1] == pytest.approx(np.full(1001, 0.022), rel=1e-9)


def test_flow_shift_keeps_the_end_and_raises_the_middle() -> None:
    plain, shifted = schedules.flow(1000), schedules.flow(1000, 3.0)
    assert plain.noise_scale == pytest.approx(np.arange(1, 1001) / 1000, abs=1e-15)
    assert shifted.noise_scale[[499, 999]] == pytest.approx([0.75, 1.0], abs=1e-15)
    assert shifted.t == pytest.approx(1000 * shifted.noise_scale)
    assert shifted.sigmas[:-1] == pytest.approx(3 * plain.sigmas[:-1], rel=1e-9)  # the shift is a factor of sigma


@pytest.mark.parametrize("name", ["linear", "scaled linear", "cosine", "sigmoid", "custom betas"])
def test_zero_terminal_snr_keeps_the_first_level_and_empties_the_last(name: str) -> None:
    before, after = VP[name], VP[name].rescale_zero_terminal_snr()
    assert after.signal_scale[0] == pytest.approx(before.signal_scale[0], rel=1e-14)
    assert after.signal_scale[-1] == after.snr[-1] == 0.0
    assert after.noise_scale[-1] == 1.0
    assert after.sigmas[-1] == math.inf
    assert after.log_snr[-1] == -math.inf
    assert not any(np.isnan(a).any() for a in (after.sigmas, after.log_snr, after.betas, after.snr))
    ratio = np.diff(after.signal_scale) / np.diff(before.signal_scale)
    assert ratio == pytest.approx(np.full(len(ratio), ratio[0]), rel=1e-6)  # a shift and a scale, no more


def test_karras_sigmas_are_those_of_the_paper() -> None:
    """Ends, the formula in the middle, and the values that consistency models published for 0.002 to 80, rho 7."""
    sigmas = karras_sigmas(40, 0.002, 80.0)
    assert sigmas[[0, -1]] == pytest.approx([80.0, 0.002], rel=1e-12)
    low, high = 0.002 ** (1 / 7), 80.0 ** (1 / 7)
    assert karras_sigmas(3, 0.002, 80.0)[1] == pytest.approx(((low + high) / 2) ** 7, rel=1e-12)
    assert karras_sigmas(18, 0.002, 80.0)[1] == pytest.approx(57.586, abs=5e-4)
    assert karras_sigmas(1, 0.002, 80.0).tolist() == pytest.approx([80.0])
    steep = [2000.0, 2000 * (2 / 3) ** 0.01, 2000 * (1 / 3) ** 0.01, 0.002]  # where 2000^(1 / rho) is no float64
    assert karras_sigmas(4, 0.002, 2000.0, rho=0.01) == pytest.approx(steep, rel=1e-12)
    even = np.exp(np.log(80) + np.arange(4) / 3 * np.log(0.002 / 80))  # the limit of a large rho
    assert karras_sigmas(4, 0.002, 80.0, rho=1000.0) == pytest.approx(even, rel=0.02)
    assert karras_sigmas(5, 1.0, 16.0, rho=1.0) == pytest.approx([16, 12.25, 8.5, 4.75, 1])


def test_exponential_sigmas_are_a_geometric_series() -> None:
    assert exponential_sigmas(5, 0.01, 100.0) == pytest.approx([100, 10, 1, 0.1, 0.01])


def test_time_of_sigma_is_c_noise() -> None:
    assert time_of_sigma([1.0, math.e], "edm") == pytest.approx([0.0, 0.25])
    assert time_of_sigma([1.0, math.e], "consistency") == pytest.approx([0.0, 250.0])
    assert np.isfinite(time_of_sigma([0.0], "consistency")).all()
    with pytest.raises(ArgumentError, match="'consistency' or 'trigflow'"):
        time_of_sigma([1.0], "c_noise")


@given(st.floats(0, 999), st.sampled_from(["linear", "scaled linear", "cosine", "sigmoid"]))
def test_sigma_and_t_are_each_others_inverse(t: float, name: str) -> None:
    schedule = ALL[name]
    assert schedule.sigma_to_t(schedule.t_to_sigma(t)) == pytest.approx(t, abs=1e-6)


@given(st.floats(0.002, 80.0), st.sampled_from(["karras", "exponential"]))
def test_t_of_a_ve_schedule_is_time_of_sigma_between_levels_too(sigma: float, name: str) -> None:
    time = ALL[name].parameters["time"]
    assert ALL[name].sigma_to_t(sigma) == pytest.approx(time_of_sigma(sigma, time), abs=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_sigma_to_t_hits_every_level_and_holds_at_the_ends(name: str) -> None:
    schedule = ALL[name]
    assert schedule.sigma_to_t(schedule.sigmas) == pytest.approx(schedule.t, abs=1e-9)
    assert float(schedule.sigma_to_t(1e-9)) == schedule.t[0]
    assert float(schedule.sigma_to_t(1e9)) == pytest.approx(
        float(schedule.t[-1]), abs=1 if schedule.snr[-1] == 0 else 1e-9
    )


@pytest.mark.parametrize("name", ALL)
def test_a_schedule_survives_json_to_the_bit(name: str) -> None:
    schedule = ALL[name]
    again = schedules.from_config(json.loads(json.dumps(schedule.to_config())))
    assert again.to_config() == schedule.to_config()
    assert again.kind == schedule.kind
    for array in ("signal_scale", "noise_scale", "t"):
        assert (getattr(again, array) == getattr(schedule, array)).all()


@given(
    st.sampled_from(["linear", "scaled_linear", "sigmoid"]),
    st.integers(1, 300),
    st.floats(1e-5, 0.1),
    st.floats(1e-5, 0.1),
)
def test_any_beta_range_makes_a_schedule(name: str, count: int, start: float, end: float) -> None:
    config = {"name": name, "num_timesteps": count, "beta_start": start, "beta_end": end}
    schedule = schedules.from_config(config)
    assert len(schedule) == count
    assert (np.diff(schedule.snr) < 0).all()
    assert schedule.to_config() == config | {"zero_terminal_snr": False}


def test_a_schedule_cannot_be_written_to() -> None:
    schedule = schedules.linear()
    for array in (schedule.signal_scale, schedule.noise_scale, schedule.t, schedule.sigmas, schedule.betas):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1.0
    source = np.linspace(0.9, 0.1, 5)
    schedule = schedules.from_alphas_cumprod(source)
    source[0] = 0.95
    assert schedule.alphas_cumprod[0] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"name": "liner"}, "schedule name: got 'liner'; allowed: linear, scaled_linear"),
        ({}, "schedule name: got None"),
        ([], "schedule: got []"),
        ({"name": "linear", "T": 10}, "schedule linear: got 'T'; allowed: num_timesteps, beta_start, beta_end"),
        ({"name": "linear", "num_timesteps": 0}, "num_timesteps: got 0; allowed: an integer from 1 to 100000"),
        ({"name": "linear", "num_timesteps": 10**9}, "num_timesteps: got 1000000000"),
        ({"name": "linear", "num_timesteps": 10.5}, "num_timesteps: got 10.5"),
        ({"name": "linear", "num_timesteps": True}, "num_timesteps: got True"),
        ({"name": "linear", "beta_end": 1.5}, "beta_end: got 1.5; allowed: a number in (0, 1)"),
        ({"name": "linear", "beta_end": math.nan}, "beta_end: got nan"),
        ({"name": "linear", "beta_start": "0.1"}, "beta_start: got '0.1'"),
        ({"name": "linear", "zero_terminal_snr": 1}, "zero_terminal_snr: got 1; allowed: true or false"),
        ({"name": "cosine", "max_beta": 1.0}, "max_beta: got 1.0"),
        ({"name": "betas"}, "an object with betas"),
        ({"name": "betas", "betas": []}, "betas: got shape [0]"),
        ({"name": "betas", "betas": [0.1, [0.2]]}, "betas: got [0.1, [0.2]]; allowed: a list of numbers"),
        ({"name": "betas", "betas": [0.1, 1.0, 0.1]}, "0 < beta < 1"),
        ({"name": "betas", "betas": [0.0, 0.1]}, "0 < beta < 1"),
        ({"name": "betas", "betas": [0.1, math.inf]}, "finite"),
        ({"name": "alphas_cumprod", "alphas_cumprod": [0.5, 0.6]}, "strictly decreasing"),
        ({"name": "alphas_cumprod", "alphas_cumprod": [1.0, 0.6]}, "strictly decreasing values in [0, 1)"),
        ({"name": "flow", "shift": 0}, "shift: got 0"),
        ({"name": "flow", "zero_terminal_snr": True}, "allowed: schedules of kind 'vp'"),
        ({"name": "karras", "sigma_min": 90.0}, "sigma_max: got 80.0; allowed: a number in (90, 1e+06]"),
        ({"name": "karras", "sigma_min": 0}, "sigma_min: got 0"),
        ({"name": "karras", "time": "vp"}, "time: got 'vp'"),
        ({"name": "linear", "num_timesteps": 1, "zero_terminal_snr": True}, "at least two timesteps"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_config_out_of_range_names_what_is_allowed(config: Any, said: str) -> None:
    with pytest.raises(ArgumentError) as error:
        schedules.from_config(config)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_vp_names_are_refused_on_other_kinds() -> None:
    for ask in (lambda s: s.betas, lambda s: s.alphas_cumprod, Schedule.rescale_zero_terminal_snr):
        with pytest.raises(ArgumentError, match="kind 'vp'"):
            ask(schedules.karras())
