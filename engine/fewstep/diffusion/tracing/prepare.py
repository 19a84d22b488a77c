"""A scheduler's copy, told its timesteps, so that exactly as many calls are left as were asked for."""

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.checks import as_python, integer, number, numbers
from fewstep.diffusion.tracing.refused import RefusedError
from fewstep.errors import ArgumentError

LISTS = {"timesteps", "sigmas"}
MAX_MU = 100.0  # of a shift exp(mu)
MAX_CALLS = 1000  # a basis has eight vectors for each call, and every call works on all of them


class Prepared(NamedTuple):
    """A copy of a scheduler that is ready for its first step."""

    scheduler: Any
    timesteps: tuple[Tensor, ...]  # of the N calls that will be made
    start: int  # how many of its timesteps lie before them


def prepare(
    scheduler: Any,
    steps: int | None,
    strength: float,
    given: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Prepared:
    """A wide copy after `set_timesteps`, with `steps` calls left.

    Args:
        given: timesteps, sigmas and mu, those that are not None.
        options: what else `set_timesteps` takes.
    """
    strength = number("strength", strength, 0, 1, open_low=True)
    takes = inspect.signature(scheduler.set_timesteps).parameters
    for name, value in given.items():
        if name not in takes:
            raise ArgumentError(name, value, f"nothing: {type(scheduler).__name__}.set_timesteps takes none")
    if strength < 1 and ("timesteps" in given or "sigmas" in given):
        raise ArgumentError("strength", strength, "1.0 with explicit timesteps or sigmas: the first is the start")
    given = {name: as_python(value) for name, value in given.items()}
    for name in LISTS & given.keys():
        allowed = "a list of one or more finite numbers, none of them below 0"
        if min(numbers(name, given[name], allowed), default=-1) < 0:
            raise ArgumentError(name, given[name], allowed)
    if "mu" in given:
        given["mu"] = number("mu", given["mu"], -MAX_MU, MAX_MU)
    options = dict(options) | given
    cut = 1.0 if "strength" in takes else strength
    if "strength" in takes and strength < 1:
        options["strength"] = strength

    def told(count: int | None) -> Prepared:
        return _left(_told(scheduler, count, options), count, cut)

    if steps is None:
        return told(None) if "timesteps" in given or "sigmas" in given else _as_it_is(scheduler, options, strength)
    steps = integer("steps", steps, 1, MAX_CALLS)
    if "timesteps" in given or "sigmas" in given:
        found = told(steps if _needs_count(scheduler) else None)
        if len(found.timesteps) != steps:
            raise ArgumentError("steps", steps, f"{len(found.timesteps)}, the calls that these timesteps make")
        return found
    return _with_calls(told, steps, strength)


def _with_calls(told: Callable[[int], Prepared], steps: int, strength: float) -> Prepared:
    """What `set_timesteps` makes of the least number of inference steps with which `steps` calls are left.

    The number of calls never falls with that of inference steps, up to the most that the scheduler takes.
    """
    if strength == 1 and _calls(told, steps) == steps:
        return told(steps)
    low, high = 0, _most(told, 2 * int(steps / strength) + 2)
    most = _calls(told, high)
    if not most:
        return told(high or steps)  # which says why not
    if most < steps:
        raise ArgumentError("steps", steps, f"{most} or fewer: of more this scheduler has no timesteps")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if (_calls(told, middle) or 0) >= steps else (middle, high)
    below, above = _calls(told, low), _calls(told, high)
    if above == steps:
        return told(high)
    near = " or ".join(str(each) for each in (below, above) if each)
    raise ArgumentError("steps", steps, f"{near}: this scheduler makes no other number of calls")


def _most(told: Callable[[int], Prepared], limit: int) -> int:
    """The most inference steps up to a limit that a scheduler takes, some of which take no fewer than four; or 0."""
    if _calls(told, limit) is not None:
        return limit
    low = max((n for n in (1 << i for i in range(limit.bit_length())) if _calls(told, n) is not None), default=0)
    high = min(2 * low, limit)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _calls(told, middle) is None else (middle, high)
    return low


def _calls(told: Callable[[int], Prepared], count: int) -> int | None:
    """How many calls are left of so many inference steps; None where the scheduler takes no such number."""
    if count < 1:
        return None
    try:
        return len(told(count).timesteps)
    except ArgumentError:
        return 0
    except RefusedError:
        return None


def _needs_count(scheduler: Any) -> bool:
    takes = inspect.signature(scheduler.set_timesteps).parameters
    return "num_inference_steps" in takes and takes["num_inference_steps"].default is inspect.Parameter.empty


def _told(scheduler: Any, count: int | None, options: Mapping[str, Any]) -> Any:
    own = copy.deepcopy(scheduler)
    arguments = dict(options)
    if count is not None:
        arguments["num_inference_steps"] = count
    elif _needs_count(own):
        arguments["num_inference_steps"] = len(options.get("timesteps") or options.get("sigmas") or ())
    try:
        own.set_timesteps(**arguments)
    except Exception as error:
        raise RefusedError(f"its set_timesteps says: {' '.join(str(error).split()) or type(error).__name__}") from error
    return own


def _as_it_is(scheduler: Any, options: Mapping[str, Any], strength: float) -> Prepared:
    """The scheduler as its caller has set it."""
    begun = getattr(scheduler, "step_index", None) is not None or getattr(scheduler, "counter", 0) != 0
    count = getattr(scheduler, "num_inference_steps", None)
    if begun or count is None or options or strength < 1:
        why = "a number of model calls: " + (
            "this scheduler is amid a run" if begun else "none is set in this scheduler"
        )
        raise ArgumentError("steps", None, why)
    return _left(copy.deepcopy(scheduler), count, 1.0)


def _left(own: Any, count: int | None, strength: float) -> Prepared:
    """The last calls, as image-to-image pipelines take them: of n inference steps the last int(n strength)."""
    if not isinstance(getattr(own, "timesteps", None), Tensor):
        raise RefusedError("it has no timesteps")
    _widen(own)
    timesteps = own.timesteps
    count = count or getattr(own, "num_inference_steps", None) or max(len(timesteps) - 1, 1)
    order = getattr(own, "order", 1)
    # Continuous times may end with where the last call lands.
    lands = timesteps.is_floating_point() and order == 1 and len(timesteps) == count + 1 and float(timesteps[-1]) == 0
    start = (count - min(int(count * strength), count)) * order
    calls = timesteps[start : len(timesteps) - lands]
    if len(calls) < 1:
        raise ArgumentError("strength", strength, f"more: of {count} inference steps none is left")
    if hasattr(own, "set_begin_index"):
        own.set_begin_index(start)
    return Prepared(own, tuple(calls), start)


def _widen(own: Any) -> None:
    """Its tables in float64 and on the CPU, and those of a scheduler that it holds."""
    for name, value in list(vars(own).items()):
        if isinstance(value, Tensor):
            setattr(own, name, _wide(value))
        elif hasattr(value, "set_timesteps"):
            _widen(value)


def _wide(table: Tensor) -> Tensor:
    return table.to("cpu", torch.float64) if table.is_floating_point() else table.cpu()
