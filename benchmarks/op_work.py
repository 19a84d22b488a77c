"""A kernel benchmark in short: what is called, on which tensors, what it must give, and the least it must move."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from measure import nothing
from torch import Tensor

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class Call:
    """A function and what it is given; calling it returns all that it has computed."""

    function: Callable[..., Tensor | Tensors]
    arguments: Mapping[str, Any]

    def __call__(self) -> Tensors:
        """Its results, as a tuple."""
        found = self.function(**self.arguments)
        return found if isinstance(found, tuple) else (found,)

    def compiled(self) -> "Call":
        """The same by torch.compile, for these shapes alone."""
        return Call(torch.compile(self.function, dynamic=False, fullgraph=True), self.arguments)


@dataclass(frozen=True)
class Work:
    """An op on the tensors of a case.

    Attributes:
        ours: the op.
        eager: the same in plain torch, as people write it.
        exact: the results in float64.
        bytes: the fewest that can be moved: each input read once, each result written once.
        operations: of products of matrices; 0 where bytes are all that counts.
        more: further contenders, which must give the bits of `ours`.
        own: what is asked for torch's own error; `eager` unless given.
        shown: what `eager` is given where it is compared, if not the same: noise in place of what it would draw.
        reset: brings back what a call has changed in place. It is called before each, and is not timed.
    """

    ours: Call
    eager: Call
    exact: Callable[[], Tensors]
    bytes: int
    operations: int = 0
    more: Mapping[str, Call] = field(default_factory=dict)
    own: Call | None = None
    shown: Mapping[str, Any] | None = None
    reset: Callable[[], object] = nothing


def work(
    ours: Callable[..., Tensor | Tensors],
    eager: Callable[..., Tensor | Tensors],
    given: Mapping[str, Any],
    operations: int = 0,
    exact: Callable[[], Tensors] | None = None,
    more: Mapping[str, Callable[..., Tensor | Tensors]] | None = None,
) -> Work:
    """That of two functions of the same arguments; in float64 the second is what both must give."""
    mine, theirs = Call(ours, given), Call(eager, given)
    read = sum(each.nbytes for each in given.values() if isinstance(each, Tensor))
    written = sum(each.nbytes for each in theirs())
    wide = Call(eager, {name: widened(each) for name, each in given.items()})
    others = {name: Call(function, given) for name, function in (more or {}).items()}
    return Work(mine, theirs, exact or wide, read + written, operations, others)


def widened(value: Any) -> Any:
    """A tensor of floats in float64; everything else as it is."""
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def rounded(value: Tensor, dtype: torch.dtype) -> Tensor:
    """float32 numbers that `dtype` holds exactly, so that who is given them in either is given the same."""
    return value.to(dtype).float()


def runs_fused(device: torch.device) -> bool:
    """Whether the ops there are the Triton kernels: on a GPU, or once a dry run has put them in their place."""
    cpu = torch._C._dispatch_has_kernel_for_dispatch_key("fewstep::denoise_step", "CPU")
    return device.type == "cuda" or bool(cpu)
