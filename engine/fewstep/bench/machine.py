"""What a number was measured on, in words that name no host."""

import importlib.metadata
import os
import platform
import re
import sys
from pathlib import Path

import torch

from fewstep.run.backends.processor import cpu_name
from fewstep.version import __version__

PACKAGES = ("torch", "diffusers", "openvino", "numpy")


def describe_machine(device: torch.device) -> dict[str, object]:
    """Hardware, versions and threads; `load` is the machine's 1-minute load average before the run."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "fewstep": __version__,
        **{name: _version(name) for name in PACKAGES},
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def peak_memory() -> int:
    """The most memory this process has had resident, in bytes."""
    try:
        # Not ru_maxrss: on Linux a process inherits that of the one that started it.
        found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
