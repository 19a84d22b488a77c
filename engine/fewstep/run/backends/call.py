"""A kind of call: what the arguments of a network are in all but their values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

Kind = tuple[tuple[str, torch.Size, torch.dtype], ...]


class Like(NamedTuple):
    """What a tensor is, but for its values."""

    shape: torch.Size
    dtype: torch.dtype


@dataclass(frozen=True)
class Call:
    """What a network is called with: x and t by position, all else by name.

    Attributes:
        names: of the arguments behind x and t, in the order in which they are given.
        likes: of x, of t, and of those.
    """

    names: tuple[str, ...]
    likes: tuple[Like, ...]

    @classmethod
    def of(cls, inputs: Sequence[Tensor], names: Sequence[str]) -> "Call":
        """The kind of a call with these tensors: x, t and what has names."""
        return cls(tuple(names), tuple(Like(each.shape, each.dtype) for each in inputs))

    @property
    def batch(self) -> int:
        """Lanes: rows of every input."""
        return int(self.likes[0].shape[0])

    def __str__(self) -> str:
        return " x ".join(str(side) for side in self.likes[0].shape)


def by_position(x: Tensor, t: Tensor, arguments: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """x, t and the rest in their order."""
    return (x, t, *arguments.values())


def prediction_of(answer: Any) -> Any:
    """What a network predicts, of all that it answers: the first of a tuple, `.sample`, or the answer itself."""
    return answer[0] if isinstance(answer, tuple) else getattr(answer, "sample", answer)
