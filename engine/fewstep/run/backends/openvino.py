"""OpenVINO on a CPU: a network exported, converted once, and compiled for each number of lanes."""

import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.errors import reason_of
from fewstep.run.backends.backend import UnreadyError
from fewstep.run.backends.call import Call
from fewstep.run.backends.export import exported
from fewstep.run.backends.openvino_import import openvino_module

PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}


class OpenVino:
    """The backend of that name.

    Args:
        dtype: that it computes in: float32 or bfloat16. Its own default is bfloat16 where the CPU has it.
        threads: that it takes; as many as torch does unless given.
    """

    name = "openvino"

    def __init__(self, dtype: torch.dtype, threads: int | None = None) -> None:
        self.dtype, self.threads = dtype, threads

    def make(self, module: nn.Module, call: Call, inputs: Sequence[Tensor]) -> "OpenVinoProgram":
        """A program for a kind of call."""
        openvino = openvino_module()
        started = time.perf_counter()
        graph = exported(module, call, inputs)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = openvino.convert_model(graph.run_decompositions())
            x, *rest = (list(like.shape) for like in call.likes)
            model.reshape(dict(enumerate([[x[0], *x[2:], x[1]], *rest])))
            converted = time.perf_counter()
            compiled = openvino.Core().compile_model(model, "CPU", self._settings())
        except Exception as error:  # what it cannot convert or compile ends in an error of any class
            raise UnreadyError(f"openvino: {reason_of(error)}") from error
        about = {"convert_seconds": converted - started, "compile_seconds": time.perf_counter() - converted}
        return OpenVinoProgram(openvino, compiled, about)

    def _settings(self) -> dict[str, object]:
        return {
            "INFERENCE_PRECISION_HINT": PRECISIONS[self.dtype],
            "INFERENCE_NUM_THREADS": self.threads or torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }


class OpenVinoProgram:
    """A compiled model whose inputs lie where the caller's tensors do."""

    def __init__(self, openvino: Any, compiled: Any, about: Mapping[str, object]) -> None:
        self.about = about
        self._openvino, self._request = openvino, compiled.create_infer_request()
        self._bound: list[int] = [0] * len(compiled.inputs)
        self._answer = torch.from_numpy(self._request.get_output_tensor(0).data)

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """The network's answer, which holds until the next call."""
        for place, tensor in enumerate(inputs):
            if tensor.data_ptr() != self._bound[place]:
                data = tensor.permute(0, 2, 3, 1) if place == 0 else tensor
                shared = self._openvino.Tensor(data.contiguous().numpy(), shared_memory=True)
                self._request.set_input_tensor(place, shared)
                self._bound[place] = tensor.data_ptr()
        self._request.infer()
        return self._answer
