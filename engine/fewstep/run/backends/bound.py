"""A compiled model of OpenVINO whose inputs and answer lie in torch's tensors."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.run.backends.export import PIXELS_LAST

Place = tuple[int, tuple[int, ...]]  # where a tensor lies, and how


class Compiled(NamedTuple):
    """A network as OpenVINO compiled it.

    Attributes:
        first: an openvino.CompiledModel of what is made ahead of the rest, or None.
        places: of the inputs that it takes.
        rest: takes all inputs in the order of the call, x as [B, H, W, C], and behind them what the first makes.
    """

    first: Any
    places: tuple[int, ...]
    rest: Any


class BoundProgram:
    """A compiled network that reads the caller's tensors where they lie.

    A tensor is bound once for as long as it lies where it did, in the same strides. What does not lie as the model
    takes it, an image in any other than channels-last memory and all else that has gaps, is copied in each call.

    Args:
        openvino: the library.
        compiled: the network.
        dtype: of the answer.
        about: what is told of it.
    """

    def __init__(self, openvino: Any, compiled: Compiled, dtype: torch.dtype, about: Mapping[str, object]) -> None:
        self.about = about
        self._openvino, self._request, self._places = openvino, compiled.rest.create_infer_request(), compiled.places
        self._first = None if compiled.first is None else compiled.first.create_infer_request()
        made = () if self._first is None else self._first.output_tensors
        inputs = len(compiled.rest.inputs) - len(made)
        for place, tensor in enumerate(made):
            self._request.set_input_tensor(inputs + place, tensor)
        self._bound: list[Place | None] = [None] * inputs
        self._copies: dict[int, Tensor] = {}  # of inputs by their place
        held = torch.empty(list(compiled.rest.output(0).shape), dtype=dtype)
        self._request.set_output_tensor(0, self._shared(held))
        self._answer = held.permute(0, 3, 1, 2) if held.ndim == 4 else held

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """The network's answer, which holds until the next call."""
        for place, tensor in enumerate(inputs):
            lies = tensor.data_ptr(), tensor.stride()
            if lies != self._bound[place]:
                self._bind(place, tensor, lies)
        for place, copy in self._copies.items():
            copy.copy_(_laid_out(place, inputs[place]))
        if self._first is not None:
            self._first.infer()
        self._request.infer()
        return self._answer

    def _bind(self, place: int, tensor: Tensor, lies: Place) -> None:
        memory = _laid_out(place, tensor)
        self._copies.pop(place, None)
        if not memory.is_contiguous():
            memory = self._copies[place] = torch.empty(memory.shape, dtype=memory.dtype)
        shared = self._shared(memory)
        self._request.set_input_tensor(place, shared)
        if self._first is not None and place in self._places:
            self._first.set_input_tensor(self._places.index(place), shared)
        self._bound[place] = lies

    def _shared(self, memory: Tensor) -> Any:
        """A tensor of OpenVINO in the same memory."""
        if memory.dtype == torch.bfloat16:  # numpy has none
            bits = memory.view(torch.int16).numpy()
            return self._openvino.Tensor(bits, list(memory.shape), self._openvino.Type.bf16)
        return self._openvino.Tensor(memory.numpy(), shared_memory=True)


def _laid_out(place: int, tensor: Tensor) -> Tensor:
    """An input as the model takes it."""
    memory = tensor.detach()
    return memory.permute(PIXELS_LAST) if place == 0 and memory.ndim == 4 else memory
