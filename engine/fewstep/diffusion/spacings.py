"""Spacings: which of a schedule's noise levels a run visits, by the name of a rule and its options."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from fewstep.checks import entries, exact, flag, integer, named, number, one_of, whole
from fewstep.diffusion.align_your_steps import align_your_steps_sigmas
from fewstep.diffusion.ladders import (
    MAX_SIGMA,
    MAX_TIMESTEPS,
    Array,
    beta_sigmas,
    exponential_sigmas,
    karras_sigmas,
    polyexponential_sigmas,
)
from fewstep.diffusion.levels import Levels, Timesteps, reach
from fewstep.diffusion.schedules import Schedule
from fewstep.diffusion.shifts import chosen_shift, own_shift, shifted, stretched
from fewstep.errors import ArgumentError

LADDERS: Final[dict[str, Callable[..., Array]]] = {
    "karras": karras_sigmas,
    "exponential": exponential_sigmas,
    "polyexponential": polyexponential_sigmas,
    "beta": beta_sigmas,
}
TWO_STEPS: Final = 1.3  # the angle of the second of two calls, where TrigFlow students have it
LEAST: Final = 1e-6  # an angle, or a share of noise, below which float32 sees none

LEVEL_OPTIONS: Final[dict[str, tuple[str, ...]]] = {
    "leading": ("offset", "final", "shift", "mu", "skip_last"),
    "trailing": ("final", "shift", "mu"),
    "linspace": ("final", "shift", "mu", "skip_last"),
    "lcm": ("original_steps", "final"),
    "karras": ("sigma_min", "sigma_max", "rho", "final"),
    "exponential": ("sigma_min", "sigma_max", "final"),
    "polyexponential": ("sigma_min", "sigma_max", "rho", "final"),
    "beta": ("sigma_min", "sigma_max", "alpha", "beta", "final"),
    "ays": ("table", "final"),
    "flow_even": ("shift", "mu", "shift_terminal", "ladder", "final"),
    "flow_match": ("shift", "mu", "shift_terminal", "ladder", "final"),
    "trigflow": ("t_max", "intermediate", "final"),
}


def make_levels(
    schedule: Schedule,
    steps: int,
    spacing: str | Timesteps,
    strength: float = 1.0,
    fractional: bool = False,
    above: bool = False,
    **options: Any,
) -> Levels:
    """The levels a spacing names, or through a list of timesteps; options are those of LEVEL_OPTIONS.

    Unless told otherwise, the sigmas of a ladder run between the schedule's own ends (at `strength`). With `above`, the
    lower of these is where the last call would land and not where it is made: of steps + 1 sigmas down to it the first
    `steps` are called. That is for models that have nothing to say there. A shift moves what `strength` leaves, its
    beginning too.
    """
    if not isinstance(spacing, str):
        return _listed(schedule, steps, spacing, strength, **options)
    if not one_of(spacing, LEVEL_OPTIONS):
        raise ArgumentError("spacing", spacing, named(LEVEL_OPTIONS, spacing) + ", or a list of timesteps")
    if spacing == "lcm":
        return Levels.lcm(schedule, steps, strength=strength, **options)
    if spacing in LADDERS:
        return _ladder(schedule, steps, spacing, strength, above, **options)
    if spacing in OF_THEIR_OWN:
        return OF_THEIR_OWN[spacing](schedule, integer("steps", steps, 1, MAX_TIMESTEPS), strength, **options)
    return _timesteps(schedule, steps, spacing, strength, fractional, **options)


def _listed(schedule: Schedule, steps: int, timesteps: Timesteps, strength: float, **options: Any) -> Levels:
    """A list of timesteps."""
    listed = entries(timesteps)
    if listed is None:
        raise ArgumentError("spacing", timesteps, ", ".join(LEVEL_OPTIONS) + ", or a list of timesteps")
    if len(listed) != whole(steps):
        raise ArgumentError("steps", steps, f"{len(listed)}, the number of timesteps given as spacing")
    if number("strength", strength, 0, 1, open_low=True) != 1.0:
        raise ArgumentError("strength", strength, "1.0 with explicit timesteps: the first is the start")
    return Levels.explicit(schedule, listed, **options)


def _timesteps(
    schedule: Schedule, steps: int, spacing: str, strength: float, fractional: bool, **options: Any
) -> Levels:
    """Leading, trailing or linspace timesteps; on a flow with another shift in place of that of its training.

    With `skip_last` they are those of one step more without the last, as diffusers' multistep schedulers have them.
    """
    shift, skips = chosen_shift(schedule, options), flag("skip_last", options.get("skip_last", False))
    own = {name: value for name, value in options.items() if name not in ("shift", "mu", "skip_last")}
    if skips:
        steps = integer("steps", steps, 1, max(reach(schedule, strength) - 1, 1), " with skip_last")
    count = steps + 1 if skips else steps
    levels = Levels.spaced(schedule, count, spacing, strength=strength, fractional=fractional, **own)
    if skips:
        levels = levels.visited([*range(steps), count])
    if shift is None or shift == own_shift(schedule):
        return levels
    sigmas = shifted(levels.sigmas[:-1], shift / own_shift(schedule))
    return Levels.of_sigmas(sigmas, schedule, spacing, own.get("final", "clean"))


def _ladder(
    schedule: Schedule, steps: int, spacing: str, strength: float, above: bool, final: Any = "clean", **options: Any
) -> Levels:
    """Sigmas between two ends."""
    steps = integer("steps", steps, 1, MAX_TIMESTEPS)
    ends = {"sigma_min": schedule.lowest, "sigma_max": schedule.sigmas[reach(schedule, strength) - 1]} | options
    if "sigma_max" not in options and np.isinf(ends["sigma_max"]):
        raise ArgumentError("sigma_max", "inf, the schedule's own", "a finite number, given as an option")
    if "sigma_max" not in options:
        _check_own_start(schedule, ends, strength, steps + above)
    beyond = above and "sigma_min" not in options
    return Levels.of_sigmas(LADDERS[spacing](steps + beyond, **ends)[:steps], schedule, spacing, final)


def _ays(schedule: Schedule, steps: int, strength: float, table: Any = "sd15", final: Any = "clean") -> Levels:
    """`align_your_steps_sigmas`, from the schedule's own highest on (at `strength`)."""
    sigmas = align_your_steps_sigmas(steps, table, float(schedule.sigmas[reach(schedule, strength) - 1]))
    if not schedule.has_exact_time and sigmas[-1] < schedule.lowest:
        allowed = f"one that ends above sigma = {exact(schedule.lowest)}, the lowest of the {schedule.name} schedule"
        raise ArgumentError("table", f"{table}, which with {steps} steps reaches sigma = {sigmas[-1]:.3g}", allowed)
    return Levels.of_sigmas(sigmas, schedule, "ays", final)


