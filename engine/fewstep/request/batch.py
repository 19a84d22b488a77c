"""From a request to the batches that run: which samples share a U-Net call, and what fills the buffers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.diffusion.plan import Plan
from fewstep.errors import ArgumentError
from fewstep.request.lanes import assign_lanes, condition_lanes, halves_of
from fewstep.request.request import Request
from fewstep.request.start import starting_x
from fewstep.run.buffers import Output, Signature, Slot, State, StaticBuffers, as_int64, table_capacity
from fewstep_kernels import STREAM_STEP, normal

AHEAD = 2**22  # numbers: 16 MB


@dataclass(frozen=True)
class Batch:
    """Some samples of a request, ready to fill buffers of `signature`."""

    samples: tuple[int, ...]  # their places in the request
    signature: Signature
    slots: tuple[Slot, ...]
    conditioning: dict[str, Tensor]  # each [R, ...]
    steps: int  # model calls until the last of them is done

    def fill(self, buffers: StaticBuffers) -> None:
        """Put every sample in its slot."""
        buffers.condition(self.conditioning)
        buffers.fill(self.slots)


def split(request: Request, max_lanes: int) -> list[tuple[int, ...]]:
    """The samples in order, cut where a batch would own more than `max_lanes` lanes.

    Raises:
        ArgumentError: a guided sample where there is one lane.
    """
    batches: list[list[int]] = []
    used = max_lanes + 1
    for sample, plan in enumerate(request.plans):
        owned = 2 if halves_of(plan) == "both" else 1
        if owned > max_lanes:
            raise ArgumentError("max_batch", max_lanes, "at least 2: a guided sample owns two lanes")
        if used + owned > max_lanes:
            batches.append([])
            used = 0
        batches[-1].append(sample)
        used += owned
    return [tuple(batch) for batch in batches]


def assemble(
    request: Request,
    samples: tuple[int, ...],
    z: Tensor,  # [B, C, H, W] the initial noise of the whole request
    *,
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    device: torch.device,
    watched: bool,
    padded_lanes: int | None = None,
    output: Output | None = None,
) -> Batch:
    """One batch.

    Args:
        samples: which samples of the request.
        watched: a callback wants previews.
        padded_lanes: run as this many slots and lanes, whoever is there. One more lane is scratch for idle slots.
        output: what the run ends in; None for x.
    """
    plans = [request.plans[sample] for sample in samples]
    noise = None if request.noise is None else request.noise[:, list(samples)]
    if noise is None and device.type == "cpu":
        noise = drawn_ahead(plans, [request.seeds[sample] for sample in samples], z[list(samples)])
    owned = assign_lanes(plans)
    lanes = len(owned) if padded_lanes is None else padded_lanes + 1
    conditioning = condition_lanes(
        owned,
        lanes,
        {name: tensor[list(samples)] for name, tensor in request.conditioning.items()},
        {name: tensor[list(samples)] for name, tensor in request.negative.items()},
    )
    signature = Signature(
        samples=len(samples) if padded_lanes is None else padded_lanes,
        lanes=lanes,
        shape=shape,
        steps=table_capacity(max(len(plan) for plan in plans)),
        dtype=dtype,
        device=device,
        history=max(plan.history for plan in plans),
        learned_variance=any(plan.learned_variance for plan in plans),
        stochastic=any(plan.stochastic for plan in plans),
        statistics=any(plan.statistics for plan in plans),
        preview=watched,
        given_noise=noise is not None,
        known=request.mask is not None,
        conditioning=tuple((name, tuple(t.shape[1:]), t.dtype) for name, t in sorted(conditioning.items())),
        output=output,
    )
    slots = tuple(
        Slot(
            plan=request.plans[sample],
            seed=request.seeds[sample],
            state=_beginning(request, sample, z[sample]),
            cond_lane=owned.cond_lane[slot],
            uncond_lane=owned.uncond_lane[slot],
            noise=None if noise is None else noise[:, slot],
            known=None if request.mask is None or request.image is None else request.image[sample],
            mask=None if request.mask is None else request.mask[sample],
        )
        for slot, sample in enumerate(samples)
    )
    steps = max(len(slot.plan) - slot.state.index for slot in slots)
    return Batch(samples, signature, slots, conditioning, steps)


def drawn_ahead(plans: Sequence[Plan], seeds: Sequence[int], z: Tensor) -> Tensor | None:
    """[N + 1, B, C, H, W]: z and the noise of every row in one call; None where no row draws, or it would be large.

    On a CPU Philox is 150 small ops: 800 us a step between two U-Net calls, 130 us in one call for four steps.
    """
    rows = max(len(plan) for plan in plans)
    if not any(plan.stochastic for plan in plans) or rows * z.numel() > AHEAD:
        return None
    seed = torch.tensor([as_int64(each) for each in seeds]).repeat(rows)
    step = torch.arange(rows).repeat_interleave(len(seeds))
    drawn = normal(seed, step, STREAM_STEP, list(z.shape[1:]))
    return torch.cat((z[None], drawn.view(rows, *z.shape).to(z.dtype)))


def _beginning(request: Request, sample: int, z: Tensor) -> State:
    if request.resume:
        return request.resume[sample]
    first = request.first_rows[sample]
    image = request.image[sample].to(z.device) if request.image is not None and request.starts_from_image else None
    return State(starting_x(request.plans[sample], first, z, image), None, first)
