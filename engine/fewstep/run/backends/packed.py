"""torch on a CPU with weights packed once: oneDNN wants them in blocks of its own, and torch orders them at each call.

    layers                          gain on two Zen cores (benchmarks/results/amd-epyc-2-cores/packing.csv)
    convolutions of few pixels      float32 1.6 to 1.9 times at 8x8 and 4x4, 1.3 at 16x16; bfloat16 1.6 to 3.6, 1.3
    1x1 convolutions, linears       float32 2.1 times at any number of rows; bfloat16 1.1

torch's ops for it are private: where they are missing or fail, the layer runs as ever, and what they answer is compared
with the module's answer as that of every backend is.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from fewstep.run.backends.backend import UnreadyError
from fewstep.run.backends.call import Call, prediction_of
from fewstep.run.modules import has_its_own_code, view_of

WORK: Final = {torch.float32: 2**20, torch.bfloat16: 2**16}  # products in a call; with fewer a packed one is slower
PIXELS: Final = 1024  # of all lanes, up to which a weight's order is worth a copy of it
MOST_BYTES: Final = 2**30  # of packed weights in a program; layers that run later are left as they are
SMALLEST: Final = 2**10  # numbers in a weight that is packed
NOTHING: Final = "no layer of the network is worth packing"


def worth_packing(weight: torch.Size, rows: int, dtype: torch.dtype) -> bool:
    """Whether a layer is packed: a pure function, as the sweep has it.

    Args:
        weight: [C, C_in] or [C, C_in, height, width].
        rows: that the layer gives: the pixels of all lanes.
        dtype: of weight and rows.
    """
    if weight.numel() < SMALLEST or weight.numel() * rows < WORK[dtype]:
        return False
    product = dtype == torch.float32 and math.prod(weight[2:]) == 1
    return product or rows <= PIXELS


def packable(module: nn.Module) -> bool:
    """Whether any of a module's layers can be packed at all."""
    return any(True for _ in _layers(module))


class PackedTorch:
    """The backend "torch" on a CPU. Programs are views of the module whose layers pack their weights at first."""

    name, copies = "torch", True

    def make(self, module: nn.Module, call: Call, inputs: Sequence[Tensor]) -> "PackedProgram":
        """A program for a kind of call."""
        if any(has_its_own_code(part) for part in module.modules()):
            raise UnreadyError("a module in the network runs other code than its class's")
        classes = dict(_layers(module))
        x = call.likes[0]
        rows = math.prod((call.batch, *x.shape[2:]))  # of a layer at the network's own size
        if not _is_there(x.dtype) or not any(_is_work(part, rows) for part in classes):
            raise UnreadyError(NOTHING)
        return PackedProgram(view_of(module, classes), call.names)

    def forget(self) -> None:
        """It keeps nothing but in programs."""


class PackedProgram:
    """A module whose layers are packed."""

    def __init__(self, view: nn.Module, names: Sequence[str]) -> None:
        self._view, self._names, self._weights = view, tuple(names), Packing()
        for part in view.modules():
            if isinstance(part, PackedConv2d | PackedLinear):
                part.packing, part.ready = self._weights, {}

    @property
    def about(self) -> Mapping[str, object]:
        """How many layers are packed, into how many bytes, and how long that took."""
        packing = self._weights
        return {"packed": packing.layers, "packed_bytes": packing.size, "pack_seconds": packing.seconds}

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """The network's answer."""
        x, t, *rest = inputs
        answer: Tensor = prediction_of(self._view(x, t, **dict(zip(self._names, rest, strict=True))))
        if not self._weights.layers:
            raise UnreadyError(NOTHING)
        return answer


class Packing:
    """What the layers of one program have packed."""

    def __init__(self) -> None:
        self.layers, self.size, self.seconds = 0, 0, 0.0

    def packed(self, op: str, weight: Tensor, *how: object) -> Tensor | None:
        """A weight in oneDNN's order; None where the memory for it is spent, or torch does not have it."""
        if self.size + weight.nbytes > MOST_BYTES:
            return None
        started = time.perf_counter()
        try:
            found: Tensor = getattr(torch.ops.mkldnn, op)(weight.detach().contiguous(), *how)
        except (AttributeError, RuntimeError, TypeError):  # of another torch
            return None
        self.layers, self.size = self.layers + 1, self.size + weight.nbytes
        self.seconds += time.perf_counter() - started
        return found


