"""What a network's call takes, read before the first call: so that a name which nobody takes is told by name."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import nn

LABEL_ARGUMENTS: Final = ("labels", "class_labels", "y")
SECOND_TIME: Final = "r"


@dataclass(frozen=True)
class Inputs:
    """The arguments of a call module(x, t, **others).

    Attributes:
        callable: whether it can be called with x and t, one after the other.
        names: the others, which are given by name.
        required: those of them that have no default.
        others: it takes any further name as well, or its signature cannot be read or is not all that the call is.
        taken: what x and t are called, and the module itself: names that cannot be given once more.
        second_time: it names `r`, the second time of a flow map, which a plan says as it says t: no user gives it.
    """

    callable: bool = True
    names: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    others: bool = True
    taken: tuple[str, ...] = ("self",)
    second_time: bool = False

    @classmethod
    def of(cls, module: nn.Module) -> "Inputs":
        """Of a module of any kind: plain, compiled, scripted, traced, exported, or wrapped.

        What a module with `prepare_condition` is called with is its own affair: that names anything it likes. So do
        hooks and a `__call__` of its own. Then the names are those that were found, not all that there are.
        """
        module = _inner(module)
        if isinstance(module, torch.jit.ScriptModule):
            return _of_schema(module)._told()
        found, own_call = cls.of_call(module.forward), _has_own_call(module)
        if not (own_call or module._forward_pre_hooks or hasattr(module, "prepare_condition")):
            return found._told()
        called = cls.of_call(module.__call__) if own_call else found
        names = called.names if set(called.names) & set(LABEL_ARGUMENTS) else found.names
        return cls(names=names)._told()

    @classmethod
    def of_call(cls, function: Callable[..., object]) -> "Inputs":
        """Of a method, whatever its names mean; anything, where its code is not Python's."""
        return _of_function(function)

    def _told(self) -> "Inputs":
        """With `r` among what is taken, where it is named."""
        if SECOND_TIME not in self.names:
            return self
        names, required = (tuple(name for name in each if name != SECOND_TIME) for each in (self.names, self.required))
        return replace(self, names=names, required=required, taken=(*self.taken, SECOND_TIME), second_time=True)

    @property
    def told(self) -> str:
        """What a run gives it, in words."""
        return "x, t and r" if self.second_time else "x and t"

    @property
    def labels(self) -> str:
        """The name under which it takes labels: `labels`, `class_labels` or `y`."""
        return next((name for name in LABEL_ARGUMENTS if name in self.names), LABEL_ARGUMENTS[0])

    def takes(self, name: object) -> bool:
        """Whether an argument of this name can be given."""
        return isinstance(name, str) and (name in self.names or (self.others and name not in self.taken))

    def __str__(self) -> str:
        return ", ".join(self.names) or "nothing"


def _inner(module: nn.Module) -> nn.Module:
    """The module that a wrapper calls whose own forward takes anything: torch.compile's, DataParallel and its kin."""
    parallel = isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel)
    inner = getattr(module, "module" if parallel else "_orig_mod", None)
    return _inner(inner) if isinstance(inner, nn.Module) else module


def _of_function(function: Callable[..., object]) -> Inputs:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return Inputs()
    kinds = [each.kind for each in parameters]
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    any_number = inspect.Parameter.VAR_POSITIONAL in kinds
    named = [each for each in positional[2:] if each.kind == each.POSITIONAL_OR_KEYWORD]
    named += [each for each in parameters if each.kind == each.KEYWORD_ONLY]
    return Inputs(
        callable=any_number or len(positional) >= 2,
        names=tuple(each.name for each in named),
        required=tuple(each.name for each in named if each.default is each.empty),
        others=inspect.Parameter.VAR_KEYWORD in kinds,
        taken=("self", *(each.name for each in positional[:2] if each.kind == each.POSITIONAL_OR_KEYWORD)),
    )


def _has_own_call(module: nn.Module) -> bool:
    """Whether a `__call__` of its own stands between the caller and its forward."""
    return type(module).__call__ is not nn.Module.__call__ and not isinstance(module, torch.fx.GraphModule)


def _of_schema(module: nn.Module) -> Inputs:
    schema = getattr(module.forward, "schema", None)
    if schema is None:
        return Inputs()
    arguments = schema.arguments[1:]  # the first is the module
    named = [each for each in arguments[2:] if not each.kwarg_only] + [each for each in arguments if each.kwarg_only]
    return Inputs(
        callable=len(arguments) >= 2,
        names=tuple(each.name for each in named),
        required=tuple(each.name for each in named if not each.has_default_value()),
        others=False,
    )