def _flow_even(schedule: Schedule, steps: int, strength: float, **options: Any) -> Levels:
    """Even noise scales down to the clean end, then shifted, unrounded:

    noise_scale = shift u / (1 + (shift - 1) u),    u = strength (1 - i / steps)

    What diffusers' FlowMapEulerDiscreteScheduler runs, and its pipelines of Flux and others, which hand the scheduler
    1 .. 1 / steps. The shift is the schedule's own unless `shift` or `mu` say another.
    """
    _check_flow(schedule, "flow_even")
    share = reach(schedule, strength) / len(schedule)
    return _flow(schedule, share * (1 - np.arange(steps) / steps), "flow_even", **options)


def _flow_match(schedule: Schedule, steps: int, strength: float, **options: Any) -> Levels:
    """Even noise scales between the ends of a flow, then shifted: where it was trained with a shift, once more.

    noise_scale = shift u / (1 + (shift - 1) u),    u = linspace(noise_scale[T - 1], noise_scale[0], steps)

    What diffusers' FlowMatchEulerDiscreteScheduler runs unless it is handed sigmas, so what a folder's config means.
    """
    _check_flow(schedule, "flow_match")
    high, low = float(schedule.noise_scale[reach(schedule, strength) - 1]), float(schedule.noise_scale[0])
    if high == low and steps > 1:
        raise ArgumentError("strength", strength, f"more: within it lies one level, and not {steps}")
    return _flow(schedule, np.linspace(high, low, steps), "flow_match", **options)


def _check_flow(schedule: Schedule, spacing: str) -> None:
    if schedule.kind != "flow":
        raise ArgumentError("spacing", spacing, f"others on a {schedule.name} schedule: this one is for a flow")


