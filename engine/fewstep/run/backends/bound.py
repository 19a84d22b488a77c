"""A compiled model of OpenVINO whose inputs and answer lie in torch's tensors."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fewstep.run.backends.export import PIXELS_LAST

Place = tuple[int, tuple[int, ...]]  # where a tensor lies, and how


class BoundProgram:
    """A compiled model that reads the caller's tensors where they lie.

    A tensor is bound once for as long as it lies where it did, in the same strides. What does not lie as the model
    takes it, an image in any other than channels-last memory and all else that has gaps, is copied in each call.

    Args:
        openvino: the library.
        compiled: takes inputs in the order of the call, x as [B, H, W, C].
        dtype: of the answer.
        about: what is told of it.
    """

    def __init__(self, openvino: Any, compiled: Any, dtype: torch.dtype, about: Mapping[str, object]) -> None:
        self.about = about
        self._openvino, self._request = openvino, compiled.create_infer_request()
        self._bound: list[Place | None] = [None] * len(compiled.inputs)
        self._copies: dict[int, Tensor] = {}  # of inputs by their place
        held = torch.empty(list(compiled.output(0).shape), dtype=dtype)
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
        self._request.infer()
        return self._answer

    def _bind(self, place: int, tensor: Tensor, lies: Place) -> None:
        memory = _laid_out(place, tensor)
        self._copies.pop(place, None)
        if not memory.is_contiguous():
            memory = self._copies[place] = torch.empty(memory.shape, dtype=memory.dtype)
        self._request.set_input_tensor(place, self._shared(memory))
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
