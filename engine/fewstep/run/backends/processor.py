"""The processor that a number was measured on, in words that name no host."""

import functools
import hashlib
import platform
import re
from pathlib import Path

import torch


def cpu_name() -> str:
    """The CPU's own name, or the architecture's where it does not tell."""
    found = _told("model name")
    return found or platform.processor() or platform.machine()


def cpu_features() -> str:
    """Digits that differ between CPUs with different instructions; two of one name may, in a virtual machine."""
    flags = " ".join(sorted((_told("flags") or _told("Features")).split()))
    told = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {flags}"
    return hashlib.sha256(told.encode()).hexdigest()[:16]


@functools.cache
def _told(name: str) -> str:
    """What Linux says of the first CPU; nothing elsewhere."""
    try:
        found = re.search(rf"^{name}\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        return ""
    return " ".join(found[1].split()) if found else ""
