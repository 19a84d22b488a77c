"""Noise schedules: how much signal and how much noise is left at each training timestep, in float64.

A schedule is T noise levels, from almost clean (index 0) to almost pure noise (index T - 1):

    x_t = signal_scale[t] x_0 + noise_scale[t] z,      z ~ N(0, 1)

    kind "vp"    signal_scale^2 + noise_scale^2 = 1     DDPM and its kin; signal_scale^2 is alphas_cumprod
    kind "flow"  signal_scale   + noise_scale   = 1     rectified flow
    kind "ve"    signal_scale = 1, noise_scale = sigma  EDM and consistency models
    kind "trig"  signal_scale = cos t, noise_scale = sigma_data sin t    TrigFlow, whose noise has the scale of the data

sigma = noise_scale / signal_scale is Karras time: it orders the levels of every kind on one axis. What is small keeps
its digits: noise where almost none is there yet, and signal where almost none is left, which at the end is 0 itself.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fewstep.checks import exact, flag, integer, number, numbers, only, real
from fewstep.diffusion.ladders import MAX_SIGMA as MAX_SIGMA
from fewstep.diffusion.ladders import MAX_TIMESTEPS as MAX_TIMESTEPS
from fewstep.diffusion.ladders import Array as Array
from fewstep.diffusion.ladders import exponential_sigmas as exponential_sigmas
from fewstep.diffusion.ladders import karras_sigmas as karras_sigmas
from fewstep.diffusion.ladders import pinned
from fewstep.diffusion.times import OF_SIGMA, TIMES, sigma_of_time
from fewstep.diffusion.times import time_of_sigma as time_of_sigma
from fewstep.errors import ArgumentError

Kind = Literal["vp", "flow", "ve", "trig"]


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
    t: Array  # [T], what the model is told, as `time` says: the index (vp), T noise_scale (flow), of sigma (ve)
    parameters: Mapping[str, Any] = field(default_factory=dict)  # the constructor's arguments, as JSON values
    zero_terminal_snr: bool = False  # rescaled so that the last level has no signal
    time: str = "timestep"  # what t counts, a word of `fewstep.diffusion.times`
    sigma_data: float | None = None  # the scale of its data that a preconditioned network counts on; None: it does not
    time_said: bool = True  # somebody chose it; a "ve" schedule has no time that most networks would agree on

    def __post_init__(self) -> None:
        for name in ("signal_scale", "noise_scale", "t"):
            object.__setattr__(self, name, read_only(getattr(self, name)))
        levels = np.concatenate([self.signal_scale, self.noise_scale, self.t])
        if not (np.isfinite(levels).all() and (self.signal_scale >= 0).all() and (self.noise_scale > 0).all()):
            raise ArgumentError(self.name, "levels that are not finite, or without noise", "noise at every level")
        if not (np.diff(self.signal_scale / self.noise_scale) < 0).all():
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
        """[T] 1 - alphas_cumprod[t] / alphas_cumprod[t-1], the variance of one step; for kind "vp" alone.

        Where little noise is there, by its growth: (noise_scale[t]^2 - noise_scale[t-1]^2) / alphas_cumprod[t-1].
        """
        alphas_cumprod, variance = self.alphas_cumprod, self.noise_scale**2
        before, variance_before = np.append(1.0, alphas_cumprod[:-1]), np.append(0.0, variance[:-1])
        growth = (variance - variance_before) / before
        return read_only(np.where(variance < 0.5, growth, 1 - alphas_cumprod / before))

    @property
    def sigmas(self) -> Array:
        """[T] noise_scale / signal_scale, Karras time; inf at zero terminal SNR."""
        with np.errstate(divide="ignore"):
            return read_only(self.noise_scale / self.signal_scale)

    @property
    def lowest(self) -> float:
        """The lowest sigma it was made for: that of level 0, or `sigma_min` where its single level is another."""
        return float(self.parameters.get("sigma_min", self.sigmas[0]))

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
        """The t of Karras time sigma, held at both ends.

        By its formula where t has one in sigma (`time_of_sigma`, the noise scale of a flow); else linear in ln sigma
        between levels.
        """
        sigmas = np.asarray(sigma, dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.has_exact_time:
                t = self.exact_time(sigmas)
            else:
                t = np.interp(np.log(sigmas), np.log(self.sigmas), self.t)
        low, high = sigmas <= self.sigmas[0], sigmas >= self.sigmas[-1]
        return np.asarray(np.where(low, self.t[0], np.where(high, self.t[-1], t)))

    def t_to_sigma(self, t: npt.ArrayLike) -> Array:
        """The inverse of `sigma_to_t`, held at both ends."""
        times = np.asarray(t, dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.time in OF_SIGMA:
                sigma = sigma_of_time(times, self.time, self.sigma_data or 1.0)
            elif self.has_exact_time:
                noise_scale = times / self._flow_count
                sigma = noise_scale / (1 - noise_scale)
            else:
                sigma = np.exp(np.interp(times, self.t, np.log(self.sigmas)))
        low, high = times <= self.t[0], times >= self.t[-1]
        return np.asarray(np.where(low, self.sigmas[0], np.where(high, self.sigmas[-1], sigma)))

    @property
    def has_exact_time(self) -> bool:
        """Whether t has a formula in sigma, which holds beyond the ends too; else t is known at the levels alone."""
        return self.time in OF_SIGMA or (self.kind == "flow" and self.time in ("timestep", "unit"))

    def exact_time(self, sigma: Array) -> Array:
        """The t at sigma by that formula; of a flow it is T / (1 + 1 / sigma), or without the T."""
        if self.time in OF_SIGMA:
            return time_of_sigma(sigma, self.time, self.sigma_data or 1.0)
        return np.asarray(self._flow_count / (1 + 1 / sigma))

    @property
    def _flow_count(self) -> int:
        return 1 if self.time == "unit" else len(self)

    def told(self, time: str) -> "Schedule":
        """The same levels for a network that is told its time in other words (`fewstep.diffusion.times`).

        Raises:
            ArgumentError: words that are none, or that this schedule has no finite time for ("ve" counts no timesteps).
        """
        if time not in TIMES:
            raise ArgumentError("time", time, ", ".join(TIMES))
        index = np.arange(len(self), dtype=np.float64)
        if time in ("timestep", "unit") and self.kind in ("ve", "trig"):
            raise ArgumentError("time", time, f"{', '.join(OF_SIGMA)} or index on a {self.name} schedule")
        if time in OF_SIGMA and time != "trigflow" and np.isinf(self.sigmas[-1]):
            got = f"{time} on a {self.name} schedule, whose last level has no signal (sigma = inf)"
            raise ArgumentError("time", got, "timestep, unit (the noise scale of a flow) or index")
        if time in OF_SIGMA:
            t = time_of_sigma(self.sigmas, time, self.sigma_data or 1.0)
        elif self.kind != "flow" or time == "index":
            t = index / len(self) if time == "unit" else index
        else:
            t = self.noise_scale if time == "unit" else len(self) * self.noise_scale
        return replace(self, t=t, time=time, time_said=True)

    def preconditioned(self, sigma_data: float) -> "Schedule":
        """The same levels for a network that is preconditioned for data of this scale (`forward.network`)."""
        sigma_data = number("sigma_data", sigma_data, 1e-6, 1e6)
        if self.kind == "trig" and sigma_data != self.sigma_data:
            raise ArgumentError("sigma_data", sigma_data, f"{exact(self.sigma_data or 1.0)}, as its levels have it")
        changed = replace(self, sigma_data=sigma_data)
        return replace(changed.told(self.time), time_said=self.time_said)

    def rescale_zero_terminal_snr(self) -> "Schedule":
        """The same schedule with no signal left at its last timestep.

        r = sqrt(alphas_cumprod);  r' = (r - r[T-1]) r[0] / (r[0] - r[T-1])
        Lin et al., Common Diffusion Noise Schedules and Sample Steps are Flawed (2305.08891), algorithm 1.
        """
        self._require_vp("zero_terminal_snr")
        if len(self) < 2:
            raise ArgumentError("zero_terminal_snr", True, "a schedule of at least two timesteps")
        r = self.signal_scale
        rescaled = pinned((r - r[-1]) * r[0] / (r[0] - r[-1]), float(r[0]), 0.0)
        short = self.noise_scale**2 / (1 + r)  # 1 - r, with its digits
        grown = short[0] + (short - short[0]) * r[0] / (r[0] - r[-1])  # 1 - r'
        noise_scale = np.sqrt(np.where(rescaled > 0.5, grown * (1 + rescaled), 1 - rescaled**2))
        noise_scale[0] = self.noise_scale[0]
        changed = replace(self, signal_scale=rescaled, noise_scale=noise_scale, zero_terminal_snr=True)
        return changed.told(self.time)

    def to_config(self) -> dict[str, Any]:
        """A JSON object from which `from_config` makes the same schedule, to the bit."""
        config = {"name": self.name, **self.parameters}
        if self.time != "timestep":
            config["time"] = self.time
        if self.sigma_data is not None:
            config["sigma_data"] = self.sigma_data
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
    return _from_betas("scaled_linear", pinned(betas, start, end), _beta_parameters(count, start, end))


def sigmoid(num_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """beta = beta_start + (beta_end - beta_start) / (1 + exp(-u)), u = linspace(-6, 6).

    Xu et al., GeoDiff (2203.02923), released code.
    """
    count, start, end = _beta_range(num_timesteps, beta_start, beta_end)
    betas = start + (end - start) / (1 + np.exp(-np.linspace(-6, 6, count)))
    return _from_betas("sigmoid", betas, _beta_parameters(count, start, end))


def cosine(num_timesteps: int = 1000, s: float = 0.008, max_beta: float = 0.999) -> Schedule:
    """beta_t = min(1 - f(t + 1) / f(t), max_beta), f(t) = cos^2 a(t), a(t) = pi/2 (t/T + s) / (1 + s).

    Nichol and Dhariwal, Improved Denoising Diffusion Probabilistic Models (2102.09672), equation 17. The difference is
    taken as cos^2 a - cos^2 b = sin(b - a) sin(b + a), which keeps its digits where a step is small.
    """
    count = integer("num_timesteps", num_timesteps, 1, MAX_TIMESTEPS)
    s, max_beta = number("s", s, 0, 1), number("max_beta", max_beta, 0, 1, open_low=True, open_high=True)
    a = np.pi / 2 * (np.arange(count + 1) / count + s) / (1 + s)
    step = np.pi / 2 / count / (1 + s)
    betas = np.minimum(np.sin(step) * np.sin(a[1:] + a[:-1]) / np.cos(a[:-1]) ** 2, max_beta)
    return _from_betas("cosine", betas, {"num_timesteps": count, "s": s, "max_beta": max_beta})


def from_betas(betas: npt.ArrayLike) -> Schedule:
    """alphas_cumprod = cumprod(1 - betas), for any betas [T] in (0, 1); the last one may be 1."""
    values = _list("betas", betas)
    inside = (values > 0) & (values < 1)
    if not (inside[:-1].all() and 0 < values[-1] <= 1):
        ends = f"values from {exact(values.min())} to {exact(values.max())}"
        raise ArgumentError("betas", ends, "0 < beta < 1, and 1 for the last")
    return _from_betas("betas", values, {"betas": values.tolist()})


def from_alphas_cumprod(alphas_cumprod: npt.ArrayLike) -> Schedule:
    """signal_scale = sqrt(alphas_cumprod), for any strictly decreasing alphas_cumprod [T] in [0, 1)."""
    values = _list("alphas_cumprod", alphas_cumprod)
    if not (values[-1] >= 0 and values[0] < 1 and (np.diff(values) < 0).all()):
        raise ArgumentError(
            "alphas_cumprod",
            f"values from {exact(values[0])} to {exact(values[-1])}",
            "strictly decreasing values in [0, 1)",
        )
    return _vp("alphas_cumprod", values, 1 - values, {"alphas_cumprod": values.tolist()})


def flow(num_timesteps: int = 1000, shift: float = 1.0) -> Schedule:
    """noise_scale = shift u / (1 + (shift - 1) u), u = k / T = 1/T .. 1; so with k of T

    noise_scale = shift k / (T - k + shift k),    signal_scale = (T - k) / (T - k + shift k)

    and t = T noise_scale. The last level has no signal, to the bit, at any shift. Liu et al., Flow Straight and Fast
    (2209.03003); the shift is Esser et al. (2403.03206), equation 23.
    """
    count = integer("num_timesteps", num_timesteps, 1, MAX_TIMESTEPS)
    shift = number("shift", shift, 1e-3, 1e3)
    k = np.arange(1, count + 1)
    total = count - k + shift * k
    noise_scale = shift * k / total
    parameters = {"num_timesteps": count, "shift": shift}
    return Schedule("flow", "flow", (count - k) / total, noise_scale, count * noise_scale, parameters)


def karras(
    num_timesteps: int = 40,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    time: str | None = None,
) -> Schedule:
    """noise_scale = `karras_sigmas`, signal_scale = 1, t as `time` says: "consistency", unless said, as theirs have it.

    Only a consistency model may leave it unsaid; for any other network, `Model` asks for a word.
    """
    count = integer("num_timesteps", num_timesteps, 1, MAX_TIMESTEPS)
    sigmas = karras_sigmas(count, sigma_min, sigma_max, rho)[::-1]
    ends = {"sigma_min": real(sigma_min), "sigma_max": real(sigma_max)}
    return _ve("karras", sigmas, time, "consistency", {"num_timesteps": count, **ends, "rho": real(rho)})


def exponential(
    num_timesteps: int = 40, sigma_min: float = 0.002, sigma_max: float = 80.0, time: str | None = None
) -> Schedule:
    """noise_scale = `exponential_sigmas`, signal_scale = 1, t as `time` says: "edm" unless said; see `karras`."""
    count = integer("num_timesteps", num_timesteps, 1, MAX_TIMESTEPS)
    sigmas = exponential_sigmas(count, sigma_min, sigma_max)[::-1]
    ends = {"sigma_min": real(sigma_min), "sigma_max": real(sigma_max)}
    return _ve("exponential", sigmas, time, "edm", {"num_timesteps": count, **ends})


def trigflow(num_timesteps: int = 1000, sigma_data: float = 0.5) -> Schedule:
    """x_t = cos(t) x_0 + sigma_data sin(t) z, t = (pi / 2) k / T, k = 1 .. T; the last level has no signal, to the bit.

    Lu and Song, Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models (2410.11081), section 3.
    """
    count = integer("num_timesteps", num_timesteps, 1, MAX_TIMESTEPS)
    sigma_data = number("sigma_data", sigma_data, 1e-6, 1e6)
    t = np.pi / 2 * np.arange(1, count + 1) / count
    signal_scale = np.append(np.cos(t[:-1]), 0.0)
    parameters = {"num_timesteps": count, "sigma_data": sigma_data}
    noise_scale = sigma_data * np.sin(t)
    return Schedule(
        "trigflow", "trig", signal_scale, noise_scale, t, parameters, time="trigflow", sigma_data=sigma_data
    )


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
    "trigflow": trigflow,
}


def from_config(config: Mapping[str, Any]) -> Schedule:
    """The schedule a JSON object describes, such as {"name": "cosine", "num_timesteps": 4000}.

    Every other key is an argument of the constructor of that name, or "zero_terminal_snr", "time" (`Schedule.told`) or
    "sigma_data" (`Schedule.preconditioned`).
    Unknown names, unknown keys and values out of range raise ArgumentError.
    """
    if not isinstance(config, Mapping):
        raise ArgumentError("schedule", config, 'an object such as {"name": "linear"}')
    name = config.get("name")
    if not isinstance(name, str) or name not in CONSTRUCTORS:
        raise ArgumentError("schedule name", name, ", ".join(CONSTRUCTORS))
    constructor = CONSTRUCTORS[name]
    own = inspect.signature(constructor).parameters
    allowed = list(dict.fromkeys([*own, "zero_terminal_snr", "time", "sigma_data"]))
    arguments = {key: value for key, value in config.items() if key != "name"}
    only(f"schedule {name}", arguments, allowed)
    rescale = flag("zero_terminal_snr", arguments.pop("zero_terminal_snr", False))
    time = None if "time" in own else arguments.pop("time", None)
    sigma_data = None if "sigma_data" in own else arguments.pop("sigma_data", None)
    missing = [p.name for p in own.values() if p.default is p.empty]
    if missing and missing[0] not in arguments:
        raise ArgumentError(f"schedule {name}", "no " + missing[0], f"an object with {missing[0]}")
    schedule = constructor(**arguments)
    schedule = schedule.rescale_zero_terminal_snr() if rescale else schedule
    schedule = schedule if sigma_data is None else schedule.preconditioned(sigma_data)
    return schedule if time is None else schedule.told(time)


def _vp(name: str, alphas_cumprod: Array, variance: Array, parameters: Mapping[str, Any]) -> Schedule:
    t = np.arange(len(alphas_cumprod), dtype=np.float64)
    return Schedule(name, "vp", np.sqrt(alphas_cumprod), np.sqrt(variance), t, parameters)


def _from_betas(name: str, betas: npt.NDArray[Any], parameters: Mapping[str, Any]) -> Schedule:
    """1 - alphas_cumprod is -expm1(sum log1p(-beta)) where it is small: in 1 - beta, a beta of 1e-16 is lost."""
    alphas_cumprod = np.cumprod(1 - betas, dtype=np.float64)
    with np.errstate(divide="ignore"):
        variance = -np.expm1(np.cumsum(np.log1p(-betas)))
    small = variance < 0.1
    alphas_cumprod = np.where(small, 1 - variance, alphas_cumprod)
    return _vp(name, alphas_cumprod, np.where(small, variance, 1 - alphas_cumprod), parameters)


def _ve(name: str, sigmas: Array, time: str | None, usual: str, parameters: Mapping[str, Any]) -> Schedule:
    allowed = (*OF_SIGMA, "index")
    if time is not None and time not in allowed:
        raise ArgumentError("time", time, ", ".join(allowed))
    told = {"time": usual if time is None else time}
    schedule = Schedule(name, "ve", np.ones(len(sigmas)), sigmas, sigmas, {**parameters, **told}, time="sigma")
    return replace(schedule.told(told["time"]), time_said=time is not None)


def _beta_range(num_timesteps: int, beta_start: float, beta_end: float) -> tuple[int, float, float]:
    return (
        integer("num_timesteps", num_timesteps, 1, MAX_TIMESTEPS),
        number("beta_start", beta_start, 0, 1, open_low=True, open_high=True),
        number("beta_end", beta_end, 0, 1, open_low=True, open_high=True),
    )


def _beta_parameters(num_timesteps: int, beta_start: float, beta_end: float) -> dict[str, Any]:
    return {"num_timesteps": num_timesteps, "beta_start": beta_start, "beta_end": beta_end}


def _list(name: str, values: npt.ArrayLike | Sequence[float]) -> Array:
    array = np.array(numbers(name, values, "a list of numbers, all of them finite"))
    if not 1 <= len(array) <= MAX_TIMESTEPS:
        raise ArgumentError(name, f"shape {list(array.shape)}", f"a list of 1 to {MAX_TIMESTEPS} finite numbers")
    return array
