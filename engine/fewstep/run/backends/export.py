"""The graph of a network for a kind of call, with the number of lanes left open where the network allows it."""

import copy
import logging
import threading
import warnings
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from fewstep.errors import reason_of
from fewstep.run.backends.backend import UnreadyError
from fewstep.run.backends.call import Call, prediction_of
from fewstep.run.modules import GENERATED, view_of

MAX_LANES = 32  # that a graph promises to be for; diffusers' upsampling asks whether there are 64
PIXELS_LAST = (0, 2, 3, 1)
ALONE: Final = threading.RLock()  # what torch notes while it looks at a network is the process's, not the thread's
TALKATIVE: Final = logging.getLogger("torch.fx.experimental.symbolic_shapes")


class UnexportableError(UnreadyError):
    """torch.export does not take a network."""


class _NotFollowedError(Exception):
    """What a network raised while it was looked at. torch would write the graph so far to stderr, and finds none."""

    @property
    def partial_fx_graph(self) -> Any:
        raise AttributeError

    @partial_fx_graph.setter
    def partial_fx_graph(self, graph: Any) -> None:
        pass


class ByPosition(nn.Module):
    """A network that is called by position alone, in float32 inside, with images as channels-last memory has them.

    x of four dimensions is [B, H, W, C], and so is the answer; of any other number they are as the network has them.

    Attributes:
        module: the network, with weights in float32.
        names: of what it is called with beside x and t.
        dtype: of the answer.
    """

    def __init__(self, module: nn.Module, names: Sequence[str], dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.names, self.dtype = module, tuple(names), dtype

    def forward(self, x: Tensor, t: Tensor, *rest: Tensor) -> Tensor:
        """The answer as a tensor."""
        x = x.permute(0, 3, 1, 2) if x.ndim == 4 else x
        x, t, *others = (each.float() if each.dtype == torch.bfloat16 else each for each in (x, t, *rest))
        try:
            answer = self.module(x, t, **dict(zip(self.names, others, strict=True)))
        except UnreadyError:
            raise
        except Exception as error:
            raise _NotFollowedError(*error.args) from error
        taken: Tensor = prediction_of(answer)
        return (taken.permute(PIXELS_LAST) if taken.ndim == 4 else taken).to(self.dtype)


def exported(module: nn.Module, call: Call, inputs: Sequence[Tensor]) -> tuple[Any, bool]:
    """The `torch.export.ExportedProgram` of `ByPosition` of a module, and whether it is for any number of lanes.

    Raises:
        UnexportableError: torch.export does not take it, with torch's reason.
        UnreadyError: no graph is what it does, since it draws random numbers, or goes by values that Python reads.
    """
    network = network_by_position(module, call)
    example = laid_out(inputs)
    try:
        graph, any_lanes = _export(network, tuple(torch.cat([each[:1]] * 2) for each in example), open_lanes=True), True
    except Exception as error:  # whatever torch raises for what it cannot follow
        if "data-dependent" in str(error):
            raise UnreadyError("torch.export: its Python reads values of its tensors, which no graph does") from error
        graph, any_lanes = _for_these_lanes(network, example), False  # one that counts its lanes may do with one count
    if drawn := sorted({str(node.target) for node in graph.graph.nodes if _draws(node)}):
        raise UnreadyError(f"it draws random numbers ({', '.join(drawn)})")
    return graph, any_lanes


def network_by_position(module: nn.Module, call: Call) -> ByPosition:
    """A module as it is exported for a kind of call.

    Raises:
        UnreadyError: a forward in it is wrapped on the instance, for what a wrapper does besides is in no graph.
    """
    return ByPosition(in_float32(module), call.names, call.likes[0].dtype)


def laid_out(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What a `ByPosition` is called with."""
    x, *rest = inputs
    return (x.permute(PIXELS_LAST) if x.ndim == 4 else x, *rest)


def in_float32(module: nn.Module) -> nn.Module:
    """The module's structure again over the same tensors, those in bfloat16 as float32, which has all their values.

    What its forward assigns while it is looked at stays with this one. A scripted one in bfloat16 is copied.

    Raises:
        UnreadyError: see `network_by_position`; or a scripted part is in bfloat16.
    """
    module = getattr(module, "_orig_mod", module)  # of torch.compile
    if isinstance(module, torch.jit.ScriptModule):
        return copy.deepcopy(module).float() if _in_bfloat16(module) else module
    view = view_of(module)
    wide: dict[int, Tensor] = {}
    for part in view.modules():
        if isinstance(part, torch.jit.ScriptModule):
            if _in_bfloat16(part):
                raise UnreadyError("a scripted part of it is in bfloat16")
            continue
        own = vars(part)
        if "forward" in own and not isinstance(part, GENERATED):
            raise UnreadyError(f"the forward of a {type(part).__name__} in it is wrapped on the instance")
        own["_compiled_call_impl"] = None
        own["_parameters"] = {name: _wide(tensor, wide) for name, tensor in part._parameters.items()}
        own["_buffers"] = {name: _wide(tensor, wide) for name, tensor in part._buffers.items()}
    return view


def _in_bfloat16(module: nn.Module) -> bool:
    return any(each.dtype == torch.bfloat16 for each in (*module.parameters(), *module.buffers()))


def _wide(tensor: Any, wide: dict[int, Tensor]) -> Any:
    if tensor is None or tensor.dtype != torch.bfloat16:
        return tensor
    if id(tensor) not in wide:
        wide[id(tensor)] = nn.Parameter(tensor.detach().float(), requires_grad=False)
    found = wide[id(tensor)]
    return found if isinstance(tensor, nn.Parameter) else found.detach()


def _for_these_lanes(network: nn.Module, example: Sequence[Tensor]) -> Any:
    try:
        return _export(network, tuple(each.contiguous() for each in example), open_lanes=False)
    except Exception as error:
        raise UnexportableError(f"torch.export: {reason_of(error)}") from error


def _export(network: nn.Module, inputs: tuple[Tensor, ...], open_lanes: bool) -> Any:
    lanes = {0: torch.export.Dim("lanes", min=1, max=MAX_LANES)}
    rest = ((lanes,) * (len(inputs) - 2),) if len(inputs) > 2 else ()
    shapes = (lanes, lanes, *rest) if open_lanes else None
    TALKATIVE.addFilter(_silent)  # it writes down the graph of what it cannot follow, at length
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(network, inputs, strict=False, dynamic_shapes=shapes)
    finally:
        TALKATIVE.removeFilter(_silent)


def _silent(record: logging.LogRecord) -> bool:
    return record.levelno > logging.WARNING


def _draws(node: Any) -> bool:
    """Whether a node of a graph draws random numbers; a dropout that drops nothing does not."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    given = node.args
    if node.target is torch.ops.aten.scaled_dot_product_attention.default:
        return len(given) > 4 and given[4] != 0
    drops = "dropout" in str(node.target)
    return not (drops and len(given) > 2 and (given[1] == 0 or given[2] is False))
