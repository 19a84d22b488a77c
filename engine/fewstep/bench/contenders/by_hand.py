"""OpenVINO as one calls it oneself, without what the engine's backend of that name adds."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.bench.contenders.converted import Converted
from fewstep.run.backends.openvino_import import core_of, openvino_module


class ByHand(Converted):
    """Exported, converted and compiled for a batch size, then `infer`."""

    packages, extra = ("openvino",), "cpu"

    def convert(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Callable[[], object], Tensor]:
        """An infer request."""
        openvino: Any = openvino_module()
        model = openvino.convert_model(torch.export.export(network, inputs, strict=False).run_decompositions())
        model.reshape({place: list(each.shape) for place, each in enumerate(inputs)})
        settings = {
            "INFERENCE_PRECISION_HINT": "f32" if self.contender.exact else "bf16",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        request = core_of(openvino).compile_model(model, "CPU", settings).create_infer_request()
        for place, each in enumerate(inputs):
            request.set_input_tensor(place, openvino.Tensor(each.numpy(), shared_memory=True))
        return request.infer, torch.from_numpy(request.get_output_tensor(0).data)
