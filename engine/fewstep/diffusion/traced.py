"""Plans read off diffusers' schedulers: any that is linear in x, in what the network answers and in normal noise."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fewstep.checks import named
from fewstep.diffusion.forward import network
from fewstep.diffusion.ladders import Array
from fewstep.diffusion.levels import Levels
from fewstep.diffusion.schedules import Kind
from fewstep.diffusion.times import OF_SIGMA, time_of_sigma
from fewstep.diffusion.tracing.conventions import convention, prediction_of, setting
from fewstep.diffusion.tracing.landing import landing
from fewstep.diffusion.tracing.prepare import Prepared, prepare
from fewstep.diffusion.tracing.probe import Probe, probe
from fewstep.diffusion.tracing.refused import RefusedError
from fewstep.diffusion.tracing.sight import HANDED, look_at, look_at_step
from fewstep.diffusion.tracing.solve import Estimates, solve
from fewstep.errors import ArgumentError

if TYPE_CHECKING:
    from fewstep.diffusion.plan import Plan

FLOAT32 = 1e-5  # what two numbers of a scheduler may differ by that are one: it keeps both in float32
TAKEN = (*HANDED, "num_inference_steps", "timesteps", "sigmas", "mu", "device", "generator", "strength", "r_timestep")


def trace(
    cls: type[Plan],
    scheduler: Any,
    steps: int | None,
    given: Mapping[str, Any],
    strength: float,
    options: Mapping[str, Any],
) -> Plan:
    """What `Plan.from_diffusers` says; `cls` is Plan, `given` are its timesteps, sigmas and mu."""
    try:
        look_at(scheduler)
        of_step, of_timesteps = _sorted(scheduler, options)
        look_at_step(scheduler, of_step)
        given = {name: value for name, value in given.items() if value is not None}
        prepared = prepare(scheduler, steps, strength, given, of_timesteps)
        return _plan(cls, prepared, probe(prepared, of_step), _spacing(scheduler, given), strength)
    except RefusedError as reason:
        allowed = "one whose step is linear in x, in what the network answers and in normal noise"
        raise ArgumentError(
            "scheduler", f"{type(scheduler).__name__}, of which no plan is made: {reason}", allowed
        ) from reason


def _plan(cls: type[Plan], prepared: Prepared, maps: Probe, spacing: str, strength: float) -> Plan:
    scheduler = prepared.scheduler
    t = np.array([float(each) for each in prepared.timesteps])
    kind = _kind(maps, setting(scheduler, "prediction_type"))
    prediction = prediction_of(scheduler, kind == "flow")
    if prediction is None:
        raise RefusedError("it does not say what its network predicts, in a word that is known here")
    of_data = setting(scheduler, "sigma_data") if prediction in ("edm", "v") else None
    if of_data is not None and convention(scheduler).in_units_of_data:
        maps.c_in, maps.m = maps.c_in / of_data, maps.m * of_data
    if not (maps.noise_scale > 0).all():
        raise RefusedError("it calls the network where there is no noise")
    x_0 = _estimates(scheduler, maps, prediction, of_data)
    columns = solve(maps, x_0)
    signal, noise = landing(columns, maps, x_0, kind, of_data)
    levels = Levels(
        t,
        np.append(maps.signal_scale, signal),
        np.append(maps.noise_scale, noise),
        kind,
        spacing,
        _time(scheduler, t, maps, kind, of_data),
        sigma_data=of_data,
        scale=maps.c_in if of_data is None and kind == "ve" else None,
    )
    learned = bool(np.isfinite(maps.log_var_min).any())
    rows: dict[str, Any] = {
        "c_in": maps.c_in,
        "k_x": x_0.k_x,
        "k_m": x_0.k_m,
        "a": columns.a,
        "b": columns.b,
        "e": columns.e,
        "s": np.where(columns.s != 0, 1.0, 0.0) if learned else columns.s,
        "clip": maps.limit,
        "clip_ratio": maps.ratio,
        "r": _second_times(prepared, t),
    }
    rows |= {f"c_{j + 1}": columns.c[:, j] for j in range(columns.c.shape[1])}
    rows |= dict(zip(("h_x", "h_0", "h_m"), columns.h.T, strict=True))
    if learned:
        rows |= {"log_var_min": maps.log_var_min, "log_var_max": maps.log_var_max}
    return cls.build(
        type(scheduler).__name__,
        prediction,
        levels,
        init_scale=_init_scale(scheduler, of_data) if strength == 1 else None,
        history=columns.history,
        learned_variance=learned,
        closed=columns.closed,
        **rows,
    )


def _sorted(scheduler: Any, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of `step` and those of `set_timesteps`."""
    of_step, of_timesteps = (
        [name for name in inspect.signature(call).parameters if name not in TAKEN]
        for call in (scheduler.step, scheduler.set_timesteps)
    )
    for option, value in options.items():
        if option not in (*of_step, *of_timesteps):
            allowed = dict.fromkeys([*of_step, *of_timesteps])
            what = f"an option of {type(scheduler).__name__}: {named(allowed, option)}" if allowed else "nothing"
            raise ArgumentError(option, value, what)
    first = {name: value for name, value in options.items() if name in of_step}
    return first, {name: value for name, value in options.items() if name not in of_step}


