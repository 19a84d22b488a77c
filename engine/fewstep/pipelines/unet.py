"""U-Nets of diffusers as views whose call runs our own network over the same weights."""

import copy
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import torch
from torch import Tensor, nn

from fewstep.errors import ArgumentError
from fewstep.models.lora.adapters import Adapters
from fewstep.models.net.conditional import ConditionalUNet
from fewstep.models.net.residuals import Residuals
from fewstep.pipelines.calls import ConditionCall, PixelCall, times
from fewstep.pipelines.network import LAYOUTS, Network, kind_of
from fewstep.pipelines.refusals import HOOKS, REFUSED, check_processors

OFFLOADING: Final = ("_hf_hook", "_old_forward")  # where accelerate keeps its hook


def accelerated_unet(unet: nn.Module, argument: str = "unet") -> nn.Module:
    """A view of a UNet2DConditionModel or UNet2DModel whose call runs our network; `unet` itself if it is such a view.

    The view is of the same class and shares all that the original has: attributes, config, weights, mode. What is set
    on the one is set on the other. Weights that our network reads side by side lie side by side from now on, and the
    original's are views of them, with the same values; it can still be called, and runs diffusers' code.

    Raises:
        ArgumentError: another module, or one that does not compute what its config says, see `refusals`.
        ModelError: a field of its config that fewstep has no layers for.
    """
    if isinstance(unet, View):
        return unet
    kind = kind_of(unet)
    if kind is None:
        raise ArgumentError(argument, type(unet).__name__, f"{' or '.join(LAYOUTS)} of diffusers, itself")
    network = Network(unet, kind, argument)
    kind_of_view: Any = _view_class(type(unet))  # type: ignore[arg-type]
    view: nn.Module = object.__new__(kind_of_view)
    object.__setattr__(view, "__dict__", unet.__dict__)
    object.__setattr__(view, "fewstep_network", network)
    object.__setattr__(view, "fewstep_hooks", {})
    return view


class _SameClass(type):
    """Of the classes of views: each equals the class of diffusers that it is made of.

    `Pipeline.from_pipe` of diffusers hands a module over only where `type(module)` is among the classes it expects.
    """

    def __eq__(cls, other: object) -> bool:
        return cls is other or cls.__bases__[-1] is other

    def __hash__(cls) -> int:
        return hash(cls.__bases__[-1])


