"""The graph of a network for a kind of call, with the number of lanes left open where the network allows it."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.errors import reason_of
from fewstep.run.backends.backend import UnreadyError
from fewstep.run.backends.call import Call
from fewstep.run.modules import GENERATED, view_of

MAX_LANES = 1024
PIXELS_LAST = (0, 2, 3, 1)


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
        answer = self.module(x, t, **dict(zip(self.names, others, strict=True)))
        taken: Tensor = answer[0] if isinstance(answer, tuple) else getattr(answer, "sample", answer)
        return (taken.permute(PIXELS_LAST) if taken.ndim == 4 else taken).to(self.dtype)


def exported(module: nn.Module, call: Call, inputs: Sequence[Tensor]) -> tuple[Any, bool]:
    """The `torch.export.ExportedProgram` of `ByPosition` of a module, and whether it is for any number of lanes.

    Raises:
        UnreadyError: torch.export does not take it, with torch's reason.
    """
    network = ByPosition(in_float32(module), call.names, call.likes[0].dtype)
    x, *rest = inputs
    laid_out = (x.permute(PIXELS_LAST) if x.ndim == 4 else x, *rest)
    try:
        return _export(network, tuple(torch.cat([each[:1]] * 2) for each in laid_out), open_lanes=True), True
    except Exception:  # whatever torch raises for what it cannot follow
        pass  # a network that counts its lanes may do with one count
    try:
        return _export(network, tuple(each.contiguous() for each in laid_out), open_lanes=False), False
    except Exception as error:
        raise UnreadyError(f"torch.export: {reason_of(error)}") from error


def in_float32(module: nn.Module) -> nn.Module:
    """The module's structure again over the same tensors, those in bfloat16 as float32, which has all their values.

    What its forward assigns while it is looked at stays with this one.
    """
    if isinstance(module, GENERATED):
        return module
    view = view_of(module)
    wide: dict[int, Tensor] = {}
    for part in view.modules():
        own = vars(part)
        own["_parameters"] = {name: _wide(tensor, wide) for name, tensor in part._parameters.items()}
        own["_buffers"] = {name: _wide(tensor, wide) for name, tensor in part._buffers.items()}
    return view


def _wide(tensor: Any, wide: dict[int, Tensor]) -> Any:
    if tensor is None or tensor.dtype != torch.bfloat16:
        return tensor
    if id(tensor) not in wide:
        wide[id(tensor)] = nn.Parameter(tensor.detach().float(), requires_grad=False)
    found = wide[id(tensor)]
    return found if isinstance(tensor, nn.Parameter) else found.detach()


def _export(network: nn.Module, inputs: tuple[Tensor, ...], open_lanes: bool) -> Any:
    lanes = {0: torch.export.Dim("lanes", min=1, max=MAX_LANES)}
    rest = ((lanes,) * (len(inputs) - 2),) if len(inputs) > 2 else ()
    shapes = (lanes, lanes, *rest) if open_lanes else None
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(network, inputs, strict=False, dynamic_shapes=shapes)
