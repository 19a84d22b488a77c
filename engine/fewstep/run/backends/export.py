"""The graph of a network for a kind of call, with the number of lanes left open."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.errors import reason_of
from fewstep.run.backends.backend import UnreadyError
from fewstep.run.backends.call import Call

MAX_LANES = 1024


class ByPosition(nn.Module):
    """A network that is called by position alone, with x as its memory has it: [B, H, W, C]."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module, self.names = module, tuple(names)

    def forward(self, x: Tensor, t: Tensor, *rest: Tensor) -> Tensor:
        """The answer as a tensor."""
        answer = self.module(x.permute(0, 3, 1, 2), t, **dict(zip(self.names, rest, strict=True)))
        taken: Tensor = answer[0] if isinstance(answer, tuple) else getattr(answer, "sample", answer)
        return taken


def exported(module: nn.Module, call: Call, inputs: Sequence[Tensor]) -> Any:
    """The `torch.export.ExportedProgram` of a module in float32, for any number of lanes.

    Raises:
        UnreadyError: torch.export does not take it, with torch's reason.
    """
    x, *rest = inputs
    two = [torch.cat([each[:1]] * 2) for each in (x.permute(0, 2, 3, 1), *rest)]
    lanes = torch.export.Dim("lanes", min=1, max=MAX_LANES)
    shapes = ({0: lanes}, {0: lanes}, tuple({0: lanes} for _ in call.names))
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(ByPosition(module, call.names), tuple(two), strict=False, dynamic_shapes=shapes)
    except Exception as error:  # whatever torch raises for what it cannot follow
        raise UnreadyError(f"torch.export: {reason_of(error)}") from error