class View:
    """What the views have in place of diffusers' own.

    Their attributes are the original's, but for those of their own:

    Attributes:
        fewstep_network: our network, and the original. Its `kept.drop()` forgets what was made of the last prompt, for
            whoever writes into weights or a prompt past torch's count of writes: through `.data`, through the memory of
            a numpy array, or as torch's fused optimizers.
        fewstep_hooks: what accelerate sets on a module that it moves to the CPU between two runs.
    """

    __slots__ = ("fewstep_hooks", "fewstep_network")
    fewstep_network: Network
    fewstep_hooks: dict[str, Any]
    training: bool

    @property
    def forward(self) -> Callable[..., Any]:
        """Of the class, or what `pipe.enable_model_cpu_offload` has wrapped around it; not the original's own."""
        wrapper: Callable[..., Any] = self.fewstep_hooks.get("forward", self._run)
        return wrapper

    @forward.setter
    def forward(self, wrapper: object) -> None:
        if wrapper == self._run:
            self.fewstep_hooks.pop("forward", None)
        elif "_hf_hook" in self.fewstep_hooks:
            self.fewstep_hooks["forward"] = wrapper
        else:
            raise ArgumentError("forward", wrapper, HOOKS)

    @property
    def fewstep_lora(self) -> Adapters:
        """LoRA of this U-Net, merged into the weights where they lie: `load(file)`, `set({name: weight})`, `unload()`.

        The original has the same weights, and gets its own back, bit for bit, with the last `unload` or with
        `fewstep.restore`. While adapters are loaded the weights do not move: `.to()` is refused.
        """
        return self.fewstep_network.adapters

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        if name in OFFLOADING and name in self.fewstep_hooks:
            return self.fewstep_hooks[name]
        return super().__getattr__(name)  # type: ignore[misc]

    def __setattr__(self, name: str, value: object) -> None:
        if name == "_diffusers_hook" or (name == "_hf_hook" and type(value).__name__ != "CpuOffload"):
            self.fewstep_hooks.clear()
            raise ArgumentError("unet", f"hooks that offload, cast or cache it, a {type(value).__name__}", HOOKS)
        if name in OFFLOADING:
            self.fewstep_hooks[name] = value
        else:
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name in OFFLOADING:
            del self.fewstep_hooks[name]
        else:
            super().__delattr__(name)

    def _apply(self, move: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """`.to()` and its kin: the weights move, and the next call shares them where they are."""
        weight = next(self.fewstep_network.original.parameters())
        with torch.no_grad():
            moved = move(weight)
        if moved.data_ptr() != weight.data_ptr() or moved.is_meta:
            self.fewstep_network.let_go()
        return super()._apply(move, recurse)  # type: ignore[misc]

    def set_attn_processor(self, processor: Any) -> None:
        """Those that compute attention in another way are taken, and take no effect here."""
        check_processors(processor, "processor")
        super().set_attn_processor(processor)  # type: ignore[misc]

    def extra_repr(self) -> str:
        return "accelerated by fewstep"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.fewstep_network.original, memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A copy, and what a pickle holds, is a module of diffusers."""
        return self.fewstep_network.original.__reduce_ex__(1)  # 2 and up would name the class of the view

    def _check_training(self) -> None:
        if not self.training:
            return
        weights = self.fewstep_network.original.parameters()
        learns = torch.is_grad_enabled() and any(weight.requires_grad for weight in weights)
        drops = bool(self.fewstep_network.current().config.dropout)
        if learns or drops:
            why = "its weights get no gradients" if learns else "it drops nothing out"
            allowed = f"evaluation mode, or torch.no_grad(): call .eval(); or fewstep.restore it to train, as {why}"
            raise ArgumentError("unet", "an accelerated one in training mode", allowed)


class ConditionView(View):
    """Of a UNet2DConditionModel."""

    __slots__ = ()

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        """[B, C, H, W] in a UNet2DConditionOutput, or in a tuple."""
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

        call = ConditionCall(*args, **kwargs)
        self._check_training()
        network = self.fewstep_network.current()
        assert isinstance(network, ConditionalUNet)
        call.check(network)
        steady = self.fewstep_network.kept.of(network, call.conditioning(network), self.fewstep_network.steady_weights)
        modulation = steady.modulation(network, times(call.timestep, call.sample, torch.float64))
        residuals = Residuals.given(call.down_block_additional_residuals, call.mid_block_additional_residual)
        prediction = network.predict(call.sample, modulation, steady.kv, residuals).contiguous()
        return UNet2DConditionOutput(sample=prediction) if call.return_dict else (prediction,)


class PixelView(View):
    """Of a UNet2DModel."""

    __slots__ = ()

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        """[B, C, H, W] in a UNet2DOutput, or in a tuple."""
        from diffusers.models.unets.unet_2d import UNet2DOutput

        call = PixelCall(*args, **kwargs)
        self._check_training()
        network = self.fewstep_network.current()
        t = times(call.timestep, call.sample, torch.int64)  # as diffusers reads a float there
        prediction = network(call.sample, t, call.class_labels).contiguous()
        return UNet2DOutput(sample=prediction) if call.return_dict else (prediction,)


@lru_cache
def _view_class(base: Any) -> type[nn.Module]:
    """The class of the views of one of diffusers: it goes by that class's name, as a saved pipeline tells."""
    own = PixelView if base.__name__ == "UNet2DModel" else ConditionView
    refused = {name: _refusing(name, allowed) for name, allowed in REFUSED.items() if hasattr(base, name)}
    names = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__slots__": ()}
    made: Any = _SameClass(base.__name__, (own, base), names | refused)
    return made  # type: ignore[no-any-return]


def _refusing(name: str, allowed: str) -> Callable[..., None]:
    def refuse(self: object, *args: object, **kwargs: object) -> None:
        raise ArgumentError(name, "an accelerated U-Net", allowed)

    refuse.__name__ = name
    return refuse
