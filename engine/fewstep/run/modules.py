"""A caller's module as the engine runs it: in evaluation mode, on a device, in a dtype; their own is left as it is."""

import copy
from collections.abc import Mapping

import torch
from torch import nn

from fewstep.errors import ArgumentError

GENERATED = (torch.jit.ScriptModule, torch.fx.GraphModule)  # their code is their own, and is copied with them


def own_module(module: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> nn.Module:
    """The module in evaluation mode on `device` and in `dtype` (its own unless given).

    Where it is there already this is a view, which shares all tensors, so weights that are loaded into the module later
    are seen. Else it is a copy. So it is where the module, or one in it, runs other code than its class's: what is
    scripted, compiled, traced by torch.fx or wrapped on the instance, as accelerate does. The module that was given
    keeps its mode, device and dtype.

    Raises:
        ArgumentError: one that is wrapped on the instance and in training: the wrapper may hold on to it as it is.
    """
    if not isinstance(module, GENERATED) and any(_is_wrapped(each) and each.training for each in module.modules()):
        allowed = "one whose class has the forward, or one that is in evaluation mode: call .eval() first"
        raise ArgumentError("module", "a module in training whose forward is wrapped on the instance", allowed)
    tensors = [*module.parameters(), *module.buffers()]
    there = all(
        tensor.device == device and (dtype is None or tensor.dtype == dtype or not tensor.is_floating_point())
        for tensor in tensors
    )
    if there and not any(has_its_own_code(each) for each in module.modules()):
        return view_of(module).eval()
    own = copy.deepcopy(module)
    if not there:
        own = own.to(device=device, dtype=dtype)
    try:
        return own.eval()
    except NotImplementedError:  # what torch.export made has no other mode than the one it was made in
        return own


def has_its_own_code(module: nn.Module) -> bool:
    """Whether what runs is not what the class says."""
    own = isinstance(module, GENERATED) or _is_wrapped(module) or module._compiled_call_impl is not None
    # State in slots is no part of `vars`, so a view of such a module, as of an accelerated U-Net, would lack it.
    return own or any(getattr(kind, "__slots__", ()) for kind in type(module).__mro__)


def _is_wrapped(module: nn.Module) -> bool:
    return "forward" in vars(module) and not isinstance(module, GENERATED)


def view_of(module: nn.Module, classes: Mapping[nn.Module, type[nn.Module]] | None = None) -> nn.Module:
    """The module's structure again, over the same parameters and buffers; only mode and submodules are its own.

    Args:
        module: left as it is.
        classes: for the modules in it that are to run other code, a class whose forward reads the same attributes.
    """
    return _view(module, classes or {}, {})


def _view(module: nn.Module, classes: Mapping[nn.Module, type[nn.Module]], seen: dict[int, nn.Module]) -> nn.Module:
    if id(module) not in seen:
        view = seen[id(module)] = object.__new__(classes.get(module, type(module)))
        children = {
            name: None if child is None else _view(child, classes, seen) for name, child in module._modules.items()
        }
        object.__setattr__(view, "__dict__", {**vars(module), "_modules": children})
    return seen[id(module)]
