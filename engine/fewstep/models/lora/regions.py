"""Rows of a weight that adapters change in place, and the copy that gives their bits back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from fewstep.errors import ArgumentError

# What one product writes at a time: small enough that the rows copied just before are still in the cache, so that a
# first merge reads the weight once, writes its copy once and writes the weight once.
BLOCK_BYTES: Final = {"cpu": 1 << 20, "cuda": 8 << 20}


@dataclass(frozen=True)
class Factors:
    """The two factors of an update of a weight [n, ...].

    Attributes:
        up: [n, r].
        down: [r, ...] with the weight's further sizes; [r, m] once they are as the weight lies in memory.
    """

    up: Tensor
    down: Tensor

    def merged_with(self, weight: float) -> "Factors":
        """weight times it, each of the two about as large as the other, so that 16 bits hold both."""
        down = self.down * weight
        shift = torch.log2(self.up.abs().amax() / down.abs().amax()) / 2
        # A power of two changes no digit of either.
        share = torch.exp2(torch.nan_to_num(shift, posinf=0.0, neginf=0.0).round())
        return Factors(self.up / share, down * share)


class Region:
    """Rows start to stop of a parameter.

    Args:
        parameter: the weight [n, ...], whose rows lie in memory one after the other.
        start, stop: the rows.
    """

    def __init__(self, name: str, parameter: Tensor, start: int, stop: int) -> None:
        self.name, self.parameter = name, parameter
        self.rows = as_matrix(name, parameter)[start:stop]
        self.base: Tensor | None = None
        self._saved = 0  # rows of the base that are there

    def allocate(self) -> None:
        """Take memory for the copy."""
        if self.base is None:
            self.base, self._saved = torch.empty_like(self.rows, memory_format=torch.contiguous_format), 0

    @property
    def bytes(self) -> int:
        """Of the rows, and of their copy."""
        return self.rows.numel() * self.rows.element_size()

    def write(self, factors: Factors | None) -> None:
        """rows = base + up @ down, or the base itself, bit for bit; the base is copied on the way where it is not yet.

        Stopped half-way it can be called again, with other factors too.
        """
        base, count = self.base, len(self.rows)
        if base is None:
            raise RuntimeError("write comes after allocate")
        most = BLOCK_BYTES.get(self.rows.device.type, BLOCK_BYTES["cuda"])
        step = max(1, most * count // max(1, self.bytes))
        for start in range(0, count, step):
            block = slice(start, min(start + step, count))
            if self._saved < block.stop:
                base[block].copy_(self.rows[block])
                self._saved = block.stop
            else:
                self.rows[block].copy_(base[block])
            if factors is not None:
                self.rows[block].addmm_(factors.up[block], factors.down)


def as_matrix(name: str, parameter: Tensor) -> Tensor:
    """A view of a weight [n, ...] as [n, m], the m of a row in the order in which they lie in memory.

    Raises:
        ArgumentError: a row that no such order has.
    """
    weight = parameter.detach()
    if weight.ndim == 2:
        return weight
    try:
        return weight.permute(0, *_order(weight)).view(len(weight), -1)
    except RuntimeError:
        allowed = "a dense weight, so that its data can be changed where it lies"
        raise ArgumentError("lora", f"a layer {name} of strides {parameter.stride()}", allowed) from None


def as_columns(parameter: Tensor, down: Tensor) -> Tensor:
    """A factor [r, ...] with the weight's further sizes as [r, m], in the order of `as_matrix`."""
    return down if parameter.ndim == 2 else down.permute(0, *_order(parameter)).flatten(1)


def joined(parts: Sequence[Factors], weights: Sequence[float], dtype: torch.dtype) -> Factors:
    """The weighted sum of several updates as one product: their factors side by side, in the weight's dtype."""
    each = [factors.merged_with(weight) for factors, weight in zip(parts, weights, strict=True)]
    return Factors(
        torch.cat([factors.up for factors in each], dim=1).to(dtype),
        torch.cat([factors.down for factors in each]).to(dtype),
    )


def _order(weight: Tensor) -> list[int]:
    """The dimensions of a row, the one with the longest strides first; of one number they are as they come."""
    strides = weight.stride()
    return sorted(range(1, weight.ndim), key=lambda dim: (-strides[dim], dim))