class PackedConv2d(nn.Conv2d):
    """A convolution whose weight is packed for each shape that it is called with."""

    packing: Packing
    ready: dict[torch.Size, Tensor | None]

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        packed = None
        if _is_plain(input, weight) and input.is_contiguous(memory_format=torch.channels_last):
            if input.shape not in self.ready:
                self.ready[input.shape] = self._packed(input)
            packed = self.ready[input.shape]
        result: Tensor
        if packed is None:  # in other memory torch's own convolution is as fast, and errs less
            result = super()._conv_forward(input, weight, bias)
        else:
            way = (self.padding, self.stride, self.dilation, self.groups)
            result = torch.ops.mkldnn._convolution_pointwise(input, packed, bias, *way, "none", [], "")
        return result

    def _packed(self, input: Tensor) -> Tensor | None:
        weight, pixels = self.weight, 1
        for place, side in enumerate(input.shape[2:]):
            reach = self.dilation[place] * (self.kernel_size[place] - 1)
            pixels *= (side + 2 * int(self.padding[place]) - reach - 1) // self.stride[place] + 1
        if not worth_packing(weight.shape, len(input) * pixels, input.dtype):
            return None
        way = (self.padding, self.stride, self.dilation, self.groups, list(input.shape))
        return self.packing.packed("_reorder_convolution_weight", weight, *way)


class PackedLinear(nn.Linear):
    """A linear layer whose weight is packed for each shape that it is called with."""

    packing: Packing
    ready: dict[torch.Size, Tensor | None]

    def forward(self, input: Tensor) -> Tensor:
        """input [..., C_in] -> [..., C]."""
        if input.ndim < 2 or not _is_plain(input, self.weight) or not input.is_contiguous():
            return super().forward(input)
        if input.shape not in self.ready:
            self.ready[input.shape] = self._packed(input)
        packed = self.ready[input.shape]
        if packed is None:
            return super().forward(input)
        result: Tensor = torch.ops.mkldnn._linear_pointwise(input, packed, self.bias, "none", [], "")
        return result

    def _packed(self, input: Tensor) -> Tensor | None:
        rows = math.prod(input.shape[:-1])
        if not worth_packing(self.weight.shape, rows, input.dtype):
            return None
        return self.packing.packed("_reorder_linear_weight", self.weight, rows)


def _layers(module: nn.Module) -> Iterator[tuple[nn.Module, type[nn.Module]]]:
    """The layers that may be packed, and the class that does it: none whose code or weight is somebody's own."""
    for part in module.modules():
        if type(part) not in (nn.Linear, nn.Conv2d) or is_parametrized(part):
            continue
        weight = part._parameters.get("weight")
        if weight is None or weight.numel() < SMALLEST or weight.device.type != "cpu" or weight.dtype not in WORK:
            continue
        if type(part) is nn.Linear:
            yield part, PackedLinear
        elif type(part) is nn.Conv2d and part.groups == 1 and _is_of_zeros(part):
            yield part, PackedConv2d


def _is_of_zeros(part: nn.Conv2d) -> bool:
    return part.padding_mode == "zeros" and not isinstance(part.padding, str)


def _is_work(part: nn.Module, rows: int) -> bool:
    weight = part.get_parameter("weight")
    return weight.numel() * rows >= WORK[weight.dtype]


def _is_there(dtype: torch.dtype) -> bool:
    """Whether this torch has oneDNN, in use, and for this dtype on this processor."""
    mkldnn: Any = torch.backends.mkldnn
    if not mkldnn.is_available() or not torch._C._get_mkldnn_enabled():
        return False
    try:
        return dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except AttributeError:
        return False


def _is_plain(input: Tensor, weight: Tensor) -> bool:
    """Whether nobody differentiates, traces or records the call, and it is of plain tensors of one dtype.

    An export has tensors of its own; its flag alone may be that of another thread.
    """
    if torch.is_grad_enabled() or torch.compiler.is_dynamo_compiling() or torch._C._len_torch_dispatch_stack():
        return False
    return type(input) is Tensor and input.dtype == weight.dtype and input.device.type == "cpu"
