"""How the fused kernels are launched and how they walk memory: pure functions of shapes and strides.

A kernel takes a sample's elements in logical (c, h, w) order, the order its noise is numbered in, whatever the memory
layout; a channels-last operand is read with stride C. So each of its sectors is asked for by the programs of all C
channels: it comes from memory once and from the L2 cache C times. A tile of pixels x channels would ask once, but
C = 3 or 4 pads its lanes, and where H W is no multiple of four its noise is computed twice. What is read so is the
U-Net's output, just written and small enough for the L2 cache: at 3x256x256, C times 0.8 MB a guided bf16 sample.
"""

import functools
import math
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

THREADS = 128
REGISTERS = 65536  # of an SM, and so of a program
MAX_PROGRAMS = (2**31 - 1, 65_535, 65_535)  # along the axes of a CUDA grid: so the batch, which may be long, is first
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
Strides = tuple[int, ...]


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel: what runs, what a graph captures and what is compiled ahead of time are all this.

    Attributes:
        kernel: a function decorated with triton.jit.
        grid: programs along each axis, at most MAX_PROGRAMS.
        arguments: the kernel's by name: tensors, None for one that is not there, sizes, tuples of sizes or strides.
        constants: the arguments it is compiled for.
        num_warps: warps of a program.
        awaits: arguments that the launch before it on the stream writes. Where there are any it may begin while that
            one runs (programmatic dependent launch), and waits before it reads them and before it writes anything.
        registers: of a thread, at most; None leaves it to the compiler, which may spill to fit more programs on an SM.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    constants: dict[str, Any] = field(default_factory=dict)
    num_warps: int = THREADS // 32
    awaits: tuple[str, ...] = ()
    registers: int | None = None

    def __post_init__(self) -> None:
        if any(programs > most for programs, most in zip(self.grid, MAX_PROGRAMS, strict=False)):
            raise ValueError(f"grid of {self.kernel.__name__}: got {self.grid}; allowed: at most {MAX_PROGRAMS}")

    def run(self) -> None:
        """Enqueue it on the current stream of its tensors' device."""
        anchor = next(value for value in self.arguments.values() if isinstance(value, Tensor))
        with torch.cuda.device_of(anchor):
            self.kernel[self.grid](**self.arguments, **self.constants, **self.options)

    @property
    def options(self) -> dict[str, Any]:
        """What the compiler and the driver are told.

        No contraction to fused multiply-adds: what a formula rounds to then depends on the formula alone, not on the
        variant of the kernel that a sample's batch mates call for.
        """
        given = {"num_warps": self.num_warps, "maxnreg": self.registers, "enable_fp_fusion": False}
        return given | {"launch_pdl": True} if self.awaits else given


@functools.cache
def has_dependent_launches(device: torch.device) -> bool:
    """Whether a launch may begin before the one ahead of it has finished."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def block_of(*tensors: Tensor | None, block: int | None = None) -> int:
    """Elements of a program: 16 bytes a thread of the narrowest tensor, one 128-bit access where it is contiguous.

    Tests give another `block`, a power of two, to see many of them in a small tensor.
    """
    return block or THREADS * 16 // min(tensor.element_size() for tensor in tensors if tensor is not None)


def grid_of(block: int, **tensor: Tensor) -> tuple[int, int]:
    """Programs over the samples of one tensor, given by its name, and over the elements of a sample."""
    ((name, given),) = tensor.items()
    elements = math.prod(given.shape[1:])
    if elements > MAX_PROGRAMS[1] * block:
        sample = list(given.shape[1:])
        raise ValueError(f"{name}: got a sample of {sample}; allowed: at most {MAX_PROGRAMS[1] * block} elements")
    return len(given), triton.cdiv(elements, block)


def reduction_block(n: int, block: int | None = None) -> tuple[int, int, int]:
    """Elements of a tile, warps and a thread's registers, for a program that reads a whole sample of n elements.

    Eight elements a thread, and at most 512 threads: the 64 registers that each of 1024 could have are too few for some
    versions of Triton. And they are told of all 128, or some spill so that two programs fit an SM. `block` as above.
    """
    block = block or min(max(triton.next_power_of_2(n), 256), 4096)
    num_warps = max(block // 256, 1)
    return block, num_warps, min(REGISTERS // (32 * num_warps), 255)


def walk(*tensors: Tensor, any_order: bool = False) -> tuple[tuple[int, ...], list[Strides]]:
    """The fewest dimensions in which these tensors are walked alike, and each one's strides: batch, then those.

    One sample's (C, H, W) is one dimension for contiguous tensors, two, (C, H W), if one of them is channels-last.
    The shape is that of the first; with `any_order` the order of elements is how that one lies in memory.
    """
    first = tensors[0]
    dims = list(range(1, first.ndim))
    if any_order:
        dims.sort(key=first.stride, reverse=True)
    sizes, steps = [1], [(1,) * len(tensors)]
    for dim in dims:
        size, step = first.shape[dim], tuple(tensor.stride(dim) for tensor in tensors)
        if size == 1:
            continue
        if sizes[-1] == 1:
            sizes[-1], steps[-1] = size, step
        elif steps[-1] == tuple(size * each for each in step):
            sizes[-1], steps[-1] = size * sizes[-1], step
        else:
            sizes.append(size)
            steps.append(step)
    strides = zip(*steps, strict=True)
    return tuple(sizes), [(tensor.stride(0), *each) for tensor, each in zip(tensors, strides, strict=True)]


@triton.jit
def offsets(sample, element, size, stride):
    """Where the elements of one sample are: `size` and `stride` from `walk`, the sample's number an int64."""
    within = element * 0
    for dim in tl.static_range(len(size) - 1, 0, -1):
        within += element % size[dim] * stride[1 + dim]
        element = element // size[dim]
    return sample * stride[0] + (within + element * stride[1])


@triton.jit
def needed(inside, coefficient):
    """The elements that are read: those inside, none where what multiplies them is 0."""
    return inside & (tl.broadcast_to(coefficient, inside.shape) != 0.0)


@triton.jit
def term(coefficient, operand):
    """coefficient operand, and 0 where the coefficient is 0, whatever the operand holds."""
    return tl.where(coefficient == 0.0, 0.0, coefficient * operand)


def check_floats(**tensors: Tensor | None) -> None:
    """Raise TypeError for a dtype the kernels do not take, ValueError for a sample too large for 32-bit numbering."""
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if tensor.dtype not in FLOATS:
            raise TypeError(f"{name}: got {tensor.dtype}; allowed: float32, bfloat16, float16")
        last = sum((size - 1) * stride for size, stride in zip(tensor.shape[1:], tensor.stride()[1:], strict=True))
        if last >= 2**31:
            raise ValueError(f"{name}: got a sample of {list(tensor.shape[1:])}; allowed: one within 2^31 elements")


def check_state(**tensors: Tensor | None) -> None:
    """Raise TypeError or ValueError for what is not contiguous float32, as all of a run's state is."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype != torch.float32:
            raise TypeError(f"{name}: got {tensor.dtype}; allowed: float32")
        if tensor is not None and not tensor.is_contiguous():
            raise ValueError(f"{name}: got strides {tensor.stride()}; allowed: contiguous")


def check_integers(**tensors: Tensor) -> None:
    """Raise TypeError or ValueError for what is not contiguous int64, as seeds and row numbers are."""
    for name, tensor in tensors.items():
        if tensor.dtype != torch.int64:
            raise TypeError(f"{name}: got {tensor.dtype}; allowed: int64")
        if not tensor.is_contiguous():
            raise ValueError(f"{name}: got strides {tensor.stride()}; allowed: contiguous")
