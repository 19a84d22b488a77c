"""Guidance: which U-Net rows a sample owns, and what condition each row carries.

m = uncond + w (cond - uncond) (Ho and Salimans 2022, in diffusers' convention). Both halves run in one U-Net batch. A
plan whose w is 1 on every row needs the conditional half alone, one whose w is 0 the unconditional half alone: the
sample then owns a single U-Net row that carries the half it needs, and nothing is combined.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fewstep.diffusion.plan import Plan
from fewstep_kernels import COLUMN

Halves = Literal["cond", "uncond", "both"]


@dataclass(frozen=True)
class UNetRows:
    """The rows of the U-Net batch. `source[r]` is the sample a row belongs to, `conditional[r]` which half it is."""

    cond_row: tuple[int, ...]
    uncond_row: tuple[int, ...]
    source: tuple[int, ...]
    conditional: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.source)


def halves_of(plan: Plan) -> Halves:
    """Which halves of a guided prediction the rows of a plan use."""
    w = plan.rows[:, COLUMN["w"]]
    if (w == 1).all():
        return "cond"
    return "uncond" if (w == 0).all() else "both"


def assign_rows(plans: Sequence[Plan]) -> UNetRows:
    """One U-Net row per sample, in order, and behind them a second one for each sample that needs both halves."""
    halves = [halves_of(plan) for plan in plans]
    source = list(range(len(plans)))
    conditional = [half != "uncond" for half in halves]
    uncond_row = list(source)
    for sample, half in enumerate(halves):
        if half == "both":
            uncond_row[sample] = len(source)
            source.append(sample)
            conditional.append(False)
    return UNetRows(tuple(range(len(plans))), tuple(uncond_row), tuple(source), tuple(conditional))


def condition_rows(
    rows: UNetRows,
    total: int,
    conditioning: Mapping[str, Tensor],
    negative: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """The conditioning of each U-Net row.

    Args:
        rows: who owns which row.
        total: rows of the U-Net batch; those nobody owns repeat the first, so that they hold something valid.
        conditioning: each [B, ...], the condition of every sample.
        negative: each [B, ...], what stands in its place without the condition.

    Returns:
        each [total, ...].
    """
    spare = [0] * (total - len(rows))
    source = torch.tensor([*rows.source, *spare])
    conditional = torch.tensor([*rows.conditional, *([rows.conditional[0]] * len(spare))])
    result = {}
    for name, cond in conditioning.items():
        gathered = cond[source.to(cond.device)]
        if name in negative:
            uncond = negative[name][source.to(cond.device)].to(cond.dtype)
            pick = conditional.to(cond.device).view(-1, *[1] * (cond.ndim - 1))
            gathered = torch.where(pick, gathered, uncond)
        result[name] = gathered
    return result
