"""What can be told of a scheduler before it is run."""

import inspect
from collections.abc import Collection
from typing import Any

from fewstep.diffusion.tracing.refused import RefusedError

# What a pipeline hands to `step`, by its names.
HANDED = (
    "model_output",
    "timestep",
    "sample",
    "return_dict",
    "prev_timestep",
    "timestep_back",
    "old_pred_original_sample",
)


def look_at(scheduler: Any) -> None:
    """Raises RefusedError for what is no scheduler of numbers that a plan could be made of."""
    if isinstance(scheduler, type):
        raise RefusedError(f"it is the class {scheduler.__name__} itself; {scheduler.__name__}() makes one of it")
    for name in ("set_timesteps", "step"):
        if not callable(getattr(scheduler, name, None)):
            raise RefusedError(f"it has no {name}")
    sample = inspect.signature(scheduler.step).parameters.get("sample")
    if sample is not None and "LongTensor" in str(sample.annotation):
        raise RefusedError("its samples are tokens")


def look_at_step(scheduler: Any, options: Collection[str]) -> None:
    """Raises RefusedError where `step` needs what neither a pipeline's loop nor `options` has."""
    parameters = inspect.signature(scheduler.step).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if missing := [name for name in needed if name not in (*HANDED, *options)]:
        raise RefusedError(f"its step needs {', '.join(missing)} beside x, a time and what the network answers")


def optional_inputs(scheduler: Any) -> list[str]:
    """What else `step` takes, and has no value for unless it is given."""
    parameters = inspect.signature(scheduler.step).parameters.values()
    return [p.name for p in parameters if p.default is None and p.name not in (*HANDED, "generator")]
