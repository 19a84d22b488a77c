"""What the methods share that call the model twice for a step, and once for the last: 2N - 1 calls of N levels."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fewstep.diffusion.levels import Levels
from fewstep.diffusion.schedules import Array


def twice(levels: int) -> int:
    """Two model calls from each noise level to the next, and one from the last to the end."""
    return 2 * levels - 1


def woven(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[2N - 1] the numbers of N first calls, and those of N - 1 second ones between them."""
    both = np.empty(len(first) + len(second), dtype=first.dtype)
    both[0::2], both[1::2] = first, second
    return both


def pooled(levels: Levels, sigmas: Array) -> Levels:
    """The N levels, then as many others at these Karras sigmas, then the end: what `Levels.visited` can choose from."""
    if len(sigmas) == 0:
        return levels
    others = levels.at(np.append(sigmas, levels.sigmas[-1]))

    def calls(own: Array | None, other: Array | None) -> Array | None:
        return None if own is None or other is None else np.append(own, other)

    return replace(
        levels,
        t=np.append(levels.t, others.t),
        signal_scale=np.concatenate([levels.signal_scale[:-1], others.signal_scale[:-1], levels.signal_scale[-1:]]),
        noise_scale=np.concatenate([levels.noise_scale[:-1], others.noise_scale[:-1], levels.noise_scale[-1:]]),
        index=calls(levels.index, others.index),
        scale=calls(levels.scale, others.scale),
    )
