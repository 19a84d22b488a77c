"""onnxruntime on a network that torch.onnx has exported."""

import logging
from collections.abc import Callable
from importlib import import_module
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.bench.contenders.converted import Converted
from fewstep.bench.subjects import Subject


class OnnxRuntime(Converted):
    """A session with bound inputs and answer, in float32."""

    packages, extra = ("onnxruntime", "onnx", "onnxscript"), "bench"
    copies = 2  # the file and the session's own

    def refusal(self, subject: Subject) -> str:
        """Also in bfloat16."""
        if subject.engine.dtype != torch.float32:
            return "in float32 alone: few of its kernels for a CPU are in bfloat16"
        return super().refusal(subject)

    def convert(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Callable[[], object], Tensor]:
        """A session's run with bound tensors."""
        runtime: Any = import_module("onnxruntime")
        shape = network(*inputs).shape
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
        with TemporaryDirectory() as folder:
            path = f"{folder}/network.onnx"
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of each package that is not installed
            torch.onnx.export(network, inputs, path, dynamo=True, external_data=True, verbose=False)
            session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        binding, answer = session.io_binding(), torch.empty(shape)
        names = [each.name for each in session.get_inputs()]
        for name, each in zip(names, inputs, strict=True):
            binding.bind_input(name, "cpu", 0, each.numpy().dtype, each.shape, each.data_ptr())
        binding.bind_output(session.get_outputs()[0].name, "cpu", 0, answer.numpy().dtype, shape, answer.data_ptr())
        return lambda: session.run_with_iobinding(binding), answer
