"""The terms of a step: a column of the rows times an operand, and nothing where the column is 0.

0 times NaN is NaN, and so is 0 times infinity. A coefficient of zero therefore masks its operand: what a network says
at the time of an idle slot, or what a slot's last sample left behind, cannot reach an update that does not weigh it.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from fewstep_kernels.row import COLUMNS


def masked(coefficient: Tensor, operand: Tensor) -> Tensor:
    """The operand, and 0 where its coefficient is 0."""
    return torch.where(coefficient == 0, 0.0, operand)


class Columns:
    """Columns of B rows, [B, 1, 1, 1] each, and the terms that they weigh.

    Args:
        values: by name.
        zeros: those that are 0 in some row; all may be unless it is known, and that changes no bit.
        absent: those that are 0 in every row: their terms need not be computed.
    """

    def __init__(
        self, values: Mapping[str, Tensor], zeros: Collection[str] = COLUMNS, absent: Collection[str] = ()
    ) -> None:
        self._values, self._zeros, self._absent = values, zeros, absent

    @classmethod
    def of(cls, row: Tensor, zeros: Collection[str] = COLUMNS, absent: Collection[str] = ()) -> "Columns":
        """Every column of row [B, K] at once: on a CPU, an op after a U-Net has emptied the caches is 5 us."""
        return cls(dict(zip(COLUMNS, row[:, :, None, None, None].unbind(1), strict=True)), zeros, absent)

    def __getitem__(self, name: str) -> Tensor:
        return self._values[name]

    def lacks(self, name: str) -> bool:
        """Whether the column is known to be 0 in every row."""
        return name in self._absent

    def masked(self, name: str, operand: Tensor) -> Tensor:
        """The operand, and 0 where the column is 0."""
        return masked(self[name], operand) if name in self._zeros else operand

    def times(self, name: str, operand: Tensor) -> Tensor:
        """column operand."""
        if name in self._absent:
            return torch.zeros_like(operand)
        return self[name] * self.masked(name, operand)

    def times_(self, name: str, operand: Tensor) -> Tensor:
        """As `times`, in place."""
        if name in self._absent:
            return operand.zero_()
        operand.mul_(self[name])
        return operand.masked_fill_(self[name] == 0, 0.0) if name in self._zeros else operand

    def add_(self, total: Tensor, name: str, operand: Tensor) -> Tensor:
        """total + column operand, in place."""
        if name in self._absent:
            return total
        return total.addcmul_(self[name], self.masked(name, operand))
