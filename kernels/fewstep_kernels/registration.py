"""How an op is registered with torch.library, and its implementation chosen by device.

Each op is `torch.ops.fewstep.<name>`: a schema, the implementation per device, and a fake one that knows only shapes,
so that torch.compile(fullgraph=True) and torch.export see through it.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from fewstep_kernels.operands import StepOperands, by_arguments

LIBRARY = torch.library.Library("fewstep", "DEF")


def register(
    text: str,  # the schema
    definition: Callable[..., Any],
    fake: Callable[..., Any],
    fused: bool = True,
    takes_operands: bool = False,  # an implementation takes StepOperands, where the schema has them one by one
) -> None:
    """Define an op. Every device runs the definition, but CUDA the fused kernel of the same name, where there is one.

    The definition is the twin, or what is as near to float64 and faster.
    """
    name = text.split("(", 1)[0]
    kernel = _fused(name, definition)
    LIBRARY.define(text)
    LIBRARY.impl(name, by_arguments(definition) if takes_operands else definition, "CompositeExplicitAutograd")
    if fused and find_spec("triton") is not None:
        LIBRARY.impl(name, by_arguments(kernel) if takes_operands else kernel, "CUDA")
    torch.library.register_fake(f"fewstep::{name}", fake, lib=LIBRARY)
    getattr(torch.ops.fewstep, name).default.__doc__ = definition.__doc__


def _fused(name: str, definition: Callable[..., Any]) -> Callable[..., Any]:
    """The Triton kernel of an op, imported at its first call; float64, which oracles use, stays with the twin."""

    def call(*arguments: Any, **options: Any) -> Any:
        tensors = arguments[0] if isinstance(arguments[0], StepOperands) else arguments
        if any(isinstance(each, Tensor) and each.dtype == torch.float64 for each in tensors):
            return definition(*arguments, **options)
        return getattr(import_module("fewstep_kernels.fused"), name)(*arguments, **options)

    return call


def nothing(*_: Any, **__: Any) -> None:
    """The fake of an op that writes its arguments in place."""


def like_first(x: Tensor, *_: Any, **__: Any) -> Tensor:
    """The fake of an op whose result is as its first argument, memory format and all."""
    return torch.empty_like(x)


def needs_grad(*tensors: Tensor | None) -> bool:
    """Whether autograd is to differentiate what is made of these, which no registered op does."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def chosen(
    op: Callable[..., Any],  # as it is registered
    native: Callable[..., Any],  # torch's own ops
    definition: Callable[..., Any],  # what a CPU runs
    *tensors: Tensor | None,  # what it is called with, a tensor first
) -> Callable[..., Any]:
    """What is called for an op: the op, but torch's own ops where nobody could look into it.

    Autograd differentiates those and an export writes them down; a compiler for a CPU fuses what the op is defined by.
    """
    if needs_grad(*tensors):
        return native
    first = tensors[0]
    if first is None or first.device.type != "cpu":
        return op
    if torch.compiler.is_dynamo_compiling():
        return native if torch.compiler.is_exporting() else definition
    looked_at = type(first) not in (Tensor, Parameter)  # an export that another thread makes sets the same flag
    return native if looked_at and torch.compiler.is_exporting() else op