def _spacing(scheduler: Any, given: Mapping[str, Any]) -> str:
    """How its levels were chosen, in our words."""
    if "timesteps" in given or "sigmas" in given:
        return "explicit"
    for ladder in ("karras", "exponential", "beta"):
        if setting(scheduler, f"use_{ladder}_sigmas", False):
            return ladder
    return str(setting(scheduler, "timestep_spacing") or setting(scheduler, "sigma_schedule") or "its own")


def _kind(maps: Probe, prediction_type: object) -> Kind:
    """The coordinates of x, by the scales at every call."""
    signal, noise = maps.signal_scale, maps.noise_scale
    if prediction_type == "trigflow":
        return "trig"
    if (signal == 1).all():
        return "ve"
    flow, vp = (bool(np.abs(each - 1).max() <= FLOAT32) for each in (signal + noise, signal**2 + noise**2))
    if not flow and not vp:
        raise RefusedError("its noise levels are of no kind that is known here")
    # One call where no signal is left is of both kinds.
    return "flow" if flow and (not vp or prediction_type in (None, "flow_prediction")) else "vp"


def _estimates(scheduler: Any, maps: Probe, prediction: str, of_data: float | None) -> Estimates:
    """k_x and k_m: of what is clipped as it is, of the rest as its network's prediction has them."""
    signal, noise = maps.signal_scale, maps.noise_scale
    if prediction == "consistency":
        scalings = [scheduler.get_scalings_for_boundary_condition(sigma) for sigma in noise]
        k_x, k_m = (np.array([float(each[i]) for each in scalings]) for i in range(2))
    elif prediction == "-flow":
        k_x, k_m = 1 / (signal + noise), noise / (signal + noise)
    else:
        of_network = network(prediction, signal, noise, of_data, maps.c_in)
        k_x, k_m = of_network.k_x, of_network.k_m
    clipped = np.isfinite(maps.limit)
    return Estimates(np.where(clipped, maps.k_x, k_x), np.where(clipped, maps.k_m, k_m), k_x, k_m, clipped)


def _time(scheduler: Any, t: Array, maps: Probe, kind: Kind, of_data: float | None) -> str:
    """What t counts, in our words; "the scheduler's own" for what has none."""
    with np.errstate(divide="ignore"):
        sigma = maps.noise_scale / maps.signal_scale
    if kind == "flow":
        words = {"unit": maps.noise_scale, "1 - noise_scale": maps.signal_scale}
        return next((word for word, known in words.items() if _near(t, known)), "timestep")
    if setting(scheduler, "beta_start") is not None:
        return "timestep"
    for word in OF_SIGMA:
        if _near(t, time_of_sigma(sigma, word, of_data or 1.0)):
            return word
    indices = hasattr(scheduler, "alphas_cumprod") or hasattr(scheduler, "sqrt_alphas_cumprod")
    return "timestep" if indices else "the scheduler's own"


def _near(t: Array, known: Array) -> bool:
    return bool(np.allclose(t, known, rtol=FLOAT32, atol=FLOAT32))


def _second_times(prepared: Prepared, t: Array) -> Array:
    """r: where the row lands, for a flow map, whose `step` takes a second timestep; t itself for a slope."""
    is_map = "r_timestep" in inspect.signature(prepared.scheduler.step).parameters
    return np.append(t[1:], 0.0) if is_map else t


def _init_scale(scheduler: Any, of_data: float | None) -> float:
    """What z is multiplied by to be the first x of a run from noise."""
    scale = float(getattr(scheduler, "init_noise_sigma", 1.0))
    in_units = of_data is not None and convention(scheduler).in_units_of_data
    return scale * of_data if in_units and of_data is not None else scale
