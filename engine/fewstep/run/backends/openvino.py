"""OpenVINO on a CPU: a network exported and converted once, and compiled for each number of lanes."""

import time
import warnings
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from fewstep.errors import reason_of
from fewstep.run.backends.apart import Apart, taken_apart
from fewstep.run.backends.backend import UnreadyError
from fewstep.run.backends.bound import BoundProgram, Compiled
from fewstep.run.backends.call import Call, prediction_of
from fewstep.run.backends.export import ALONE, UnexportableError, exported
from fewstep.run.backends.kept import Kept, as_it_is_read
from fewstep.run.backends.openvino_import import core_of, openvino_module
from fewstep.run.backends.saying import LARGE, say
from fewstep.run.backends.traced import TRACED, UNPROVEN, doubted, traced

REASON: Final = 200  # characters of one
PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}


class _Conversion(NamedTuple):
    module: nn.Module  # held, so that its id is no other's
    model: Any
    origin: str  # "converted", "kept" by another process, or "traced"


class OpenVino:
    """The backend of that name.

    Args:
        dtype: that it computes in: float32 or bfloat16. Its own default is bfloat16 where the CPU has it.
        threads: that it takes; as many as torch does unless given.
        kept: of the network between processes; nothing unless given.
        tracing: a network that torch.export does not take is traced, and told of as unproven; else it is refused.
    """

    name, copies = "openvino", True

    def __init__(
        self, dtype: torch.dtype, threads: int | None = None, kept: Kept | None = None, tracing: bool = True
    ) -> None:
        self.dtype, self.threads, self.kept, self.tracing = dtype, threads, kept, tracing
        self._converted: dict[object, _Conversion] = {}

    def make(self, module: nn.Module, call: Call, inputs: Sequence[Tensor]) -> BoundProgram:
        """A program for a kind of call."""
        openvino = openvino_module()
        started = time.perf_counter()
        alike = (id(module), call.names, *((like.shape[1:], like.dtype) for like in call.likes))
        known = self._converted.get(alike)
        if known is None or not _takes(known.model, call.batch):
            known = self._converted[alike] = self._conversion(module, call, inputs)
        converted = time.perf_counter()
        say("openvino: compiling", module, f", for {call}", least=LARGE)
        compiled = self.compile(known.model, call)
        seconds = {"convert_seconds": converted - started, "compile_seconds": time.perf_counter() - converted}
        about = {"model": known.origin, **seconds, **({"unproven": UNPROVEN} if known.origin == TRACED else {})}
        program = BoundProgram(openvino, compiled, call.likes[0].dtype, about)
        if known.origin == TRACED:
            doubted(program, lambda *given, **named: prediction_of(module(*given, **named)), call.names, inputs)
        return program

    def _conversion(self, module: nn.Module, call: Call, inputs: Sequence[Tensor]) -> _Conversion:
        try:
            return _Conversion(module, *self.model(module, call, inputs))
        except UnexportableError:
            if not self.tracing:
                raise
            with ALONE:
                model = traced(module, call, inputs)
            model.reshape(model_shapes(call))
            return _Conversion(module, model, TRACED)

    def forget(self) -> None:
        """The weights have changed: what was converted had them in it."""
        self._converted.clear()
        if self.kept is not None:
            self.kept.forget()

    def model(self, module: nn.Module, call: Call, inputs: Sequence[Tensor]) -> tuple[Any, str]:
        """What `convert` makes, or made in another process; and which of both, "converted" or "kept".

        Raises:
            UnreadyError: no such model.
        """
        if self.kept is None:
            return as_it_is_read(openvino_module(), self.convert(module, call, inputs)), "converted"
        return self.kept.model(openvino_module(), call, lambda: self.convert(module, call, inputs))

    def convert(self, module: nn.Module, call: Call, inputs: Sequence[Tensor]) -> Any:
        """A network as an openvino.Model: inputs in the order of the call, any number of lanes if it allows that.

        Raises:
            UnreadyError: no such model.
        """
        openvino = openvino_module()
        try:
            with ALONE:
                graph, any_lanes = exported(module, call, inputs)
                model = _converted(openvino, graph)
            shapes = model_shapes(call)
            model.reshape({place: [-1, *shape[1:]] if any_lanes else shape for place, shape in shapes.items()})
            return model
        except UnreadyError:
            raise
        except Exception as error:  # what it cannot convert ends in an error of any class
            raise UnreadyError(_reason(error)) from error

    def compile(self, model: Any, call: Call) -> Compiled:
        """A converted model compiled for a kind of call. The model is left as it is.

        Raises:
            UnreadyError: it cannot be compiled.
        """
        try:
            static = model.clone()
            static.reshape(model_shapes(call))
            parts = taken_apart(static) if self.dtype == torch.bfloat16 else Apart(None, (), static)
            core, precise = core_of(openvino_module()), {**self.settings(), "INFERENCE_PRECISION_HINT": "f32"}
            first = None if parts.first is None else core.compile_model(parts.first, "CPU", precise)
            return Compiled(first, parts.places, core.compile_model(parts.second, "CPU", self.settings()))
        except Exception as error:
            raise UnreadyError(_reason(error)) from error

    def settings(self) -> dict[str, object]:
        """What a model is compiled with, all that its numbers depend on among it."""
        return {
            "INFERENCE_PRECISION_HINT": PRECISIONS[self.dtype],
            "INFERENCE_NUM_THREADS": self.threads or torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            # Its default binds a thread to a core for good, as every other process does, to the same one: on two busy
            # cores a digit's call takes 14.1 ms then, and 10.9 without; at its best 2.7 and 2.5.
            "ENABLE_CPU_PINNING": False,
        }


def _converted(openvino: Any, graph: Any) -> Any:
    """A graph as an openvino.Model: torch's compound ops are taken apart, and every side is left open."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return openvino.convert_model(graph)


def model_shapes(call: Call) -> dict[int, list[int]]:
    """The shapes of a converted model's inputs, by their place in a call."""
    x, *rest = (list(like.shape) for like in call.likes)
    return dict(enumerate([[x[0], *x[2:], x[1]] if len(x) == 4 else x, *rest]))


def _takes(model: Any, batch: int) -> bool:
    """Whether a converted model is for this number of lanes."""
    lanes = model.input(0).partial_shape[0]
    return bool(lanes.is_dynamic or lanes.get_length() == batch)


def _reason(error: Exception) -> str:
    """In a line what OpenVINO writes into many."""
    summary = [line.strip("- ") for line in str(error).splitlines() if line.startswith("-- ")]
    return "; ".join(summary)[:REASON] if summary else reason_of(error)
