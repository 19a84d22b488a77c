"""What an exception out of a step means: too little memory, one bad sample, or a device that is lost."""

import re
import traceback
from typing import Final, Literal

import torch

from fewstep.errors import is_out_of_memory

DEEPEST: Final = 8  # exceptions behind an exception
Kind = Literal["out_of_memory", "worker", "dead"]

# Torch's accelerator errors have a class since 2.8 only, and cuBLAS reports both of its kinds as RuntimeErrors.
_LOST: Final = re.compile(
    r"CUDA error|HIP error|cudaError|device-side assert|illegal memory access|unspecified launch failure"
    r"|CU(?:DNN|BLAS)_STATUS_(?:EXECUTION_FAILED|MAPPING_ERROR|INTERNAL_ERROR)|uncorrectable ECC|device is lost"
)
_ALLOCATION: Final = re.compile(r"CU(?:DNN|BLAS)_STATUS_ALLOC_FAILED")
_ACCELERATOR: Final[type[Exception]] = getattr(torch, "AcceleratorError", RuntimeError)

SAID: Final[dict[Kind, str]] = {
    "out_of_memory": "there is not enough memory for this image, even where nothing runs beside it",
    "worker": "the model failed on this image, even where nothing ran beside it",
    "dead": "the device is lost, and everything that ran or waited on it",
}


def kind_of(error: BaseException) -> Kind:
    """What an exception means for those who were in the step."""
    said = str(error)
    if is_out_of_memory(error) or (isinstance(error, RuntimeError) and _ALLOCATION.search(said)):
        return "out_of_memory"
    if not isinstance(error, Exception):
        return "dead"
    plain = _ACCELERATOR is RuntimeError
    lost = isinstance(error, RuntimeError) and _LOST.search(said) is not None
    return "dead" if lost or (not plain and isinstance(error, _ACCELERATOR)) else "worker"


def let_go(error: BaseException) -> None:
    """Have an exception, and those behind it, hold the tensors of the frames it came through no longer."""
    behind: BaseException | None = error
    for _ in range(DEEPEST):
        if behind is None:
            return
        traceback.clear_frames(behind.__traceback__)
        behind = behind.__cause__ or behind.__context__


def settle(device: torch.device) -> None:
    """Wait for what a device was given, so that what went wrong there is raised here; nothing to do on a CPU."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def free_memory(device: torch.device) -> None:
    """Give back what the allocator of a device keeps for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
