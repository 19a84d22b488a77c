"""Rows of a weight that adapters change in place, and the copy that gives their bits back."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from fewstep.errors import ArgumentError

# What one product writes at a time: small enough that the rows copied just before are still in the cache, so that a
# first merge reads the weight once, writes its copy once and writes the weight once. On an EPYC of 1 MiB a core 256 KiB
# take 0.6 of the time of 512 KiB, and 0.4 of that of whole weights of 1280x1280.
BLOCK_BYTES: Final = {"cpu": 1 << 18, "cuda": 8 << 20}


@dataclass(frozen=True)
class Factors:
    """The two factors of an update of a weight [n, ...].

    Attributes:
        up: [n, r].
        down: [r, ...] with the weight's further sizes; [r, m] once they are as the weight lies in memory.
    """

    up: Tensor
    down: Tensor


@dataclass(frozen=True)
class Balanced(Factors):
    """Factors in float32 that are about as large as each other, so that both can be had in 16 bits.

    Attributes:
        peaks: the largest number in up, and in down.
    """

    peaks: tuple[float, float]

    @classmethod
    def of(cls, up: Tensor, down: Tensor) -> "Balanced":
        """One is multiplied by a power of two, the other divided, which changes no digit of either."""
        high, low = float(up.abs().amax()), float(down.abs().amax())
        usual = 0 < high < math.inf and 0 < low < math.inf
        share = 2.0 ** max(-60, min(60, round(math.log2(high / low) / 2))) if usual else 1.0
        return cls(up / share, down * share, (high / share, low * share))

    def fits(self, weight: float, dtype: torch.dtype) -> bool:
        """Whether both are finite in a dtype, the second times a weight, and so is their product."""
        most, (high, low) = torch.finfo(dtype).max, self.peaks
        if max(high, abs(weight) * low) > most:
            return False
        if high * low * abs(weight) * len(self.down) <= most:
            return True
        return float((self.up @ self.down.flatten(1)).abs().amax()) * abs(weight) <= most


class Region:
    """Rows start to stop of a parameter.

    Args:
        parameter: the weight [n, ...], whose rows lie in memory one after the other.
        start, stop: the rows.
    """

    def __init__(self, name: str, parameter: Tensor, start: int, stop: int) -> None:
        self.name, self.parameter = name, parameter
        self._span = slice(start, stop)
        self.rows, self._order = as_matrix(name, parameter)[self._span], _order(parameter)
        self.base: Tensor | None = None
        self._saved = 0  # numbers of the base that are there

    def allocate(self) -> None:
        """Take memory for the copy."""
        if self.base is None:
            self.base, self._saved = torch.empty_like(self.rows, memory_format=torch.contiguous_format), 0

    def follow(self) -> None:
        """The parameter was moved, to another device, dtype or order in memory: so is the copy of what it was."""
        before, self._order = self._order, _order(self.parameter)
        self.rows = as_matrix(self.name, self.parameter)[self._span]
        if self.base is not None:
            sizes = self.parameter.shape
            plain = self.base.view(-1, *(sizes[dim] for dim in before)).permute(
                0, *(1 + before.index(dim) for dim in range(1, len(sizes)))
            )
            self.base = plain.permute(0, *self._order).flatten(1).to(self.rows.device, self.rows.dtype)

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
        ups = [None] * -(-count // step) if factors is None else factors.up.split(step)
        for block, kept, up in zip(self.rows.split(step), base.split(step), ups, strict=True):
            if kept.storage_offset() >= self._saved:
                kept.copy_(block)
                self._saved = kept.storage_offset() + kept.numel()
            else:
                block.copy_(kept)
            if factors is not None and up is not None:
                block.addmm_(up, factors.down)


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


def joined(parts: Sequence[Balanced], weights: Sequence[float], device: torch.device, dtype: torch.dtype) -> Factors:
    """The weighted sum of several updates as one product: their factors side by side, on a device and in a dtype."""
    ups = [factors.up.to(device, dtype) for factors in parts]
    downs = [(factors.down * weight).to(device, dtype) for factors, weight in zip(parts, weights, strict=True)]
    return Factors(ups[0], downs[0]) if len(parts) == 1 else Factors(torch.cat(ups, dim=1), torch.cat(downs))


def _order(weight: Tensor) -> list[int]:
    """The dimensions of a row, the one with the longest strides first; of one number they are as they come."""
    strides = weight.stride()
    return sorted(range(1, weight.ndim), key=lambda dim: (-strides[dim], dim))
