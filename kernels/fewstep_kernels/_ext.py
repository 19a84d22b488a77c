"""The compiled CUDA module, loaded at first use, and why it is not there: the only file that imports `_C`."""

import functools
import importlib
from types import ModuleType
from typing import NamedTuple

import torch

OLDEST_DRIVER = 13000  # CUDA's number: the runtime that _C is built with needs a driver of CUDA 13, 580 or newer
OLDEST_ARCH = (8, 0)  # mma.sync m16n8k16, ldmatrix and cp.async


class Extension(NamedTuple):
    """The module, or None and why."""

    module: ModuleType | None
    why_not: str | None


@functools.cache
def extension() -> Extension:
    """Load fewstep_kernels._C; what it says is settled for the life of the process."""
    try:
        return Extension(importlib.import_module("fewstep_kernels._C"), None)
    except ImportError as error:
        if getattr(error, "name", None) == "fewstep_kernels._C":
            return Extension(None, "fewstep_kernels._C is not built: `make build` does it where there is nvcc")
        return Extension(None, f"fewstep_kernels._C does not load: {error}")


@functools.cache
def device_refusal(index: int) -> str | None:
    """Why the CUDA module cannot serve a device; None if it can."""
    module, why_not = extension()
    if module is None:
        return why_not
    arch = torch.cuda.get_device_capability(index)
    if arch < OLDEST_ARCH:
        return f"sm_{arch[0]}{arch[1]} is older than sm_80"
    driver: int = module.driver_version()
    if driver < OLDEST_DRIVER:
        return f"the driver has CUDA {driver // 1000}.{driver % 1000 // 10}, fewstep_kernels._C needs 13.0 or newer"
    return None


@functools.cache
def multiprocessors(index: int) -> int:
    """How many of them a device has."""
    return int(torch.cuda.get_device_properties(index).multi_processor_count)
