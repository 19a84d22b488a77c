"""What can be asked of a U-Net of diffusers that our own network would not do: each is refused by its name."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from torch import nn

from fewstep.errors import ArgumentError
from fewstep.pipelines.changes import hooks_of
from fewstep.run.modules import GENERATED

# Processors of attention that differ in how they compute it, and not in what. Their place is taken by our own op.
PLAIN_PROCESSORS: Final = ("AttnProcessor", "AttnProcessor2_0", "SlicedAttnProcessor", "XFormersAttnProcessor")

_FUSE_LORA: Final = (
    "fuse it before (pipe.fuse_lora(), then pipe.unload_lora_weights()), or load it into the accelerated U-Net "
    "(pipe.unet.fewstep_lora.load)"
)
_RESTORE: Final = "fewstep.restore(pipe) first"

HOOKS: Final = f"none but pipe.enable_model_cpu_offload(), which moves the U-Net as a whole; or {_RESTORE}"
# Methods of diffusers that change what a U-Net computes, or where it lies between two calls; and what to do instead.
REFUSED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "load_lora_adapter": f"a U-Net without LoRA layers of peft: {_FUSE_LORA}",
        "add_adapter": f"a U-Net without LoRA layers of peft: {_FUSE_LORA}",
        "load_attn_procs": f"a U-Net with attention of its own config: {_RESTORE}",
        "_load_ip_adapter_weights": f"a U-Net without an IP-Adapter: {_RESTORE}",
        "enable_freeu": f"a U-Net without FreeU: {_RESTORE}",
        "fuse_qkv_projections": "the U-Net as it is: its projections are fused already",
        "enable_layerwise_casting": f"weights of one dtype: {_RESTORE}",
        "enable_group_offload": f"weights that stay in memory: {_RESTORE}",
        "enable_parallelism": f"weights on one device: {_RESTORE}",
        "set_attention_backend": f"the U-Net as it is, which runs fewstep's attention: {_RESTORE}",
        "compile": f"an accelerated U-Net, or a compiled one: {_RESTORE}",
        "compile_repeated_blocks": f"an accelerated U-Net, or a compiled one: {_RESTORE}",
    }
)


def check_unet(unet: nn.Module, argument: str) -> None:
    """ArgumentError for a U-Net of diffusers that does not compute what its config says, and why.

    That is: LoRA layers of peft, an IP-Adapter or another attention processor, FreeU, offloading, casting or caching
    that is hooked into it, hooks on its parts, compiled or wrapped code, and parts exchanged for those of another
    library. `Network` compares the parts with those of the config. Hooks on the U-Net itself run as they are.
    """
    kind = type(unet).__name__
    for name, part in unet.named_modules():
        for found, allowed in _own(part, is_root=not name):
            place = f" in {name}" if name else ""
            raise ArgumentError(argument, f"a {kind} with {found}{place}", allowed)


def check_processors(processors: Any, argument: str) -> None:
    """ArgumentError for attention processors, one or a dict of them, that compute something else than attention."""
    for each in processors.values() if isinstance(processors, dict) else [processors]:
        if found := _other_processor(each):
            raise ArgumentError(argument, found, f"one of {', '.join(PLAIN_PROCESSORS)}: {_RESTORE}")


def _own(part: nn.Module, is_root: bool) -> Iterator[tuple[str, str]]:
    """What a part has that our network has not, and what is allowed instead."""
    package, own = type(part).__module__.split(".")[0], vars(part)
    if package == "peft" or "peft_config" in own:
        yield "LoRA layers of peft", f"one without: {_FUSE_LORA}"
    if own.get("_hf_hook") is not None or "_diffusers_hook" in own:
        advice = "one without: pipe.remove_all_hooks(), accelerate it, then pipe.enable_model_cpu_offload()"
        yield "hooks that offload, cast or cache it", advice
    if isinstance(part, GENERATED) or part._compiled_call_impl is not None or type(part).__name__ == "OptimizedModule":
        yield "compiled code", "one that runs the code of its class"
    if "forward" in own and not is_own_method(part, "forward", own["forward"]):
        yield "a forward of its own on the instance", "one that runs the code of its class"
    if not is_root and any(hooks_of(part)):
        yield "a hook", "hooks on the U-Net itself alone: its parts are not called"
    if found := _other_processor(own.get("processor")):
        yield f"the attention processor {found}", f"one of {', '.join(PLAIN_PROCESSORS)}"
    if own.get("s1") is not None:
        yield "FreeU", "one without: pipe.disable_freeu()"
    if type(own.get("_modules", {}).get("encoder_hid_proj")).__name__ == "MultiIPAdapterImageProjection":
        yield "an IP-Adapter", "one without: pipe.unload_ip_adapter()"
    if package not in ("torch", "diffusers", "peft"):
        yield f"a part of another library, {type(part).__module__}.{type(part).__name__}", "parts of diffusers alone"


def _other_processor(processor: object) -> str | None:
    """The name of a processor that computes something else; None for none, or a plain one."""
    if processor is None:
        return None
    kind = type(processor)
    plain = kind.__module__.startswith("diffusers.") and kind.__name__ in PLAIN_PROCESSORS
    return None if plain else kind.__name__


def is_own_method(part: nn.Module, name: str, value: object) -> bool:
    """Whether a value is the method of that name of the part's class, which accelerate leaves behind its hooks."""
    bound_to, function = getattr(value, "__self__", None), getattr(value, "__func__", None)
    return bound_to is part and function is getattr(type(part), name, None)
