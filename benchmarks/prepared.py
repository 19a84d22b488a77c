"""The CUDA modules that `make gpu` runs, for this Python and this device: from the kit, or built here.

`library` is fewstep_kernels._C, `smoke` the same kernels with a limit on every wait, so that a hang ends and is named,
`sweep` other designs of them, and `probes` what golden.py asks.
"""

import functools
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import torch
from measure import ROOT

sys.path.append(str(ROOT / "csrc"))
import cuda_build
import kit
from ninja_build import BuildError

NAMES = ("library", "smoke", "sweep", "probes")
NATIVE = (8, 9)  # major versions of devices that run the kit's machine code
HOPPER = (9, 0)

HEAD_DIMS = cuda_build.U_NETS  # of every build that is not asked for others

__all__ = ["HEAD_DIMS", "HOPPER", "NAMES", "BuildError", "emulator_answers", "is_for", "module", "path_of"]

emulator_answers = kit.emulator_answers


def is_for(name: str, capability: tuple[int, int]) -> bool:
    """Whether a device has a use for a module."""
    return name != "probes" or capability == HOPPER


def path_of(name: str, capability: tuple[int, int]) -> Path:
    """The module's file; for a device that would have to compile PTX at the first call, built here for that device.

    Raises:
        BuildError: it can be had in no way.
    """
    if name != "probes" and capability[0] not in NATIVE:
        os.environ["FEWSTEP_CUDA_ARCHS"] = f"{capability[0]}{capability[1]}"
        return cuda_build.build_cuda(ROOT / "build" / "cuda", cuda_build.MODULES[name])
    return kit.prepared(name)


@functools.cache
def module(name: str) -> ModuleType:
    """A module, loaded for the first device."""
    path = path_of(name, torch.cuda.get_device_capability(0))
    return loaded(name, path)


def loaded(name: str, path: Path) -> ModuleType:
    """A module from its file; those of the same sources are all called _C inside."""
    inside = path.name.split(".")[0]
    spec = importlib.util.spec_from_file_location(f"{name}.{inside}", path)
    if spec is None or spec.loader is None:
        raise BuildError(f"{path.name} is no extension module")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found
