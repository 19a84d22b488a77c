"""The shift of a flow: more of its calls where there is more noise, as larger pictures need."""

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from fewstep.checks import integer, number
from fewstep.diffusion.ladders import Array
from fewstep.diffusion.schedules import Schedule
from fewstep.errors import ArgumentError

MAX_SHIFT: Final = 1e3
MAX_TOKENS: Final = 2**31
OPTIONS: Final = ("shift", "mu")


def dynamic_mu(
    tokens: int, base_shift: float = 0.5, max_shift: float = 1.15, base_tokens: int = 256, max_tokens: int = 4096
) -> float:
    """mu, the logarithm of the shift, for a picture of so many latent tokens: the option `mu` of a flow's spacing.

    mu = base_shift + (max_shift - base_shift) (tokens - base_tokens) / (max_tokens - base_tokens)

    The released code of Flux and what diffusers' FlowMatchEulerDiscreteScheduler calls dynamic shifting. The defaults
    are Flux's; a token is a patch of 2 x 2 latent pixels there, so a picture of 1024 x 1024 has 4096.
    """
    tokens = integer("tokens", tokens, 1, MAX_TOKENS)
    low = integer("base_tokens", base_tokens, 1, MAX_TOKENS - 1)
    high = integer("max_tokens", max_tokens, low + 1, MAX_TOKENS)
    limit = math.log(MAX_SHIFT)
    start = number("base_shift", base_shift, -limit, limit)
    return start + (number("max_shift", max_shift, -limit, limit) - start) * (tokens - low) / (high - low)


def shifted(sigmas: Array, shift: float) -> Array:
    """shift sigma: in Karras time a shift is a factor, for of a flow's u it makes shift u / (1 + (shift - 1) u).

    Esser et al., Scaling Rectified Flow Transformers for High-Resolution Image Synthesis (2403.03206), equation 23.
    """
    return sigmas * shift


def chosen_shift(schedule: Schedule, options: Mapping[str, Any]) -> float | None:
    """The shift that a spacing's options name, as itself or as mu = ln shift; None where they do not.

    Raises:
        ArgumentError: both of them, one out of range, or a schedule that is no flow.
    """
    asked = {name: options[name] for name in OPTIONS if options.get(name) is not None}
    if not asked:
        return None
    name, value = asked.popitem()
    if asked:
        raise ArgumentError(name, value, "nothing beside shift, whose logarithm it is")
    if schedule.kind != "flow":
        raise ArgumentError(name, value, f"nothing on a {schedule.name} schedule: it is for a flow")
    if name == "mu":
        return math.exp(number(name, value, -math.log(MAX_SHIFT), math.log(MAX_SHIFT)))
    return number(name, value, 1 / MAX_SHIFT, MAX_SHIFT)


def own_shift(schedule: Schedule) -> float:
    """The shift that a flow was trained with."""
    return float(schedule.parameters.get("shift", 1.0))


def stretched(noise_scale: Array, terminal: float) -> Array:
    """1 - (1 - noise_scale) (1 - terminal) / (1 - noise_scale[-1]), whose last is `terminal`; one alone is kept.

    HaCohen et al., LTX-Video (2501.00103), released code; diffusers' shift_terminal.
    """
    if len(noise_scale) == 1:
        return noise_scale
    signal_scale = 1 - noise_scale
    return np.asarray(1 - signal_scale * (1 - terminal) / signal_scale[-1])
