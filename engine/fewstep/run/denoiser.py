"""What the loop calls: a denoiser maps (x_in, t, conditioning) to a prediction. Any nn.Module becomes one."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from fewstep.errors import ArgumentError

LABEL_ARGUMENTS = ("labels", "class_labels", "y")


class Denoiser(Protocol):
    """A network seen from the loop."""

    def __call__(
        self,
        x_in: Tensor,  # [R, C, H, W] in the network's dtype, channels last
        t: Tensor,  # [R] float32, or float64 beside a float64 network
        conditioning: Mapping[str, Tensor],  # each [R, ...]
    ) -> Tensor:  # [R, C, H, W], or [R, 2C, H, W] with a learned variance
        """Predict what the plan says the network predicts."""
        ...


@dataclass(frozen=True)
class ModuleDenoiser:
    """Any module called as module(x_in, t, **conditioning), its answer taken from `.sample` or the first of a tuple.

    Attributes:
        module: the network.
        label_argument: what its forward calls the labels; see `label_argument_of`.
        channels: how many channels its answer may have.
    """

    module: nn.Module
    label_argument: str
    channels: tuple[int, ...]

    def __call__(self, x_in: Tensor, t: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        arguments = {self.label_argument if name == "labels" else name: rows for name, rows in conditioning.items()}
        rows, _, *size = x_in.shape
        allowed = [(rows, channels, *size) for channels in self.channels]
        answer = self.module(x_in, t, **arguments)
        prediction = answer[0] if isinstance(answer, tuple) else getattr(answer, "sample", answer)
        if not isinstance(prediction, Tensor):
            raise ArgumentError(
                "denoiser", f"an answer of {type(prediction).__name__}", "a module that returns a tensor"
            )
        if prediction.shape not in allowed:
            shapes = " or ".join(str([*shape]) for shape in allowed)
            raise ArgumentError("denoiser", f"an answer of shape {list(prediction.shape)}", shapes)
        return prediction


def label_argument_of(module: nn.Module) -> str:
    """The name under which a module's forward takes labels: `labels`, `class_labels` or `y`."""
    forward: Callable[..., object] = module.forward
    names = inspect.signature(forward).parameters
    return next((name for name in LABEL_ARGUMENTS if name in names), LABEL_ARGUMENTS[0])


def parameter_dtype(module: nn.Module) -> torch.dtype:
    """The dtype of the module's first floating-point parameter; float32 where it has none."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
