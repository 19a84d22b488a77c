"""Which lanes a sample owns, and what condition each of them carries. A lane is a row of the network's batch.

m = uncond + w (cond - uncond) (Ho and Salimans 2022, in diffusers' convention). Both halves run in one batch. A plan
whose w is 1 on every row needs the conditional half alone, one whose w is 0 the unconditional half alone: the sample
then owns a single lane that carries the half it needs, and nothing is combined.
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
class Lanes:
    """Who owns which lane: the i-th is of sample `source[i]`, and `conditional[i]` says which half of it."""

    cond_lane: tuple[int, ...]
    uncond_lane: tuple[int, ...]
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


def assign_lanes(plans: Sequence[Plan]) -> Lanes:
    """One lane per sample, in order, and behind them a second one for each sample that needs both halves."""
    halves = [halves_of(plan) for plan in plans]
    source = list(range(len(plans)))
    conditional = [half != "uncond" for half in halves]
    uncond_lane = list(source)
    for sample, half in enumerate(halves):
        if half == "both":
            uncond_lane[sample] = len(source)
            source.append(sample)
            conditional.append(False)
    return Lanes(tuple(range(len(plans))), tuple(uncond_lane), tuple(source), tuple(conditional))


def condition_lanes(
    lanes: Lanes,
    total: int,
    conditioning: Mapping[str, Tensor],
    negative: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """The conditioning of each lane.

    Args:
        lanes: who owns which.
        total: lanes of the batch; those nobody owns repeat the first, so that they hold something valid.
        conditioning: each [B, ...], the condition of every sample.
        negative: each [B, ...], what stands in its place without the condition.

    Returns:
        each [total, ...].
    """
    spare = [0] * (total - len(lanes))
    source = torch.tensor([*lanes.source, *spare])
    conditional = torch.tensor([*lanes.conditional, *([lanes.conditional[0]] * len(spare))])
    result = {}
    for name, cond in conditioning.items():
        gathered = cond[source.to(cond.device)]
        if name in negative:
            uncond = negative[name][source.to(cond.device)].to(cond.dtype)
            pick = conditional.to(cond.device).view(-1, *[1] * (cond.ndim - 1))
            gathered = torch.where(pick, gathered, uncond)
        result[name] = gathered
    return result
