"""What the loop calls. A denoiser prepares what a sample is conditioned on, once, and predicts, in each step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor, nn

from fewstep.errors import ArgumentError
from fewstep.run.backends.call import prediction_of
from fewstep.run.backends.network import Network
from fewstep.run.inputs import Inputs


class Denoiser(Protocol):
    """A network seen from a run."""

    @property
    def prepares(self) -> bool:
        """Whether `prepare` does anything."""
        ...

    def look(self) -> None:
        """Some steps begin: forget what was made of weights that have changed since."""
        ...

    def prepare(
        self, condition: Mapping[str, Tensor], times: Tensor, ends: Tensor | None = None
    ) -> Mapping[str, Tensor]:
        """What `predict` takes for one lane of one sample, each [...]: all work that does not depend on x.

        Args:
            condition: each [...], what the lane carries.
            times: [N] the t that it will be called with; the last is repeated where the plan is shorter.
            ends: [N] the r beside each of them, for a network that is told a second time; else None.
        """
        ...

    def predict(
        self,
        x_in: Tensor,  # [R, C, H, W] in the network's dtype, channels last
        t: Tensor,  # [R] float32, or float64 beside a float64 network
        prepared: Mapping[str, Tensor],  # each [R, ...]
        r: Tensor | None = None,  # [R] as t, for a network that is told a second time
    ) -> Tensor:  # [R, C, H, W], or [R, 2C, H, W] with a learned variance
        """What the plan says the network predicts."""
        ...


@dataclass(frozen=True)
class ModuleDenoiser:
    """Any module called as module(x_in, t, **condition), its answer taken from `.sample` or the first of a tuple.

    A module whose forward names `r` is told a second time there, [R] like t: where a flow map goes to, and t itself
    unless the plan says otherwise. A module may have a method `prepare_condition(condition, times)`: then it is called
    as module(x_in, t, **prepared) with what that returned for each lane, see `Denoiser.prepare`. Where it is told a
    second time and the method names `ends`, that is called with the r beside those times, [N], under that name.

    Attributes:
        module: the network.
        label_argument: what its forward calls the labels; see `Inputs.labels`.
        channels: how many channels its answer may have.
        sizes: of a sample beside its channels, where they are not the two of x_in: x_in is viewed so.
        index: the network takes its times as int64: t and r, which are whole then, in another dtype.
        second_time: its forward names `r`; see `Inputs.second_time`.
        network: what is called in the module's place, as a backend executes it; the module itself unless given.
    """

    module: nn.Module
    label_argument: str
    channels: tuple[int, ...]
    sizes: tuple[int, ...] = ()
    index: bool = False
    second_time: bool = False
    network: Network | None = None

    @property
    def prepares(self) -> bool:
        """Whether the module has a `prepare_condition`."""
        return hasattr(self.module, "prepare_condition")

    def look(self) -> None:
        """Whether the module has changed: what a backend has made of it is of how it was."""
        if self.network is not None:
            self.network.look()

    def prepare(
        self, condition: Mapping[str, Tensor], times: Tensor, ends: Tensor | None = None
    ) -> Mapping[str, Tensor]:
        """What the module's own `prepare_condition` makes of it; as it is where there is none."""
        own: Callable[..., Mapping[str, Tensor]] = getattr(self.module, "prepare_condition")  # noqa: B009
        here = {name: rows.to(times.device) for name, rows in condition.items()}
        beside = {} if ends is None or "ends" not in Inputs.of_call(own).names else {"ends": self._told(ends)}
        return own(here, self._told(times), **beside)

    def predict(self, x_in: Tensor, t: Tensor, prepared: Mapping[str, Tensor], r: Tensor | None = None) -> Tensor:
        """Call the module, and check the shape of what it answers. r is t where a second time is wanted and not given.

        m(x, t, r = t) is what the network says of the one time t: for a flow map its instantaneous velocity.
        """
        arguments = {self.label_argument if name == "labels" else name: rows for name, rows in prepared.items()}
        if self.second_time:
            arguments["r"] = self._told(t if r is None else r)
        lanes, channels, *folded = x_in.shape
        sizes = self.sizes or tuple(folded)
        if self.sizes:
            x_in = x_in.reshape(lanes, channels, *sizes).contiguous()
        prediction = prediction_of((self.network or self.module)(x_in, self._told(t), **arguments))
        if not isinstance(prediction, Tensor):
            raise ArgumentError(
                "denoiser", f"an answer of {type(prediction).__name__}", "a module that returns a tensor"
            )
        allowed = [(lanes, count, *sizes) for count in self.channels]
        if prediction.shape not in allowed:
            shapes = " or ".join(str([*shape]) for shape in allowed)
            raise ArgumentError("denoiser", f"an answer of shape {list(prediction.shape)}", shapes)
        return prediction.reshape(*prediction.shape[:2], *folded) if self.sizes else prediction

    def _told(self, t: Tensor) -> Tensor:
        return t.to(torch.int64) if self.index else t


def parameter_dtype(module: nn.Module) -> torch.dtype:
    """The dtype of the module's first floating-point parameter, or else buffer; float32 where it has none."""
    tensors = chain(module.parameters(), module.buffers())
    return next((each.dtype for each in tensors if each.is_floating_point()), torch.float32)
