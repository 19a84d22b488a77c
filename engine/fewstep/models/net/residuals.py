"""What another network adds to a U-Net on its way (Zhang et al., Adding Conditional Control, 2302.05543)."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fewstep.errors import ArgumentError


@dataclass(frozen=True, eq=False)
class Residuals:
    """The outputs of a ControlNet.

    Attributes:
        down: one for each result that the way down keeps, of its shape [B, C, H, W], in the order they are made.
        mid: [B, C, H, W] for what leaves the middle.
    """

    down: Sequence[Tensor]
    mid: Tensor

    @classmethod
    def given(cls, down: Sequence[Tensor] | None, mid: Tensor | None) -> "Residuals | None":
        """Both, or None where neither is given. ArgumentError for one alone."""
        if (down is None) != (mid is None):
            name = "down_residuals" if down is None else "mid_residual"
            raise ArgumentError(name, None, "tensors, beside the other: a ControlNet gives both")
        return None if down is None or mid is None else cls(down, mid)

    def added_to(self, kept: Sequence[Tensor]) -> list[Tensor]:
        """kept + down, each to each. ArgumentError for another number of them, or other shapes."""
        if len(self.down) != len(kept):
            allowed = f"{len(kept)}, one for each result that the way down keeps"
            raise ArgumentError("down_residuals", f"{len(self.down)} tensors", allowed)
        for index, (own, added) in enumerate(zip(kept, self.down, strict=True)):
            if own.shape != added.shape:
                raise ArgumentError(f"down_residuals[{index}]", list(added.shape), f"{list(own.shape)}")
        return [own + added for own, added in zip(kept, self.down, strict=True)]
