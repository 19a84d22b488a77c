"""A caller's module as the engine runs it: in evaluation mode, on a device, in a dtype; their own is left as it is."""

import copy

import torch
from torch import nn


def own_module(module: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> nn.Module:
    """The module in evaluation mode on `device` and in `dtype` (its own unless given).

    Where it is there already this is a view, which shares all tensors, so weights that are loaded into the module later
    are seen. Else it is a copy. The module that was given keeps its mode, device and dtype.
    """
    tensors = [*module.parameters(), *module.buffers()]
    there = all(
        tensor.device == device and (dtype is None or tensor.dtype == dtype or not tensor.is_floating_point())
        for tensor in tensors
    )
    if isinstance(module, torch.jit.ScriptModule):  # what is compiled cannot be taken apart
        return module.to(device=device, dtype=dtype).eval()
    own = _view(module, {}) if there else copy.deepcopy(module).to(device=device, dtype=dtype)
    return own.eval()


def _view(module: nn.Module, seen: dict[int, nn.Module]) -> nn.Module:
    """The module's structure again, over the same parameters and buffers; only mode and submodules are its own."""
    if id(module) not in seen:
        view = seen[id(module)] = module.__class__.__new__(module.__class__)
        view.__dict__ = dict(module.__dict__)
        view.__dict__["_modules"] = {
            name: None if child is None else _view(child, seen) for name, child in module._modules.items()
        }
    return seen[id(module)]
