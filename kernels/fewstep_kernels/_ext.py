"""The compiled CUDA module, loaded at first use, and why it is not there: the only file that imports `_C`."""

import functools
import importlib
from types import ModuleType
from typing import NamedTuple

import torch

from fewstep_kernels.attention_call import Call

OLDEST_DRIVER = 13000  # CUDA's number: the runtime inside _C needs a driver of CUDA 13, 580 or newer
OLDEST_ARCH = (8, 0)  # the first with cp.async, and with mma.sync of bfloat16


class Extension(NamedTuple):
    """The module, or None and why."""

    module: ModuleType | None
    why_not: str | None


@functools.cache
def extension() -> Extension:
    """Load fewstep_kernels._C; whether it is there is settled for the life of the process."""
    name = "fewstep_kernels._C"
    try:
        return Extension(importlib.import_module(name), None)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return Extension(None, f"{name} is not built; `make build` does it where there is nvcc")
    except ImportError as error:
        return Extension(None, f"{name} does not load: {error}")


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
        has = f"{driver // 1000}.{driver % 1000 // 10}"
        return f"the driver is of CUDA {has}, and fewstep_kernels._C needs one of CUDA 13.0 (580) or newer"
    return None


@functools.cache
def head_dim_refusal(D: int) -> str | None:
    """Why the CUDA module has no kernel for a head dim; None if it has one, or is not there."""
    module, _ = extension()
    if module is None or module.head_dims()[-1] >= D:
        return None
    built = ", ".join(map(str, module.head_dims()))
    return (
        f"the head dim {D} is above all that fewstep_kernels._C was built for, {built}; FEWSTEP_HEAD_DIMS=all adds some"
    )


def designs(D: int) -> list[str]:
    """The designs of sm_90's kernel that the CUDA module has for a head dim, the default first; none without it."""
    module, _ = extension()
    return [] if module is None else list(module.designs(D))


def attention_fwd(call: Call, device: torch.device, arch: int | None = None) -> None:
    """Put a call on the current stream of its device; `arch` 80 takes the kernels of sm_80 on a newer one as well."""
    module, why_not = extension()
    if module is None:
        raise RuntimeError(why_not)
    with torch.cuda.device(device):
        arch = architecture(device) if arch is None else arch
        module.attention_fwd(*call, _multiprocessors(device), arch, torch.cuda.current_stream(device).cuda_stream)


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@functools.cache
def architecture(device: torch.device) -> int:
    """Of a CUDA device, as 80 or 90."""
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
