"""A dtype as it goes to another process: by its name."""

import torch

from fewstep.errors import ArgumentError


def dtype_of(name: str | None) -> torch.dtype | None:
    """By its name.

    Raises:
        ArgumentError: no floating-point type of that name.
    """
    dtype = None if name is None else getattr(torch, name, None)
    if name is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ArgumentError("dtype", name, "float32, bfloat16, float16 or float64")
    return dtype