def _flow(
    schedule: Schedule,
    u: Array,
    spacing: str,
    shift_terminal: Any = None,
    ladder: Any = None,
    final: Any = "clean",
    **options: Any,
) -> Levels:
    """Noise scales with a shift; `shift_terminal` stretches them to end there.

    `ladder` puts one of LADDERS between their ends, over the noise scale and not over Karras time.
    """
    shift = chosen_shift(schedule, options)
    with np.errstate(divide="ignore"):
        sigmas = shifted(u / (1 - u), own_shift(schedule) if shift is None else shift)
    if shift_terminal is not None or ladder is not None:
        noise_scale = 1 / (1 + 1 / sigmas)
        if shift_terminal is not None:
            terminal = number("shift_terminal", shift_terminal, LEAST, 1, open_high=True)
            noise_scale = stretched(noise_scale, terminal)
        if ladder is not None:
            if not one_of(ladder, LADDERS):
                raise ArgumentError("ladder", ladder, named(LADDERS, ladder))
            noise_scale = LADDERS[ladder](len(u), float(noise_scale[-1]), float(noise_scale[0]))
        with np.errstate(divide="ignore"):
            sigmas = noise_scale / (1 - noise_scale)
    return Levels.of_sigmas(sigmas, schedule, spacing, final)


def _trigflow(
    schedule: Schedule,
    steps: int,
    strength: float,
    t_max: Any = None,
    intermediate: Any = None,
    final: Any = "clean",
) -> Levels:
    """t = t_max (1 - i / steps), where t = atan(sigma / sigma_data) is the angle of TrigFlow; sigma_data is 1 unsaid.

    The second of two is `intermediate`, 1.3 unless told, as SANA-Sprint was trained and diffusers' SCMScheduler has it;
    with another number of steps there is none. Lu and Song, Simplifying, Stabilizing and Scaling Continuous-Time
    Consistency Models (2410.11081); Chen et al., SANA-Sprint (2503.09641).
    """
    unit = 1.0 if schedule.sigma_data is None else schedule.sigma_data
    highest = float(schedule.sigmas[reach(schedule, strength) - 1])
    own = float(np.arctan(highest / unit))
    first = own if t_max is None else number("t_max", t_max, min(LEAST, own), own)
    t = first * (1 - np.arange(steps) / steps)
    if intermediate is not None:
        if steps != 2:
            raise ArgumentError("intermediate", intermediate, f"nothing with {steps} steps: it is the second of two")
        t[1] = number("intermediate", intermediate, min(LEAST, first / 2), first, open_high=True)
    elif steps == 2 and first > TWO_STEPS:
        t[1] = TWO_STEPS
    sigmas = unit * np.tan(t)
    if first == own:
        sigmas[0] = highest  # which has no signal where the tangent of a rounded right angle would leave some
    low = float(schedule.sigmas[0])
    if not schedule.has_exact_time and sigmas[-1] < low:
        allowed = f"what ends at an angle above {np.arctan(low / unit):.3g}, the lowest of the {schedule.name} schedule"
        raise ArgumentError("spacing", f"trigflow with {steps} steps, which ends at {t[-1]:.3g}", allowed)
    return Levels.of_sigmas(sigmas, schedule, "trigflow", final)


OF_THEIR_OWN: Final[dict[str, Callable[..., Levels]]] = {
    "ays": _ays,
    "flow_even": _flow_even,
    "flow_match": _flow_match,
    "trigflow": _trigflow,
}


def _check_own_start(schedule: Schedule, ends: dict[str, float], strength: float, sigmas: int) -> None:
    """ArgumentError where a ladder of so many sigmas from the schedule's own start would not fall to its end."""
    low, high = number("sigma_min", ends["sigma_min"], 0, MAX_SIGMA, open_low=True), float(ends["sigma_max"])
    if low < high or (low == high and sigmas == 1):
        return
    top = float(schedule.sigmas[-1])
    if low < top:
        allowed = f"more, so that the noise is above sigma_min = {exact(low)}; here it is sigma = {exact(high)}"
        raise ArgumentError("strength", strength, allowed)
    raise ArgumentError("sigma_min", low, f"a number in (0, {exact(top)}), the schedule's own sigma_max")
