"""Whether a module is as it was when it was looked at: its parts, their code and hooks, and where its weights lie."""

from itertools import chain
from typing import Any

from torch import nn


class Watch:
    """A module as it is now, to be compared with what it is later.

    It is looked at before every call, so it looks at as little as tells: a weight that was moved or assigned lies
    elsewhere. What is written into a weight in place is no change, for it is shared.
    """

    def __init__(self, module: nn.Module) -> None:
        self._parts = list(module.modules())
        self._children = [part._modules for part in self._parts if part._modules]
        self._weights = [part._parameters for part in self._parts if part._parameters]
        inner = self._parts[1:]  # on the module itself hooks are run as ever
        self._hooks = [hooks for part in inner for hooks in hooks_of(part)]
        self._attributes = [vars(part) for part in inner]
        self._processors = [own for own in self._attributes if "processor" in own]
        self._convolutions = [own for own in self._attributes if "padding_mode" in own]
        blocks = module._modules.get("up_blocks")
        self._up = [vars(block) for block in blocks] if isinstance(blocks, nn.ModuleList) else []
        self._found = self._look()

    def is_current(self) -> bool:
        """Whether nothing has been exchanged, hooked, wrapped or moved since."""
        return self._look() == self._found

    def _look(self) -> tuple[object, ...]:
        return (
            [*map(type, self._parts)],
            [*map(id, chain.from_iterable(map(dict.values, self._children)))],
            [weight.data_ptr() for own in self._weights for weight in own.values() if weight is not None],
            [own["forward"] for own in self._attributes if "forward" in own],
            [own.get("processor") for own in self._processors],
            [own.get("padding_mode") for own in self._convolutions],  # which others set for pictures without a seam
            [own.get("s1") for own in self._up],  # of FreeU
            any(self._hooks),
        )


def hooks_of(part: nn.Module) -> tuple[dict[int, Any], ...]:
    """What runs when a part is called, or when a gradient passes it."""
    return part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks
