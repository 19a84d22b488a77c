"""A module of diffusers as a view: its structure again over the same tensors, where some parts run code of ours.

The view and the original hold one set of tensors:

    weights loaded into either one, in place or assigned, are seen by both;
    `.to()`, `.half()` and `requires_grad_()` of the view change the shared tensors, and so the original's;
    `state_dict()` of the view has the original's keys in their order, and `load_state_dict()` takes them;
    hooks that were registered by then, and later, on a part that both have are run by both.

The view's own are the mode (`train()`, `eval()`), every attribute that is set on it later, and the structure: a
submodule that is exchanged in one of them later, as peft does for a LoRA, is not seen by the other. `copy.deepcopy` of
the view gives a module with tensors of its own that runs the same code.
"""

from collections.abc import Mapping

from torch import nn

from fewstep.errors import ArgumentError
from fewstep.pipelines.refusals import is_own_method
from fewstep.run.modules import GENERATED, view_of


def shared_view(module: nn.Module, classes: Mapping[nn.Module, type[nn.Module]], argument: str = "module") -> nn.Module:
    """A view of `module` in which the submodules that are keys of `classes` run the forward of the class given there.

    Such a class reads the attributes of the module that it stands for, and has none of its own. The original keeps its
    attributes, mode, dtype and device.

    Args:
        module: of which a view is made.
        classes: for a submodule, or `module` itself, the class that its part of the view has; the others keep theirs.
        argument: what the caller of this function calls the module, for errors.

    Raises:
        ArgumentError: a module in it is scripted, traced or compiled, or has a method of its own on the instance, as
            offloading gives it. That code would run the original in place of the view.
    """
    for name, part in module.named_modules():
        if found := _own_code(part):
            place = f"whose {name} is" if name else "that is"
            allowed = "one that runs the code of its class: accelerate it first, then compile, offload or wrap it"
            raise ArgumentError(argument, f"{type(module).__name__} {place} {found}", allowed)
    view = view_of(module, classes)
    for part, own in zip(module.modules(), view.modules(), strict=True):
        for name in [name for name, value in vars(part).items() if is_own_method(part, name, value)]:
            del vars(own)[name]  # it is bound to the original, and what the class of the view says is the same or ours
    return view


def runs_its_class(module: nn.Module, cls: type[nn.Module]) -> bool:
    """Whether to call `module` is to run the forward of `cls`, with no hook and nothing wrapped around it.

    Only then may its parameters be read in place of a call: whoever wraps a module later, as offloading and peft do,
    may keep its weights elsewhere until the call.
    """
    hooked = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return type(module) is cls and not hooked and "forward" not in vars(module)


def _own_code(module: nn.Module) -> str | None:
    """What runs in place of the class's code, in words; None if nothing does."""
    if isinstance(module, GENERATED):
        return "scripted or traced"
    if module._compiled_call_impl is not None:
        return "compiled"
    for name, value in vars(module).items():
        overrides = callable(value) and callable(getattr(type(module), name, None))
        if overrides and not is_own_method(module, name, value):
            return f"wrapped, with a {name} of its own on the instance"
    return None
