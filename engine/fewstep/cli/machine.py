"""--device, --dtype, --backend and --threads, checked the same way by every command."""

from typing import TYPE_CHECKING

from fewstep.cli.options import DTYPES
from fewstep.errors import ArgumentError

if TYPE_CHECKING:
    import torch

MAX_THREADS = 1024


def check_device(device: str | None) -> None:
    """ArgumentError unless the device is there; None leaves the choice."""
    import torch

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    devices += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if device is not None and device not in devices:
        raise ArgumentError("device", device, " or ".join(devices))


def dtype_of(name: str) -> "torch.dtype":
    """The dtype of a name in DTYPES."""
    if name not in DTYPES:
        raise ArgumentError("dtype", name, " or ".join(DTYPES))
    import torch

    dtype: torch.dtype = getattr(torch, name)
    return dtype


def check_backend(backend: str, device: str | None, dtype: "torch.dtype") -> None:
    """ArgumentError unless a backend of the name runs there, in this dtype."""
    from fewstep.run.backends.names import backend_asked
    from fewstep.run.runner_choice import chosen_device

    backend_asked(backend, chosen_device(device), dtype)


def set_threads(threads: int | None) -> None:
    """So many CPU threads from here on, of torch and of a backend, which takes as many; None leaves torch's choice."""
    if threads is None:
        return
    if not 1 <= threads <= MAX_THREADS:
        raise ArgumentError("threads", threads, f"an integer from 1 to {MAX_THREADS}")
    import torch

    torch.set_num_threads(threads)
