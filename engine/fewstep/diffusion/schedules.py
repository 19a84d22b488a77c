"""Noise schedules: how much signal and how much noise is left at each training timestep, in float64.

A schedule is T noise levels, from almost clean (index 0) to almost pure noise (index T - 1):

    x_t = signal_scale[t] x_0 + noise_scale[t] z,      z ~ N(0, 1)

    kind "vp"    signal_scale^2 + noise_scale^2 = 1     DDPM and its kin; signal_scale^2 is alphas_cumprod
    kind "flow"  signal_scale   + noise_scale   = 1     rectified flow
    kind "ve"    signal_scale = 1, noise_scale = sigma  EDM and consistency models

sigma = noise_scale / signal_scale is Karras time: it orders the levels of every kind on one axis.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fewstep.checks import integer, number
from fewstep.errors import ArgumentError

Array = npt.NDArray[np.float64]
Kind = Literal["vp", "flow", "ve"]

MAX_TIMESTEPS = 100_000
MAX_SIGMA = 1e6


def read_only(values: npt.ArrayLike) -> Array:
    """A float64 copy of `values` that nobody can write to."""
    array = np.array(values, dtype=np.float64)
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class Schedule:
    """T noise levels and what the model is told at each; make one with the functions of this module."""

    name: str
    kind: Kind
    signal_scale: Array  # [T], decreasing, in [0, 1]
    noise_scale: Array  # [T], increasing, positive
    t: Array  # [T], what the model is told: the index (vp), T noise_scale (flow), `time_of_sigma` (ve)
    parameters: Mapping[str, Any] = field(default_factory=dict)  # the constructor's arguments, as JSON values
    zero_terminal_snr: bool = False  # rescaled so that the last level has no signal

    def __post_init__(self) -> None:
        for name in ("signal_scale", "noise_scale", "t"):
            object.__setattr__(self, name, read_only(getattr(self, name)))
        levels = np.concatenate([self.signal_scale, self.noise_scale, self.t])
        if not (np.isfinite(levels).all() and (self.signal_scale >= 0).all() and (self.noise_scale > 0).all()):
            raise ArgumentError(self.name, "levels that are not finite, or without noise", "noise at every level")
        if not (np.diff(self.snr) < 0).all():
            raise ArgumentError(self.name, "a level as clean as the one before it", "noise that grows with t")

    def __len__(self) -> int:
        return len(self.signal_scale)

    @property
    def num_timesteps(self) -> int:
        """T, the number of training timesteps."""
        return len(self)

    @property
    def alphas_cumprod(self) -> Array:
        """[T] signal_scale^2, the product of 1 - beta up to t; for kind "vp" alone."""
        self._require_vp("alphas_cumprod")
        return read_only(self.signal_scale**2)

    @property
    def betas(self) -> Array:
        """[T] 1 - alphas_cumprod[t] / alphas_cumprod[t-1], the variance of one step; for kind "vp" alone."""
        alphas_cumprod = self.alphas_cumprod
        return read_only(1 - alphas_cumprod / np.concatenate([[1.0], alphas_cumprod[:-1]]))

    @property
    def sigmas(self) -> Array:
        """[T] noise_scale / signal_scale, Karras time; inf at zero terminal SNR."""
        with np.errstate(divide="ignore"):
            return read_only(self.noise_scale / self.signal_scale)

    @property
    def snr(self) -> Array:
        """[T] (signal_scale / noise_scale)^2, decreasing; 0 at zero terminal SNR."""
        return read_only((self.signal_scale / self.noise_scale) ** 2)

    @property
    def log_snr(self) -> Array:
        """[T] 2 ln(signal_scale / noise_scale), in nats; -inf at zero terminal SNR."""
        with np.errstate(divide="ignore"):
            return read_only(2 * np.log(self.signal_scale / self.noise_scale))

    def sigma_to_t(self, sigma: npt.ArrayLike) -> Array:
        """The t of Karras time sigma: linear in ln sigma between levels, held at both ends."""
        return np.interp(np.log(np.asarray(sigma, dtype=np.float64)), np.log(self.sigmas), self.t)

    def t_to_sigma(self, t: npt.ArrayLike) -> Array:
        """The inverse of `sigma_to_t`: ln sigma, linear in t between levels, held at the ends."""
        return np.exp(np.interp(np.asarray(t, dtype=np.float64), self.t, np.log(self.sigmas)))

    def rescale_zero_terminal_snr(self) -> "Schedule":
        """The same schedule with no signal left at its last timestep.

        r = sqrt(alphas_cumprod);  r' = (r - r[T-1]) r[0] / (r[0] - r[T-1])
        Lin et al., Common Diffusion Noise Schedules and Sample Steps are Flawed (2305.08891), algorithm 1.
        """
        self._require_vp("zero_terminal_snr")
        if len(self) < 2:
            raise ArgumentError("zero_terminal_snr", True, "a schedule of at least two timesteps")
        r = self.signal_scale
        rescaled = (r - r[-1]) * r[0] / (r[0] - r[-1])
        return replace(self, signal_scale=rescaled, noise_scale=np.sqrt(1 - rescaled**2), zero_terminal_snr=True)

    def to_config(self) -> dict[str, Any]:
        """A JSON object from which `from_config` makes the same schedule, to the bit."""
        config = {"name": self.name, **self.parameters}
        return config | {"zero_terminal_snr": self.zero_terminal_snr} if self.kind == "vp" else config

    def _require_vp(self, what: str) -> None:
        if self.kind != "vp":
            raise ArgumentError(what, f"a {self.name} schedule of kind {self.kind!r}", "schedules of kind 'vp'")


def linear(num_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """beta = linspace(beta_start, beta_end).

    Ho et al., Denoising Diffusion Probabilistic Models (2006.11239), section 4.
    """
    count, start, end = _beta_range(num_timesteps, beta_start, beta_end)
    return _from_betas("linear", np.linspace(start, end, count), _beta_parameters(count, start, end))


def scaled_linear(num_timesteps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> Schedule:
    """sqrt(beta) = linspace(sqrt(beta_start), sqrt(beta_end)).

    Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models (2112.10752), released code.
    """
    count, start, end = _beta_range(num_timesteps, beta_start, beta_end)
    betas = np.linspace(start**0.5, end**0.5, count) ** 2
    return _from_betas("scaled_linear", betas, _beta_parameters(count, start, end))


def sigmoid(num_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """beta = beta_start + (beta_end - beta_start) / (1 + exp(-u)), u = linspace(-6, 6).

    Xu et al., GeoDiff (2203.02923), released code.
    """
    count, start, end = _beta_range(num_timesteps, beta_start, beta_end)
    betas = start + (end - start) / (1 + np.exp(-np.linspace(-6, 6, count)))
    return _from_betas("sigmoid", betas, _beta_parameters(count, start, end))


def cosine(num_timesteps: int = 1000, s: float = 0.008, max_beta: float = 0.999) -> Schedule:
    """beta_t = min(1 - f(t + 1) / f(t), max_beta), f(t) = cos^2(pi/2 (t/T + s) / (1 + s)).

    Nichol and Dhariwal, Improved Denoising Diffusion Probabilistic Models (2102.09672), equation 17.
    """
    count = integer("num_timesteps", num_timesteps, 1, MAX_TIMESTEPS)
    s, max_beta = number("s", s, 0, 1), number("max_beta", max_beta, 0, 1, open_low=True, open_high=True)
    f = np.cos(np.pi / 2 * (np.arange(count + 1) / count + s) / (1 + s)) ** 2
    betas = np.minimum(1 - f[1:] / f[:-1], max_beta)
    return _from_betas("cosine", betas, {"num_timesteps": count, "s": s, "max_beta": max_beta})


def from_betas(betas: npt.ArrayLike) -> Schedule:
    """alphas_cumprod = cumprod(1 - betas), for any betas [T] in (0, 1); the last one may be 1."""
    values = _list("betas", betas)
    inside = (values > 0) & (values < 1)
    if not (inside[:-1].all() and 0 < values[-1] <= 1):
        raise ArgumentError("betas", f"values from {values.min():g} to {values.max():g}", "0 < beta < 1")
    return _from_betas("betas", values, {"betas": values.tolist()})


def from_alphas_cumprod(alphas_cumprod: npt.ArrayLike) -> Schedule:
    """signal_scale = sqrt(alphas_cumprod), for any strictly decreasing alphas_cumprod [T] in [0, 1)."""
    values = _list("alphas_cumprod", alphas_cumprod)
    if not (values[-1] >= 0 and values[0] < 1 and (np.diff(values) < 0).all()):
        raise ArgumentError(
            "alphas_cumprod",
            f"values from {values[0]:g} to {values[-1]:g}",
            "strictly decreasing values in [0, 1)",
        )
    return _vp("alphas_cumprod", values, {"alphas_cumprod": values.tolist()})


def flow(num_timesteps: int = 1000, shift: float = 1.0) -> Schedule:
    """noise_scale = shift u / (1 + (shift - 1) u), u = 1/T .. 1.

    signal_scale = 1 - noise_scale and t = T noise_scale. Liu et al., Flow Straight and Fast (2209.03003); the
    shift is Esser et al. (2403.03206), equation 23.
    """
    count = integer("num_timesteps", num_timesteps, 1, MAX_TIMESTEPS)
    shift = number("shift", shift, 1e-3, 1e3)
    u = np.arange(1, count + 1) / count
    noise_scale = shift * u / (1 + (shift - 1) * u)
    parameters = {"num_timesteps": count, "shift": shift}
    return Schedule("flow", "flow", 1 - noise_scale, noise_scale, count * noise_scale, parameters)


def karras(
    num_timesteps: int = 40,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    time: str = "consistency",
) -> Schedule:
    """noise_scale = `karras_sigmas`, signal_scale = 1, t = `time_of_sigma`: as consistency models have it."""
    count = integer("num_timesteps", num_timesteps, 1, MAX_TIMESTEPS)
    sigmas = karras_sigmas(count, sigma_min, sigma_max, rho)[::-1]
    parameters = {
        "num_timesteps": count,
        "sigma_min": float(sigma_min),
        "sigma_max": float(sigma_max),
        "rho": float(rho),
        "time": time,
    }
    return Schedule("karras", "ve", np.ones(count), sigmas, time_of_sigma(sigmas, time), parameters)


def exponential(
    num_timesteps: int = 40, sigma_min: float = 0.002, sigma_max: float = 80.0, time: str = "edm"
) -> Schedule:
    """noise_scale = `exponential_sigmas`, signal_scale = 1; t = `time_of_sigma`."""
    count = integer("num_timesteps", num_timesteps, 1, MAX_TIMESTEPS)
    sigmas = exponential_sigmas(count, sigma_min, sigma_max)[::-1]
    parameters = {
        "num_timesteps": count,
        "sigma_min": float(sigma_min),
        "sigma_max": float(sigma_max),
        "time": time,
    }
    return Schedule("exponential", "ve", np.ones(count), sigmas, time_of_sigma(sigmas, time), parameters)


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Array:
    """[steps] (sigma_max^(1/rho) + u (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho, u from 0 to 1.

    Noisiest first; one step is sigma_max. Karras et al., Elucidating the Design Space of Diffusion-Based
    Generative Models (2206.00364), equation 5.
    """
    low, high = _sigma_range(sigma_min, sigma_max)
    rho = number("rho", rho, 1e-2, 1e3)
    u = np.linspace(0, 1, integer("steps", steps, 1, MAX_TIMESTEPS))
    return np.asarray((high ** (1 / rho) + u * (low ** (1 / rho) - high ** (1 / rho))) ** rho)


def exponential_sigmas(steps: int, sigma_min: float, sigma_max: float) -> Array:
    """[steps] exp(ln sigma_max + u (ln sigma_min - ln sigma_max)), u = 0 .. 1: noisiest first."""
    low, high = _sigma_range(sigma_min, sigma_max)
    u = np.linspace(0, 1, integer("steps", steps, 1, MAX_TIMESTEPS))
    return np.exp(math.log(high) + u * (math.log(low) - math.log(high)))


def time_of_sigma(sigma: npt.ArrayLike, time: str) -> Array:
    """What a "ve" model is told at sigma.

    "edm"          t = 0.25 ln sigma                    Karras et al. (2206.00364), table 1, c_noise
    "consistency"  t = 1000 * 0.25 ln(sigma + 1e-44)    Song et al. (2303.01469), released code
    """
    sigmas = np.asarray(sigma, dtype=np.float64)
    if time == "edm":
        return np.asarray(0.25 * np.log(sigmas))
    if time == "consistency":
        return np.asarray(1000 * 0.25 * np.log(sigmas + 1e-44))
    raise ArgumentError("time", time, "'edm' or 'consistency'")


CONSTRUCTORS: dict[str, Callable[..., Schedule]] = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "cosine": cosine,
    "sigmoid": sigmoid,
    "betas": from_betas,
    "alphas_cumprod": from_alphas_cumprod,
    "flow": flow,
    "karras": karras,
    "exponential": exponential,
}


def from_config(config: Mapping[str, Any]) -> Schedule:
    """The schedule a JSON object describes, such as {"name": "cosine", "num_timesteps": 4000}.

    Every other key is an argument of the constructor of that name, or "zero_terminal_snr". Unknown names,
    unknown keys and values out of range raise ArgumentError.
    """
    if not isinstance(config, Mapping):
        raise ArgumentError("schedule", config, 'an object such as {"name": "linear"}')
    name = config.get("name")
    if not isinstance(name, str) or name not in CONSTRUCTORS:
        raise ArgumentError("schedule name", name, ", ".join(CONSTRUCTORS))
    constructor = CONSTRUCTORS[name]
    allowed = [*inspect.signature(constructor).parameters, "zero_terminal_snr"]
    arguments = {key: value for key, value in config.items() if key != "name"}
    for key in arguments:
        if key not in allowed:
            raise ArgumentError(f"schedule {name}", key, ", ".join(allowed))
    rescale = arguments.pop("zero_terminal_snr", False)
    if not isinstance(rescale, bool):
        raise ArgumentError("zero_terminal_snr", rescale, "true or false")
    missing = [p.name for p in inspect.signature(constructor).parameters.values() if p.default is p.empty]
    if missing and missing[0] not in arguments:
        raise ArgumentError(f"schedule {name}", "no " + missing[0], f"an object with {missing[0]}")
    schedule = constructor(**arguments)
    return schedule.rescale_zero_terminal_snr() if rescale else schedule


def _vp(name: str, alphas_cumprod: Array, parameters: Mapping[str, Any]) -> Schedule:
    t = np.arange(len(alphas_cumprod), dtype=np.float64)
    return Schedule(name, "vp", np.sqrt(alphas_cumprod), np.sqrt(1 - alphas_cumprod), t, parameters)


def _from_betas(name: str, betas: npt.NDArray[Any], parameters: Mapping[str, Any]) -> Schedule:
    return _vp(name, np.cumprod(1 - betas, dtype=np.float64), parameters)


def _beta_range(num_timesteps: int, beta_start: float, beta_end: float) -> tuple[int, float, float]:
    return (
        integer("num_timesteps", num_timesteps, 1, MAX_TIMESTEPS),
        number("beta_start", beta_start, 0, 1, open_low=True, open_high=True),
        number("beta_end", beta_end, 0, 1, open_low=True, open_high=True),
    )


def _beta_parameters(num_timesteps: int, beta_start: float, beta_end: float) -> dict[str, Any]:
    return {"num_timesteps": num_timesteps, "beta_start": beta_start, "beta_end": beta_end}


def _sigma_range(sigma_min: float, sigma_max: float) -> tuple[float, float]:
    low = number("sigma_min", sigma_min, 0, MAX_SIGMA, open_low=True)
    return low, number("sigma_max", sigma_max, low, MAX_SIGMA)


def _list(name: str, values: npt.ArrayLike | Sequence[float]) -> Array:
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ArgumentError(name, values, "a list of numbers") from None
    if array.ndim != 1 or not 1 <= len(array) <= MAX_TIMESTEPS or not np.isfinite(array).all():
        raise ArgumentError(name, f"shape {list(array.shape)}", f"a list of 1 to {MAX_TIMESTEPS} finite numbers")
    return array
