"""What a backend is: it makes a program of a network for one kind of call."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn

from fewstep.run.backends.call import Call


class UnreadyError(Exception):
    """A backend cannot make a program of this network; the message says why, in words that end no sentence."""


class Program(Protocol):
    """A network made ready for one kind of call."""

    @property
    def about(self) -> Mapping[str, object]:
        """What is worth telling of it, for `Engine.stats`: seconds that it took, and of what kind it is."""
        ...

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """The network's answer to x, t and the rest in the order of the call; it holds until the next call."""
        ...


class Backend(Protocol):
    """Something that executes a network."""

    @property
    def name(self) -> str:
        """One of `BACKENDS`."""
        ...

    @property
    def copies(self) -> bool:
        """Whether its programs hold copies of the weights, so that those written later are not seen by them."""
        ...

    def make(self, module: nn.Module, call: Call, inputs: Sequence[Tensor]) -> Program:
        """A program for a kind of call, of which `inputs` are the first.

        Raises:
            UnreadyError: there is none.
        """
        ...

    def forget(self) -> None:
        """The weights have changed: what is kept to make programs of is dropped."""
        ...
