"""What is checked before a model is written, so that all that is written can be read."""

import json
from dataclasses import fields

import torch
from safetensors.torch import save
from torch import Tensor, nn

from fewstep.errors import ArgumentError, ModelError
from fewstep.fields import MAX_JSON_BYTES, parse_json, shown
from fewstep.models.layouts.keys import own_keys
from fewstep.models.net.build import empty_unet
from fewstep.models.net.conditional import ConditionalUNet
from fewstep.models.net.unet import FlowMapUNet, UNet
from fewstep.models.safe_load import DTYPES
from fewstep.models.spec import ModelSpec

WRAPPERS = ("_orig_mod", "module")  # where torch.compile, and DataParallel and its like, keep what they wrap


def own_unet(module: nn.Module) -> UNet:
    """The U-Net itself, out of what wraps the whole of it.

    Raises:
        ArgumentError: another network, or a class of its own, whose code a folder could not keep.
    """
    inner: object = module
    while isinstance(inner, nn.Module) and not isinstance(inner, UNet):
        parts = inner._modules
        inner = next((parts[name] for name in WRAPPERS if name in parts), None)
    own = type(inner) in (UNet, FlowMapUNet, ConditionalUNet)
    if not isinstance(inner, UNet) or not own or "forward" in vars(inner):
        what = type(module if inner is None else inner).__name__
        allowed = "a fewstep.models.UNet, by itself or in torch.compile or DataParallel; code of its own is not kept"
        raise ArgumentError("unet", f"{what} with a forward of its own" if own else what, allowed)
    return inner


def checked_weights(unet: UNet) -> bytes:
    """The U-Net's parameters as safetensors.

    Raises:
        ArgumentError: parameters that are not those of its config (parametrized, replaced, added), or that are not
            plain finite numbers.
    """
    expected = {name: pieces[0].shape for name, pieces in own_keys(empty_unet(unet.config)).items()}
    state = {_unwrapped(name): tensor for name, tensor in unet.state_dict().items()}
    for name, tensor in state.items():
        if name not in expected:
            allowed = "the parameters of a U-Net of its config; take off what was added, such as parametrizations"
            raise ArgumentError("unet", name, allowed)
        if tuple(tensor.shape) != expected[name]:
            raise ArgumentError("unet", f"{name} {list(tensor.shape)}", f"{list(expected[name])}, as its config says")
    missing = next((name for name in expected if name not in state), None)
    if missing is not None:
        raise ArgumentError("unet", f"no {missing}", "all parameters of a U-Net of its config")
    return save({name: _checked(name, tensor) for name, tensor in state.items()})


def checked_spec(spec: ModelSpec) -> bytes:
    """The spec as JSON.

    Raises:
        ArgumentError: one that JSON does not give back, such as with a number that is not finite.
    """
    allowed = "a spec that JSON gives back"
    try:
        plain = ModelSpec.from_dict(spec.to_dict(), "spec")
        data = json.dumps(plain.to_dict(), indent=2, allow_nan=False).encode() + b"\n"
        again = ModelSpec.from_dict(parse_json(data, "spec"), "spec")
    except (TypeError, ValueError, ModelError) as error:
        raise ArgumentError("spec", spec.name, f"{allowed}: {error}") from error
    if len(data) > MAX_JSON_BYTES:
        raise ArgumentError("spec", f"{len(data):,} bytes", f"{allowed}: at most {MAX_JSON_BYTES:,} bytes")
    for field in fields(plain):
        said, read = getattr(plain, field.name), getattr(again, field.name)
        if said != read:
            raise ArgumentError(f"spec.{field.name}", said, f"{allowed}, and not {shown(read)}")
    return data


def _unwrapped(name: str) -> str:
    """A parameter's name without the wrappers of submodules."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _checked(name: str, parameter: Tensor) -> Tensor:
    """A copy on the CPU, contiguous and of its own memory, which safetensors asks for."""
    tensor = parameter.detach()
    if type(tensor) is not Tensor or tensor.layout != torch.strided or tensor.is_meta:
        kind = f"{name} as {type(tensor).__name__} on {tensor.device}"
        raise ArgumentError("unet", kind, "dense tensors that hold their numbers")
    if tensor.dtype not in DTYPES:
        raise ArgumentError("unet", f"{name} in {tensor.dtype}", ", ".join(map(str, DTYPES)))
    if not tensor.to(torch.float32).isfinite().all():
        raise ArgumentError("unet", f"{name} with NaN or infinity", "numbers that are finite in float32")
    return tensor.to("cpu", copy=True, memory_format=torch.contiguous_format)
