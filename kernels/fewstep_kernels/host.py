"""The step on a CPU: the twins' bits from fewer torch ops, where the host can see that fewer will do.

Right after a U-Net, whose weights have emptied the caches, a torch op on a tensor of any size costs 3 to 20 us, and
reading the numbers of a small one about 1 us. So the host looks at what the batch needs. A capture or a trace must not:
it would freeze what it saw.
"""

from math import inf
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from fewstep_kernels import reference
from fewstep_kernels.operands import StepOperands
from fewstep_kernels.row import COLUMN, COLUMNS, MAX_HISTORY
from fewstep_kernels.terms import Columns

# c_in_next, k_x, k_m, a, b, e and s are neighbours, and behind them what history takes
UPDATE = slice(COLUMN["c_in_next"], COLUMN["s"] + 1)
WITH_HISTORY = slice(COLUMN["c_in_next"], COLUMN["h_m"] + 1)


class HostStep:
    """The two ops of every step, for one run after another.

    It keeps how numpy sees the small tensors that it is called with, since a run's are the same at each step: to make
    those views and torch's of single columns took 15 us of a step of 48, and three times that after a U-Net.
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Tensor, NDArray[Any]]] = {}  # by id, which is the tensor's while it is held
        self._columns: tuple[Tensor, dict[str, Tensor]] | None = None

    def begin_step(
        self,
        table: Tensor,  # [B, N + 1, K]
        index: Tensor,  # [B] int64, advanced in place up to N
        row: Tensor,  # [B, K] written
        step: Tensor,  # [B] int64, written
        t: Tensor,  # [R] written
        cond_lane: Tensor,  # [B] int64
        uncond_lane: Tensor,  # [B] int64
        r: Tensor | None = None,  # [R] written
    ) -> None:
        """`reference.begin_step`: a slice of the table where all slots stand at one index, in their lanes' order."""
        at, last = self._array(index).tolist(), table.shape[1] - 1
        here = at[0]
        if here > last or at != [here] * len(at) or not self._in_order(cond_lane, len(t)):
            reference.begin_step(table, index, row, step, t, cond_lane, uncond_lane, r)
            return
        rows = self._array(row)
        rows[:] = self._array(table)[:, here]
        self._array(t)[:] = rows[:, COLUMN["t"]]
        if r is not None:
            self._array(r)[:] = rows[:, COLUMN["r"]]
        self._array(step).fill(here)
        self._array(index).fill(min(here + 1, last))

    def denoise_step(self, operands: StepOperands) -> None:
        """`reference.denoise_step`: x_0 = clip(k_x x + k_m m), x' = a x + b x_0 + e m + s z + sum_j c_j h^(-j).

        That is all where sample b owns lane b alone, nothing but history is optional, and any history and any noise,
        which is given, are of one row of the plans. Everything else is left to the twin, which is told as well which
        coefficients are 0: a term is left out where all are, and only a column in which some are is masked.
        """
        o, samples, at = operands, len(operands.x), self._array(operands.step).tolist()
        rows = self._array(o.row).tolist()
        used = UPDATE if o.history is None else WITH_HISTORY
        zeros, absent = _zeros([values[used] for values in rows], COLUMNS[used])
        together = at == at[:1] * samples
        given = o.noise if together else None
        z = None if given is None else given[min(at[0] + 1, len(given) - 1)]
        plain = o.statistics is None and o.gradient is None and o.known is None and (o.history is None or together)
        alone = o.x.shape == o.x_in.shape == o.model_output.shape and self._in_order(o.cond_lane, samples)
        draws = o.stochastic and "s" not in absent
        if not plain or not alone or (draws and z is None):
            reference.denoise_step(operands, Columns.of(o.row, *_zeros(rows, COLUMNS)))
            return
        columns = Columns(self._columns_of(o.row), zeros, absent)
        x, m = o.x, o.model_output.to(o.row.dtype)
        x_0 = columns.add_(columns.times("k_x", x), "k_m", m)
        if any(values[COLUMN["clip"]] < inf for values in rows):
            limit = columns["clip"]
            x_0 = torch.minimum(torch.maximum(x_0, -limit), limit)
        past = None
        if o.history is not None:
            past = _past(o.history, columns, at[0])
            kept = torch.mul(columns.masked("h_x", x), columns["h_x"], out=o.history[at[0] % len(o.history)])
            columns.add_(columns.add_(kept, "h_0", x_0), "h_m", m)
        columns.add_(columns.add_(columns.times_("a", x), "b", x_0), "e", m)
        if draws and z is not None:
            columns.add_(x, "s", z)
        if past is not None:
            x += past
        if o.preview is not None:
            o.preview.copy_(x_0)
        torch.mul(columns.masked("c_in_next", x), columns["c_in_next"], out=o.x_in)

    def _array(self, tensor: Tensor) -> NDArray[Any]:
        """A tensor as numpy sees it, where it lies."""
        seen = self._seen.get(id(tensor))
        if seen is None:
            seen = self._seen[id(tensor)] = tensor, tensor.numpy()
        return seen[1]

    def _columns_of(self, row: Tensor) -> dict[str, Tensor]:
        """The columns of row [B, K] by name, [B, 1, 1, 1] each."""
        if self._columns is None or self._columns[0] is not row:
            columns = row.view(len(row), -1, 1, 1, 1).unbind(1)
            self._columns = row, dict(zip(COLUMNS, columns, strict=True))
        return self._columns[1]

    def _in_order(self, cond_lane: Tensor, lanes: int) -> bool:
        """Whether the lanes are the samples', one each."""
        found: list[int] = self._array(cond_lane).tolist()
        return found == [*range(lanes)]


def _past(history: Tensor, columns: Columns, step: int) -> Tensor | None:
    """sum_j c_j h^(-j); None where no row looks back."""
    depth, total = len(history), None
    for j in range(1, min(depth, MAX_HISTORY) + 1):
        if not columns.lacks(f"c_{j}"):
            term = columns.times(f"c_{j}", history[(step - j) % depth])
            total = term if total is None else total.add_(term)
    return total


def _zeros(rows: list[list[float]], names: tuple[str, ...]) -> tuple[set[str], set[str]]:
    """The columns of these names that are 0 in some row, and those that are in all."""
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    zeros = {name for name, values in columns.items() if 0 in values}
    return zeros, {name for name in zeros if not any(columns[name])}
