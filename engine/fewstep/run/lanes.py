"""Which lanes a sample owns. A lane is a row of the network's batch.

m = uncond + w (cond - uncond) (Ho and Salimans 2022, in diffusers' convention). Both halves run in one batch. A plan
whose w is 1 on every row needs the conditional half alone, one whose w is 0 the unconditional half alone: the sample
then owns a single lane that carries the half it needs, and nothing is combined.
"""

from collections.abc import Iterator, Sequence

from fewstep.diffusion.plan import Plan
from fewstep.errors import ArgumentError


def lanes_of(plan: Plan) -> int:
    """How many lanes a sample of this plan owns."""
    return 2 if plan.halves == "both" else 1


def assign_lanes(plans: Sequence[Plan], free: Sequence[int]) -> list[tuple[int, int]]:
    """(cond_lane, uncond_lane) of each sample, of the lanes that are free.

    One lane for each sample, in order, and behind them a second one for each that needs both halves; where it owns
    one, both are the same.
    """
    firsts, seconds = free[: len(plans)], iter(free[len(plans) :])
    return [(lane, next(seconds) if plan.halves == "both" else lane) for lane, plan in zip(firsts, plans, strict=True)]


def batches(plans: Sequence[Plan], most: int) -> Iterator[list[int]]:
    """The places of the samples in order, cut where a batch would own more than `most` lanes.

    Raises:
        ArgumentError: a guided sample where there is one lane; before the first batch.
    """
    if max(map(lanes_of, plans)) > most:
        raise ArgumentError("max_batch", most, "at least 2: a guided sample owns two lanes")
    batch: list[int] = []
    used = 0
    for place, plan in enumerate(plans):
        owned = lanes_of(plan)
        if used + owned > most:
            yield batch
            batch, used = [], 0
        batch.append(place)
        used += owned
    yield batch


def calls_in(plans: Sequence[Plan], parts: Sequence[Sequence[int]]) -> int:
    """How often the network is called for batches one after another: for each as often as its longest plan says."""
    return sum(max(len(plans[place]) for place in places) for places in parts)
