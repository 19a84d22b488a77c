"""Paths: the noise levels a run visits, and what the model is told at each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from fewstep.checks import as_python, exact, integer, number, numbers, one_of, whole
from fewstep.diffusion.forward import Network, network
from fewstep.diffusion.ladders import MAX_SIGMA, Array, exponential_sigmas, karras_sigmas
from fewstep.diffusion.schedules import Kind, Schedule, read_only
from fewstep.diffusion.times import time_of_sigma
from fewstep.errors import ArgumentError

Final = Literal["clean", "first"]
Timesteps = Sequence[int] | npt.NDArray[np.integer[Any]]

FLOAT32 = 1e-6  # what two numbers may differ by, of their size, that were one before one of them was float32


class Falls(NamedTuple):
    """The scales where each of N calls begins, and where it lands: at a lower level, or at its own for the last."""

    signal: Array
    noise: Array
    signal_s: Array
    noise_s: Array


@dataclass(frozen=True, eq=False)
class Levels:
    """N model calls between N + 1 noise levels: call i takes level i to level i + 1.

    At level i, x = signal_scale[i] x_0 + noise_scale[i] z. A spacing chooses levels that fall, noisiest first. The
    levels of a plan may repeat, as Heun's method calls twice at one, and rise, as where noise is added back.
    """

    t: Array  # [N] what the model is told; not always whole
    signal_scale: Array  # [N + 1]
    noise_scale: Array  # [N + 1]; 0 where a run ends clean
    kind: Kind = "vp"  # the coordinates of x, see fewstep.schedules
    spacing: str = "explicit"  # how the levels were chosen
    time: str = "timestep"  # what t counts, a word of fewstep.diffusion.times
    index: Array | None = None  # [N] where in their schedule the levels lie, whole or between two; None: at t
    schedule: Schedule | None = None  # which one that is; None: they are of none
    sigma_data: float | None = None  # the scale of the data that the network is preconditioned for; None: it is not
    scale: Array | None = None  # [N] scale x is x in the network's own coordinates, where these are others

    def __post_init__(self) -> None:
        for name in ("t", "signal_scale", "noise_scale"):
            object.__setattr__(self, name, read_only(getattr(self, name)))
        for name in ("index", "scale"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, read_only(getattr(self, name)))
        n = len(self.t)
        if n < 1 or not len(self.signal_scale) == len(self.noise_scale) == n + 1:
            shape = f"{n} times, {len(self.signal_scale)} and {len(self.noise_scale)} levels"
            raise ArgumentError("levels", shape, "N times and N + 1 levels")
        scales = np.concatenate([self.signal_scale, self.noise_scale])
        if not (np.isfinite(self.t).all() and np.isfinite(scales).all() and (scales >= 0).all()):
            raise ArgumentError("levels", "a time or a scale that is not", "finite times, finite scales of 0 or more")
        if not (self.noise_scale[:-1] > 0).all():
            raise ArgumentError("levels", "a call where there is no noise", "noise at every call")

    def __len__(self) -> int:
        """N, the number of model calls."""
        return len(self.t)

    @property
    def timesteps(self) -> Array:
        """[N] where in their schedule the levels lie, whatever the network is told."""
        return self.t if self.index is None else self.index

    @property
    def sigmas(self) -> Array:
        """[N + 1] Karras time noise_scale / signal_scale; inf where there is no signal."""
        with np.errstate(divide="ignore"):
            return read_only(self.noise_scale / self.signal_scale)

    @property
    def log_snr(self) -> Array:
        """[N + 1] 2 ln(signal_scale / noise_scale), in nats; inf where the levels ends clean."""
        with np.errstate(divide="ignore"):
            return read_only(2 * (np.log(self.signal_scale) - np.log(self.noise_scale)))

    @property
    def lowest(self) -> float | None:
        """The lowest sigma of their schedule; None: they are of none."""
        return None if self.schedule is None else self.schedule.lowest

    @property
    def init_scale(self) -> float:
        """The scale of a run's first noise: 1 on "vp" levels, where x has unit variance; else noise_scale.

        In Karras time on leading timesteps it is sqrt(1 + sigma^2), which allows for data of unit variance: diffusers'
        choice.
        """
        if self.kind == "vp":
            return 1.0
        leading = self.kind == "ve" and self.scale is not None and self.spacing == "leading"
        return float(np.hypot(1, self.noise_scale[0]) if leading else self.noise_scale[0])

    def falls(self) -> Falls:
        """Where each call begins and lands, of levels that fall: for a sampler that goes from each to the next.

        Raises:
            ArgumentError: a level that is not below the one before it; the last may be equal, where signal is left.
        """
        sigmas, landed = self.sigmas[:-1], self.sigmas[1:]  # compared, since inf - inf is no number
        if not ((landed[:-1] < sigmas[:-1]).all() and landed[-1] <= sigmas[-1] and np.isfinite(landed[-1])):
            raise ArgumentError("levels", "levels out of order", "less noise at every call than before")
        return Falls(self.signal_scale[:-1], self.noise_scale[:-1], self.signal_scale[1:], self.noise_scale[1:])

    def network(self, prediction: str) -> Network:
        """[N] what the network's answer says of x at each call: see `forward.network`."""
        scale = 1.0 if self.scale is None else self.scale
        return network(prediction, self.signal_scale[:-1], self.noise_scale[:-1], self.sigma_data, scale)

    def visited(self, places: Sequence[int]) -> "Levels":
        """The levels a run visits that goes through these by their places, such as 0, 1, 1, 2, 2, 3 of four."""
        at, calls = np.asarray(places), np.asarray(places)[:-1]
        return replace(
            self,
            t=self.t[calls],
            signal_scale=self.signal_scale[at],
            noise_scale=self.noise_scale[at],
            index=None if self.index is None else self.index[calls],
            scale=None if self.scale is None else self.scale[calls],
        )

    def at(self, sigmas: Array) -> "Levels":
        """Levels at N + 1 other sigmas, in the same coordinates and told in the same words.

        Where a schedule knows a time at its levels alone, it is linear in ln sigma between them, and that of the
        nearest end beyond them.

        Raises:
            ArgumentError: the network is told an index, and none lies between two; or they were taken to Karras time
                and are of no schedule, which would say what the network's own coordinates are.
        """
        if self.scale is not None and self.schedule is None:
            allowed = "levels of a schedule, which knows the network's coordinates at other sigmas"
            raise ArgumentError("levels", "in Karras time, and of no schedule", allowed)
        if self.time == "index":
            allowed = "a sampler that visits the schedule's own levels: the network is told an index"
            raise ArgumentError("time", self.time, allowed)
        kind = self.schedule.kind if self.schedule is not None and self.scale is not None else self.kind
        signal_scale, noise_scale = _scales(kind, sigmas, self.sigma_data)
        if self.schedule is None:
            t, index = time_of_sigma(sigmas[:-1], self.time, self.sigma_data or 1.0), None
        else:
            exact_time = self.schedule.has_exact_time
            t = self.schedule.exact_time(sigmas[:-1]) if exact_time else self.schedule.sigma_to_t(sigmas[:-1])
            index = _index_of(self.schedule, sigmas[:-1])
        found = replace(
            self, t=t, signal_scale=signal_scale, noise_scale=noise_scale, kind=kind, index=index, scale=None
        )
        return found if kind == self.kind else found.in_karras_time()

    def straight(self) -> "Levels":
        """The same levels in coordinates where the ODE is dx/ds = (x - x_0) / s, with s the noise scale.

        Those of a flow are; all others are taken to Karras time.
        """
        return self if self.kind == "flow" else self.in_karras_time()

    def in_karras_time(self) -> "Levels":
        """The same levels in the coordinates x / signal_scale = x_0 + sigma z (kind "ve")."""
        if self.sigmas[0] > MAX_SIGMA:
            allowed = "levels with some signal; ddim takes the same steps and can begin where no signal is left"
            raise ArgumentError("levels", f"a first level with sigma = {self.sigmas[0]:.3g}", allowed)
        if self.kind == "ve":
            return self
        one = np.ones(len(self) + 1)
        return replace(self, signal_scale=one, noise_scale=self.sigmas, kind="ve", scale=self.signal_scale[:-1])

    @classmethod
    def spaced(
        cls,
        schedule: Schedule,
        steps: int,
        spacing: str = "trailing",
        offset: int = 0,
        final: Final = "clean",
        strength: float = 1.0,
        fractional: bool = False,
    ) -> "Levels":
        """`steps` of the schedule's timesteps (`spaced_timesteps`), all within its cleanest `strength`.

        Args:
            offset: added to every leading timestep, as models trained with `steps_offset` expect.
            final: where the last call lands: "clean" (x_0), or "first", the schedule's own first level, as
                `set_alpha_to_one=False` in diffusers.
            strength: in (0, 1]; less than 1 starts within the schedule, for image-to-image. The number of
                model calls stays `steps`; the steps become shorter.
            fractional: leave linspace timesteps unrounded, sigma interpolated linearly between levels, as
                diffusers' Euler does.
        """
        limit = reach(schedule, strength)
        steps = _budget(steps, limit, strength)
        index = spaced_timesteps(limit, steps, spacing, rounded=not fractional)
        if whole(offset) != 0 and spacing != "leading":
            raise ArgumentError("offset", offset, f"0: an offset shifts leading timesteps, not {spacing}")
        index += integer("offset", offset, 0, len(schedule) - 1 - int(index[0]), " for these steps")
        return cls._at(schedule, index, spacing, final)

    @classmethod
    def explicit(cls, schedule: Schedule, timesteps: Timesteps, final: Final = "clean") -> "Levels":
        """The given timesteps (indices into the schedule), noisiest first."""
        allowed = f"whole timesteps from {len(schedule) - 1} down to 0, each smaller than the one before"
        timesteps = as_python(timesteps)
        index = np.array(numbers("timesteps", timesteps, allowed))
        inside = len(index) > 0 and bool(((index >= 0) & (index < len(schedule))).all())
        if not inside or (index != np.round(index)).any() or not (np.diff(index) < 0).all():
            raise ArgumentError("timesteps", timesteps, allowed)
        return cls._at(schedule, index, "explicit", final)

    @classmethod
    def lcm(
        cls,
        schedule: Schedule,
        steps: int,
        original_steps: int = 50,
        strength: float = 1.0,
        final: Final = "clean",
    ) -> "Levels":
        """`steps` of the `original_steps` timesteps a latent consistency model was distilled on.

        With k = T // original_steps the distilled timesteps are k - 1, 2k - 1, ..; of their cleanest
        M = int(original_steps strength), noisiest first, those at floor(i M / steps) are taken.
        Luo et al., Latent Consistency Models (2310.04378), and their released code.
        """
        original_steps = integer("original_steps", original_steps, 1, len(schedule))
        reach = int(original_steps * number("strength", strength, 0, 1, open_low=True))
        why = f" ({original_steps} original_steps at strength {exact(strength)})"
        steps = integer("steps", steps, 1, max(reach, 1), why)
        distilled = np.arange(max(reach, 1), 0, -1) * (len(schedule) // original_steps) - 1
        index = distilled[np.arange(steps) * len(distilled) // steps]
        return cls._at(schedule, index.astype(np.float64), "lcm", final)

    @classmethod
    def karras(
        cls,
        steps: int,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        rho: float = 7.0,
        time: str | Schedule = "edm",
        final: Final = "clean",
    ) -> "Levels":
        """`karras_sigmas`, told to the model as `time` says.

        time is "sigma", "edm" or "consistency" (`time_of_sigma`, x in "ve" coordinates), or a schedule: then t is what
        that tells its network at these sigmas, and x has the schedule's coordinates. Where a schedule knows t at its
        levels alone ("vp"), a sigma outside of them has no time: ArgumentError.
        """
        return cls.of_sigmas(karras_sigmas(steps, sigma_min, sigma_max, rho), time, "karras", final)

    @classmethod
    def exponential(
        cls,
        steps: int,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        time: str | Schedule = "edm",
        final: Final = "clean",
    ) -> "Levels":
        """`exponential_sigmas`, told to the model as `time` says (see `karras`)."""
        return cls.of_sigmas(exponential_sigmas(steps, sigma_min, sigma_max), time, "exponential", final)

    @classmethod
    def _at(cls, schedule: Schedule, index: Array, spacing: str, final: Final) -> "Levels":
        """The schedule's levels at `index`.

        Between two whole indices sigma is linear, or the noise scale on a flow; t is that of this sigma where it has a
        formula, and linear too where it has none.
        """
        level = index.astype(np.int64)
        t, signal_scale, noise_scale = (
            values[level] for values in (schedule.t, schedule.signal_scale, schedule.noise_scale)
        )
        between = level != index
        if between.any():
            t[between], signal_scale[between], noise_scale[between] = _between(schedule, index[between])
        return cls._of(schedule, t, signal_scale, noise_scale, index, spacing, final)

    @classmethod
    def of_sigmas(cls, sigmas: Array, time: str | Schedule, spacing: str, final: Final = "clean") -> "Levels":
        """Any sigmas that fall, told to the model as `time` says (see `karras`); `spacing` is how they were chosen."""
        if not isinstance(time, Schedule):
            if not one_of(final, ("clean",)):
                raise ArgumentError("final", final, "'clean', or a schedule as `time`")
            t, signal_scale = time_of_sigma(sigmas, time), np.ones(len(sigmas) + 1)
            return cls(t, signal_scale, np.append(sigmas, 0.0), "ve", spacing, time)
        schedule, known = time, time.sigmas
        if not schedule.has_exact_time:
            for name, sigma in (("sigma_max", sigmas[0]), ("sigma_min", sigmas[-1])):
                if not known[0] * (1 - FLOAT32) <= sigma <= known[-1] * (1 + FLOAT32):
                    ends = f"{exact(known[0])} to {exact(known[-1])}"
                    allowed = f"{ends}, the levels of the {schedule.name} schedule: its network has a time for no other"
                    raise ArgumentError(name, float(sigma), allowed)
        t = schedule.exact_time(sigmas) if schedule.has_exact_time else schedule.sigma_to_t(sigmas)
        signal_scale, noise_scale = _scales(schedule.kind, sigmas, schedule.sigma_data)
        level = np.searchsorted(known, sigmas).clip(max=len(known) - 1)
        met = known[level] == sigmas  # a level of the schedule's own is that level, to the bit
        own = (schedule.t, schedule.signal_scale, schedule.noise_scale)
        t, signal_scale, noise_scale = (
            np.where(met, values[level], between)
            for values, between in zip(own, (t, signal_scale, noise_scale), strict=True)
        )
        index = _index_of(schedule, sigmas)
        return cls._of(schedule, t, signal_scale, noise_scale, index, spacing, final)

    @classmethod
    def _of(
        cls,
        schedule: Schedule,
        t: Array,
        signal_scale: Array,
        noise_scale: Array,
        index: Array,
        spacing: str,
        final: Final,
    ) -> "Levels":
        """Levels of a schedule, and where the last call lands."""
        signal, noise = _final_level(schedule, final, float(signal_scale[-1]), float(noise_scale[-1]))
        if schedule.time == "index" and not (index == np.round(index)).all():
            fraction = next(float(i) for i in index if i != np.round(i))
            allowed = "trailing, leading or a list of timesteps: the network is told an index, of which none is between"
            raise ArgumentError("spacing", f"{spacing}, which visits timestep {fraction:.6g}", allowed)
        return cls(
            t,
            np.append(signal_scale, signal),
            np.append(noise_scale, noise),
            schedule.kind,
            spacing,
            schedule.time,
            index,
            schedule,
            schedule.sigma_data,
        )


def _index_of(schedule: Schedule, sigmas: Array) -> Array:
    """Where sigmas lie among a schedule's levels, linearly in ln sigma between two."""
    with np.errstate(divide="ignore"):
        return np.interp(np.log(sigmas), np.log(schedule.sigmas), np.arange(len(schedule)))


def _between(schedule: Schedule, index: Array) -> tuple[Array, Array, Array]:
    """t, signal_scale and noise_scale at indices that are not whole."""

    def linear(values: Array) -> Array:
        return np.interp(index, np.arange(len(schedule)), values)

    if schedule.kind == "flow":
        signal_scale, noise_scale = linear(schedule.signal_scale), linear(schedule.noise_scale)
    else:
        signal_scale, noise_scale = _scales(schedule.kind, linear(schedule.sigmas), schedule.sigma_data)
    t = schedule.exact_time(noise_scale / signal_scale) if schedule.has_exact_time else linear(schedule.t)
    return t, signal_scale, noise_scale


def spaced_timesteps(count: int, steps: int, spacing: str, rounded: bool = True) -> Array:
    """`steps` of the indices 0 .. count - 1, noisiest first. Lin et al. (2305.08891), table 2.

    leading    (steps - 1 - i) (count // steps)           ends at 0, starts below the last timestep
    trailing   round(count - i count / steps) - 1         starts at the last timestep: right for few steps
    linspace   round((count - 1) (1 - i / (steps - 1)))   both; one step is the last timestep
    """
    i = np.arange(steps, dtype=np.float64)
    if spacing == "leading":
        return (steps - 1 - i) * (count // steps)
    if spacing == "trailing":
        return np.round(count - i * (count / steps)) - 1
    if spacing == "linspace":
        index = np.linspace(0, count - 1, steps)[::-1] if steps > 1 else np.array([count - 1.0])
        return np.round(index) if rounded else index.copy()
    raise ArgumentError("spacing", spacing, "leading, trailing or linspace")


def reach(schedule: Schedule, strength: float) -> int:
    """How many of the schedule's timesteps lie within its cleanest `strength`: at least one."""
    return max(1, round(len(schedule) * number("strength", strength, 0, 1, open_low=True)))


def _budget(steps: int, limit: int, strength: float) -> int:
    why = " model calls, one per timestep" + (f" within strength {exact(strength)}" if strength < 1 else "")
    return integer("steps", steps, 1, limit, why)


def _final_level(schedule: Schedule, final: str, signal: float, noise: float) -> tuple[float, float]:
    """Where a last call made at these scales lands: clean, or at the schedule's first level.

    A call at that level but for its rounding lands where it is.
    """
    if not one_of(final, ("clean", "first")):
        raise ArgumentError("final", final, "'clean' or 'first'")
    if final == "clean":
        return 1.0, 0.0
    first, last = float(schedule.sigmas[0]), noise / signal if signal > 0 else np.inf
    if np.isinf(first) or last < first * (1 - FLOAT32):
        allowed = f"'clean': the last call is at sigma = {last:.3g}, not above the schedule's first level, {first:.3g}"
        raise ArgumentError("final", final, allowed)
    return (float(schedule.signal_scale[0]), float(schedule.noise_scale[0])) if last > first else (signal, noise)


def _scales(kind: Kind, sigmas: Array, sigma_data: float | None = None) -> tuple[Array, Array]:
    """The scales at Karras time sigma: vp (1, sigma) / sqrt(1 + sigma^2), flow (1, sigma) / (1 + sigma).

    trig: sigma_data times the noise of vp at sigma / sigma_data.
    """
    if kind == "trig":
        unit = sigma_data or 1.0
        signal_scale, noise_scale = _scales("vp", sigmas / unit)
        return signal_scale, unit * noise_scale
    if kind == "ve":
        return np.ones_like(sigmas), sigmas
    with np.errstate(divide="ignore"):
        signal_scale = 1 / np.sqrt(1 + sigmas**2) if kind == "vp" else 1 / (1 + sigmas)
    finite = np.where(np.isinf(sigmas), 1.0, sigmas)
    return signal_scale, np.where(np.isinf(sigmas), 1.0, finite * signal_scale)
