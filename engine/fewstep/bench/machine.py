"""What a number was measured on, in words that name no host."""

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import torch

from fewstep.run.backends.processor import cpu_name
from fewstep.version import __version__

PACKAGES = ("torch", "diffusers", "openvino", "onnxruntime", "numpy", "triton")
SETTINGS = ("OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "OMP_WAIT_POLICY", "KMP_AFFINITY", "KMP_BLOCKTIME")
FREQUENCY = Path("/sys/devices/system/cpu/cpu0/cpufreq")
ASKED = ("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.limit")  # of the GPU's driver
CHANGES = ("date", "load", "load_after", "mhz", "clocks.sm", "clocks.mem")  # on the same machine, from hour to hour


def describe_machine(device: torch.device) -> dict[str, object]:
    """Hardware, versions and threads, and on a GPU its driver and its clocks as they are found; nothing is set.

    `load` is the machine's 1-minute load average before the run, `omp` what the environment says of OpenMP's threads.
    """
    return {
        "date": date.today().isoformat(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "fewstep": __version__,
        **{name: _version(name) for name in PACKAGES},
        "cuda": torch.version.cuda,
        "omp": {name: os.environ[name] for name in SETTINGS if name in os.environ},
        "governor": _read(FREQUENCY / "scaling_governor"),
        "mhz": _mhz(),
        "load": load(),
        **_gpu(device),
    }


def lasting(machine: Mapping[str, object]) -> dict[str, object]:
    """What of a description is the same as long as the machine and what is installed on it are."""
    return {name: value for name, value in machine.items() if name not in CHANGES}


def load() -> float | None:
    """The machine's load average of the last minute, where the system tells."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


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


def _gpu(device: torch.device) -> dict[str, object]:
    if device.type != "cuda":
        return {}
    properties = torch.cuda.get_device_properties(device)
    return {
        "capability": list(torch.cuda.get_device_capability(device)),
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": getattr(properties, "L2_cache_size", 0),
        "memory_bytes": properties.total_memory,
        **_told_by_driver(device.index or 0),
    }


def _told_by_driver(index: int) -> dict[str, str]:
    command = ["nvidia-smi", f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader", f"--id={index}"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    values = found.stdout.strip().split(", ")
    return dict(zip(ASKED, values, strict=True)) if found.returncode == 0 and len(values) == len(ASKED) else {}


def _mhz() -> float | None:
    """Of the first core, now."""
    kilohertz = _read(FREQUENCY / "scaling_cur_freq")
    if kilohertz:
        return int(kilohertz) / 1000
    found = re.search(r"^cpu MHz\s*:\s*([\d.]+)$", _read(Path("/proc/cpuinfo")) or "", re.MULTILINE)
    return float(found[1]) if found else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
