"""The backends by name, and which of them a caller means."""

import os
from typing import Final, Literal

import torch

from fewstep.checks import named, one_of, whole
from fewstep.errors import ArgumentError

BackendName = Literal["auto", "torch", "compile", "openvino"]
BACKENDS: Final = {
    "torch": "torch's own ops, one after the other; on a CPU with weights packed for it",
    "compile": "torch.compile, on a CPU; takes a minute to make ready, and a C++ compiler",
    "openvino": "OpenVINO, on a CPU; takes some seconds to make ready; pip install 'fewstep[cpu]'",
}
ENVIRONMENT: Final = "FEWSTEP_BACKEND"  # what "auto" means, where it is set
MAX_THREADS: Final = 1024


def backend_asked(backend: object, device: torch.device, dtype: torch.dtype) -> str:
    """The backend of a name for a network on a device; "auto" as it is where nothing else is said.

    Raises:
        ArgumentError: another name, or a backend that does not run on this device or in this dtype.
    """
    if not one_of(backend, ("auto", *BACKENDS)):
        raise ArgumentError("backend", backend, named(("auto", *BACKENDS), backend))
    meant = str(backend)
    if meant == "auto":
        meant = os.environ.get(ENVIRONMENT) or "auto"
        if meant not in ("auto", *BACKENDS):
            raise ArgumentError(ENVIRONMENT, meant, ", ".join(("auto", *BACKENDS)))
        possible = device.type == "cpu" and dtype in (torch.float32, torch.bfloat16)
        return meant if possible else "torch"
    if meant != "torch" and device.type != "cpu":
        raise ArgumentError("backend", meant, f"torch on {device.type}, where graphs replay it: others run on a CPU")
    if meant != "torch" and dtype not in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        raise ArgumentError("backend", meant, f"torch in {name}: others run in float32 or bfloat16")
    return meant


def threads_asked(threads: object, backend: str) -> int | None:
    """How many threads a backend takes; None for torch's own number.

    Raises:
        ArgumentError: no whole number from 1 to 1024; or one for torch, whose threads are set for all that it does.
    """
    if threads is None:
        return None
    count = whole(threads)
    if count is None or not 1 <= count <= MAX_THREADS:
        raise ArgumentError("threads", threads, f"None, or an integer from 1 to {MAX_THREADS}")
    if backend in ("torch", "compile"):
        raise ArgumentError("threads", threads, f"None with backend {backend}: torch.set_num_threads says it for torch")
    return count
