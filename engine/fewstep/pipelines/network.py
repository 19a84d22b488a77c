"""Our network for one U-Net of diffusers, over the same weights."""

import json
import warnings
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn

from fewstep.callers import outside
from fewstep.errors import ArgumentError, some_of
from fewstep.models.layouts import diffusers, diffusers_condition
from fewstep.models.layouts.keys import Naming
from fewstep.models.lora.adapters import Adapters
from fewstep.models.net.build import empty_unet
from fewstep.models.net.config import UNetConfig
from fewstep.models.net.unet import UNet
from fewstep.pipelines.changes import Watch
from fewstep.pipelines.refusals import check_unet
from fewstep.pipelines.sharing import Sharing
from fewstep.pipelines.steady import Kept

Read = Callable[[Any, str], UNetConfig]
LAYOUTS: Final[dict[str, tuple[Read, Callable[[UNetConfig], Naming]]]] = {
    "UNet2DConditionModel": (diffusers_condition.config_from_diffusers_condition, diffusers_condition.naming),
    "UNet2DModel": (diffusers.config_from_diffusers, diffusers.naming),
}
STEADY_LAYERS: Final = ("context_in", "label", "added", "guidance_features")  # beside those of keys and values
SETTINGS: Final = (int, float, str, bool, tuple)
NO_SETTINGS: Final = ("training", "gradient_checkpointing", "_chunk", "sliceable_head_dim")


class Network:
    """Our network for a U-Net of diffusers, kept to the weights that this has.

    Attributes:
        original: the U-Net of diffusers.
        keys: of which of its parameters each of ours is made.
        kept: what was made of the last conditioning.
    """

    def __init__(self, original: Any, kind: str, argument: str) -> None:
        """Of a module of that kind of LAYOUTS. Raises as `accelerated_unet` does."""
        self.original: nn.Module = original
        check_unet(original, argument)
        with torch.device("meta"):
            fresh = type(original).from_config(original.config)
        self._parts = {name: (type(part), settings_of(part) if name else {}) for name, part in fresh.named_modules()}
        self._check_parts(argument)
        read, naming = LAYOUTS[kind]
        where = f"{argument}.config"
        config = read(json.loads(original.to_json_string()), where)
        self._unet = empty_unet(config, where).eval()
        self.keys = naming(config).keys(self._unet)
        self._sharing = Sharing(self._unet, original, self.keys)
        self._watch: Watch | None = None
        self.kept = Kept()
        self.steady_weights: list[Tensor] = []
        self._adapters: Adapters | None = None
        self.bind()

    @property
    def adapters(self) -> Adapters:
        """The LoRA adapters of the network, none at first."""
        unet = self.current()
        if self._adapters is None:
            self._adapters = Adapters(unet, sharers=self._pieces)
        return self._adapters

    def let_go(self) -> None:
        """Hold no weights until the next call, because those of the original move.

        Raises:
            ArgumentError: adapters are loaded. The weights without them lie where these are.
        """
        if self._adapters is not None and self._adapters.weights:
            names = some_of([*self._adapters.weights], 5)
            raise ArgumentError("unet", f"one with LoRA adapters: {names}", "a move once they are unloaded")
        self._adapters = None
        self._watch = None
        self.kept.drop()
        self.steady_weights = []
        self._unet.to("meta")

    def bind(self) -> None:
        """Share the weights as they are now. ArgumentError where the original is not what its config says any more."""
        self._watch = None
        self.kept.drop()
        check_unet(self.original, "unet")
        self._check_parts("unet")
        self._sharing.bind()
        if self._adapters is not None and self._adapters.weights:
            names = some_of([*self._adapters.weights], 5)
            advice = "they can be taken out no more; unload them before weights are moved or assigned"
            warnings.warn(f"LoRA adapters {names} are part of the weights now: {advice}", stacklevel=outside())
        self._adapters = None
        self._watch = Watch(self.original)
        self.steady_weights = self._steady_weights()

    def release(self) -> None:
        """Give the original weights of its own again, without LoRA; a later call of `current` shares them anew."""
        if self._adapters is not None:
            self._adapters.unload()
        self._sharing.release()
        self.let_go()

    def current(self) -> UNet:
        """The network, with the weights that the original has now, wherever they were moved or assigned since."""
        if self._watch is None or not self._watch.is_current():
            self.bind()
        return self._unet

    def _steady_weights(self) -> list[Tensor]:
        """Those that what is kept was made with: ours, and the original's over the same memory."""
        ours, theirs = dict(self._unet.named_parameters()), dict(self.original.named_parameters())
        names = [name for name in ours if name.split(".")[0] in STEADY_LAYERS or name.split(".")[-2] == "kv"]
        pieces = [theirs[piece.name] for name in names for piece in self.keys[name]]
        return [*(ours[name] for name in names), *pieces]

    def _pieces(self, name: str) -> list[tuple[int, Tensor]]:
        """The original's parameters over one of ours, each with its first row there."""
        found, start = [], 0
        for piece in self.keys[name]:
            owner, _, own = piece.name.rpartition(".")
            found.append((start, getattr(self.original.get_submodule(owner), own)))
            start += piece.shape[0] if piece.shape else 0
        return found

    def _check_parts(self, argument: str) -> None:
        """ArgumentError where a part is not of the class that the config makes it of, or not set as it sets it."""
        for name, part in self.original.named_modules():
            kind, expected = self._parts.get(name, (None, {}))
            if type(part) is not kind:
                wanted = "nothing" if kind is None else kind.__name__
                raise ArgumentError(f"{argument}.{name}", type(part).__name__, f"{wanted}, as the config says")
            found = vars(part)
            for setting, value in expected.items():
                if found.get(setting) != value:
                    place = f"{argument}.{name}.{setting}"
                    raise ArgumentError(place, found.get(setting), f"{value!r}, as the config says")


def settings_of(part: nn.Module) -> dict[str, object]:
    """The numbers, words and flags that a part is made of, less those that make no difference to what it computes."""
    found = {name: value for name, value in vars(part).items() if isinstance(value, SETTINGS)}
    return {name: value for name, value in found.items() if not name.startswith(NO_SETTINGS)}


def kind_of(unet: object) -> str | None:
    """UNet2DConditionModel or UNet2DModel, where it is of that very class of diffusers; else None."""
    cls = type(unet)
    return cls.__name__ if cls.__module__.startswith("diffusers.") and cls.__name__ in LAYOUTS else None
