"""The tensors of a run, allocated once and refilled by copy.

Whatever may differ between two runs of the same signature is a tensor here, never a Python number: so one captured
graph serves every sampler, schedule, seed, guidance scale and label, and a slot can be given away at any step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewstep.diffusion.plan import Plan
from fewstep.diffusion.schedules import Array
from fewstep.run.sample import Sample, State
from fewstep_kernels import COLUMN, COLUMNS, IDLE_ROW, StepOperands

Schema = tuple[tuple[str, tuple[int, ...], torch.dtype], ...]
"""Name, shape and dtype of tensors that are there for each lane."""


def state_dtype(network: torch.dtype) -> torch.dtype:
    """The dtype of x, and of what is computed with it, beside a network of some dtype: float32, or float64."""
    return torch.float64 if network == torch.float64 else torch.float32


@dataclass(frozen=True)
class Output:
    """What a run ends in where that is not x: images of `shape` (C', H', W'), decoded or as pixels."""

    shape: tuple[int, int, int]
    dtype: torch.dtype  # that of x [B, C', H', W'], or uint8 [B, H', W', C']
    each: bool = False  # every x is decoded by itself, when it is finished, so its bits depend on no other's


@dataclass(frozen=True)
class Signature:
    """What the shapes and the work of a step depend on. Two runs of one signature differ only in values.

    `samples` slots share `lanes` rows of the network's batch; `steps` is the longest plan that fits (see
    `table_capacity`).
    """

    samples: int
    lanes: int
    shape: tuple[int, int, int]
    steps: int
    dtype: torch.dtype
    device: torch.device
    history: int = 0
    learned_variance: bool = False
    stochastic: bool = True
    statistics: bool = False
    preview: bool = False
    given_noise: bool = False
    known: bool = False
    second_time: bool = False
    log_prob: bool = False
    condition: Schema = ()  # of what a sample is asked for
    conditioning: Schema = ()  # of what the denoiser makes of it, in each lane
    output: Output | None = None

    @property
    def state_dtype(self) -> torch.dtype:
        """That of x."""
        return state_dtype(self.dtype)


# The tensors that a sample's state is in, beside the integers: by slot, by slot in their second axis, by lane.
BY_SLOT: Final = ("table", "row", "step", "x", "preview", "statistics", "known", "mask", "log_prob")
BEHIND_SLOTS: Final = ("history", "noise")
BY_LANE: Final = ("t", "x_in", "r")


class Place(NamedTuple):
    """Where a sample is in the buffers."""

    sample: Sample
    slot: int
    cond_lane: int  # the lane that carries its condition
    uncond_lane: int  # and the one that goes without; the same where it owns one lane
    prepared: tuple[Mapping[str, Tensor], ...] = ()  # of each of its lanes, as the denoiser takes it
    noise: Tensor | None = None  # [N + 1, C, H, W] where there is a table of noise


@dataclass
class StaticBuffers:
    """A run's tensors; B = samples, R = lanes, N = steps, K = columns, D = history."""

    signature: Signature
    table: Tensor  # [B, N + 1, K] the plan of each slot, idle rows behind its end
    ints: Tensor  # [4, B] int64: index, seed, cond_lane and uncond_lane, which are views of it
    index: Tensor  # [B] int64 the row that comes next
    row: Tensor  # [B, K] the row of this step
    step: Tensor  # [B] int64 its index
    seed: Tensor  # [B] int64
    cond_lane: Tensor  # [B] int64 which lane carries a slot's condition
    uncond_lane: Tensor  # [B] int64 and which goes without; the same lane where the slot has one
    t: Tensor  # [R] what the network is told
    x_in: Tensor  # [R, C, H, W] channels last
    x: Tensor  # [B, C, H, W]
    conditioning: dict[str, Tensor]  # each [R, ...]
    r: Tensor | None = None  # [R] and the second time, for a network that takes one
    history: Tensor | None = None  # [D, B, C, H, W]
    preview: Tensor | None = None  # [B, C, H, W] the estimate of x_0
    statistics: Tensor | None = None  # [B, 2]
    noise: Tensor | None = None  # [N + 1, B, C, H, W] given noise: initial, then row by row
    known: Tensor | None = None  # [B, C, H, W]
    mask: Tensor | None = None  # [B, 1, H, W] 1 where the sample is generated
    log_prob: Tensor | None = None  # [B, N + 1] log p(x' | x) of each row that was taken; NaN for the others
    final: Tensor | None = None  # [1, C, H, W] the finished x that is decoded, where each is by itself; else x is
    images: Tensor | None = None  # what the run ends in, as the signature's output says; of `final` or of x
    finite: Tensor | None = None  # [B] bool, beside pixels: whether all values were finite

    @classmethod
    def allocate(cls, signature: Signature) -> "StaticBuffers":
        """Buffers with every slot idle: an idle slot maps x to itself and writes the last lane."""
        samples, lanes, steps = signature.samples, signature.lanes, signature.steps
        per_sample = (samples, *signature.shape)
        idle = torch.tensor(IDLE_ROW, dtype=signature.state_dtype, device=signature.device)

        def zeros(*size: int, dtype: torch.dtype = signature.state_dtype) -> Tensor:
            return torch.zeros(*size, dtype=dtype, device=signature.device)

        ints = torch.zeros(4, samples, dtype=torch.int64, device=signature.device)
        ints[2:] = lanes - 1
        return cls(
            signature=signature,
            table=idle.expand(samples, steps + 1, len(COLUMNS)).clone(),
            ints=ints,
            index=ints[0],
            row=zeros(samples, len(COLUMNS)),
            step=zeros(samples, dtype=torch.int64),
            seed=ints[1],
            cond_lane=ints[2],
            uncond_lane=ints[3],
            t=zeros(lanes),
            x_in=zeros(lanes, *signature.shape, dtype=signature.dtype).to(memory_format=torch.channels_last),
            x=zeros(*per_sample),
            conditioning={name: zeros(lanes, *lane, dtype=dtype) for name, lane, dtype in signature.conditioning},
            r=zeros(lanes) if signature.second_time else None,
            history=zeros(signature.history, *per_sample) if signature.history else None,
            preview=zeros(*per_sample) if signature.preview else None,
            statistics=zeros(samples, 2) if signature.statistics else None,
            noise=zeros(steps + 1, *per_sample) if signature.given_noise else None,
            known=zeros(*per_sample) if signature.known else None,
            mask=zeros(samples, 1, *signature.shape[1:]) if signature.known else None,
            log_prob=zeros(samples, steps + 1) if signature.log_prob else None,
            **_images(signature),
        )

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        held = [getattr(self, field.name) for field in fields(self)] + [*self.conditioning.values()]
        return sum(each.nbytes for each in held if isinstance(each, Tensor))

    def operands(self, m: Tensor) -> StepOperands:
        """What `denoise_step` takes after the model has answered m, [R, C or 2C, H, W]."""
        return StepOperands(
            x=self.x,
            x_in=self.x_in,
            history=self.history,
            preview=self.preview,
            model_output=m,
            row=self.row,
            step=self.step,
            seed=self.seed,
            cond_lane=self.cond_lane,
            uncond_lane=self.uncond_lane,
            statistics=self.statistics,
            noise=self.noise,
            known=self.known,
            mask=self.mask,
            learned_variance=self.signature.learned_variance,
            stochastic=self.signature.stochastic,
        )

    def clear(self) -> None:
        """Let every slot idle."""
        self.index.fill_(self.signature.steps)
        self.ints[2:] = self.signature.lanes - 1

    def part(self, slots: int, lanes: int) -> "StaticBuffers":
        """The first slots and lanes: views, but for which lanes the slots have, which `lanes_of` writes."""

        def first(count: int, tensor: Tensor | None) -> Any:
            return None if tensor is None else tensor[:count]

        def second(count: int, tensor: Tensor | None) -> Any:  # of what has its slots behind a step or an age
            return None if tensor is None else tensor[:, :count]

        ints = self.ints[:, :slots].clone()
        views = {name: first(slots, getattr(self, name)) for name in (*BY_SLOT, "index", "seed")}
        views |= {name: first(lanes, getattr(self, name)) for name in BY_LANE}
        views |= {name: second(slots, getattr(self, name)) for name in BEHIND_SLOTS}
        conditioning = {name: rows[:lanes] for name, rows in self.conditioning.items()}
        return replace(self, ints=ints, cond_lane=ints[2], uncond_lane=ints[3], conditioning=conditioning, **views)

    def lanes_of(self, buffers: "StaticBuffers") -> None:
        """As a part of other buffers, take over which lanes their slots have; the last one here is scratch."""
        self.ints[2:] = buffers.ints[2:, : self.ints.shape[1]].clamp(max=len(self.t) - 1)

    def move(self, before: Place, after: Place) -> None:
        """Have a sample in another slot, and other lanes, as it stands. Where it was is left as it is."""
        for name in BY_SLOT:
            tensor = getattr(self, name)
            if tensor is not None:
                tensor[after.slot] = tensor[before.slot]
        for name in BEHIND_SLOTS:
            tensor = getattr(self, name)
            if tensor is not None:
                tensor[:, after.slot] = tensor[:, before.slot]
        self.ints[:2, after.slot] = self.ints[:2, before.slot]
        self.cond_lane[after.slot], self.uncond_lane[after.slot] = after.cond_lane, after.uncond_lane
        lanes = {before.cond_lane: after.cond_lane, before.uncond_lane: after.uncond_lane}
        carried = [tensor for tensor in (getattr(self, name) for name in BY_LANE) if tensor is not None]
        for lane, to in lanes.items():
            for tensor in (*carried, *self.conditioning.values()):
                tensor[to] = tensor[lane]

    def fill(self, places: Sequence[Place]) -> None:
        """Give slots and lanes to samples, and write the model input of their next rows.

        The other slots are left as they are, so this may happen between any two steps of a run.
        """
        here = self._span([place.slot for place in places])
        starts = [place.sample.start for place in places]
        plans = [place.sample.plan for place in places]
        cond_lane, uncond_lane = [place.cond_lane for place in places], [place.uncond_lane for place in places]
        seeds = [as_int64(place.sample.seed) for place in places]
        x = _together([start.x for start in starts]).to(self.x)
        lanes, carried = self._carried(places)
        self.table[here] = torch.from_numpy(self._tables(plans)).to(self.table)
        self.ints[:, here] = self._index([[start.index for start in starts], seeds, cond_lane, uncond_lane])
        self.x[here] = x
        if self.log_prob is not None:
            self.log_prob[here] = torch.nan
        for place in places:
            self._fill_optional(place)
        scaled = _scaled(x, [place.sample.plan.rows[place.sample.start.index, COLUMN["c_in"]] for place in places])
        for owned in (cond_lane, uncond_lane) if cond_lane != uncond_lane else (cond_lane,):
            self.x_in[self._span(owned), : x.shape[1]] = scaled.to(self.x_in.dtype)
        for name, rows in carried.items():
            self.conditioning[name][lanes] = rows

    def _tables(self, plans: Sequence[Plan]) -> Array:
        """[B, N + 1, K] float64: each plan's rows, and idle ones behind."""
        tables = np.empty((len(plans), *self.table.shape[1:]))
        tables[:] = IDLE_ROW
        for table, plan in zip(tables, plans, strict=True):
            table[: len(plan)] = plan.rows
            for time in (COLUMN["t"], COLUMN["r"]):
                table[len(plan) :, time] = plan.rows[-1, time]  # times that the network knows
        return tables

    def _index(self, values: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64).to(self.x.device)

    def _span(self, places: Sequence[int]) -> slice | Tensor:
        """Slots or lanes as an index: a slice where they are neighbours in order, which takes a tenth of the time."""
        first, behind = (places[0], places[0] + len(places)) if places else (0, 0)
        return slice(first, behind) if list(places) == [*range(first, behind)] else self._index(places)

    def _carried(self, places: Sequence[Place]) -> tuple[slice | Tensor, dict[str, Tensor]]:
        """The lanes of some samples, and what they carry."""
        each = [
            (lane, rows)
            for place in places
            for lane, rows in zip((place.cond_lane, place.uncond_lane), place.prepared, strict=False)
        ]
        lanes = self._span([lane for lane, _ in each])
        carried = {
            name: _together([rows[name] for _, rows in each]).to(buffer) for name, buffer in self.conditioning.items()
        }
        return lanes, carried

    def _fill_optional(self, place: Place) -> None:
        slot, sample, start = place.slot, place.sample, place.sample.start
        for age, kept in enumerate([] if start.history is None else start.history, start=1):
            if self.history is not None and age <= self.signature.history:
                self.history[(start.index - age) % self.signature.history, slot].copy_(kept)
        if self.noise is not None:
            assert place.noise is not None  # a session draws it for a sample that brings none
            rows = min(len(place.noise), len(self.noise))
            self.noise[:rows, slot].copy_(place.noise[:rows])
        if self.known is not None and self.mask is not None:
            self.known[slot] = 0 if sample.known is None else sample.known.to(self.known)
            self.mask[slot] = 1 if sample.mask is None else sample.mask.to(self.mask)

    def cancel(self, slot: int) -> None:
        """Let a slot idle from the next step on; the others are unchanged."""
        self.index[slot] = self.signature.steps

    def vacate(self, slot: int, scratch: int) -> None:
        """Let a slot idle on the scratch lane, so that its own lanes can be given away."""
        self.cancel(slot)
        self.cond_lane[slot] = self.uncond_lane[slot] = scratch

    def state(self, slot: int, index: int) -> State:
        """A copy of a slot that stands before row `index`."""
        depth = self.signature.history
        places = [(index - age) % depth for age in range(1, depth + 1)]
        history = None if self.history is None else self.history[places, slot]
        return State(self.x[slot].clone(), history, index)

    def spare_lanes(self, used: int) -> None:
        """Lanes from `used` on belong to nobody: they carry what the first does, so that the network gets something."""
        for rows in self.conditioning.values():
            rows[used:] = rows[:1]


def _together(tensors: Sequence[Tensor]) -> Tensor:
    """Stacked; of a single one a view."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack([*tensors])


def _scaled(x: Tensor, c_in: Sequence[float]) -> Tensor:
    """c_in x of each sample: [B, C, H, W], and 0 where c_in is 0."""
    if all(scale == 1 for scale in c_in):
        return x
    scales = torch.tensor(c_in).to(x)[:, None, None, None]
    return torch.where(scales == 0, 0.0, scales * x)


def _images(signature: Signature) -> dict[str, Tensor]:
    output, device = signature.output, signature.device
    if output is None:
        return {}
    count = 1 if output.each else signature.samples
    found = (
        {"final": torch.zeros(1, *signature.shape, dtype=signature.state_dtype, device=device)} if output.each else {}
    )
    if output.dtype != torch.uint8:
        return found | {"images": torch.zeros(count, *output.shape, dtype=output.dtype, device=device)}
    channels, height, width = output.shape
    return found | {
        "images": torch.zeros(count, height, width, channels, dtype=output.dtype, device=device),
        "finite": torch.zeros(count, dtype=torch.bool, device=device),
    }


def table_capacity(steps: int) -> int:
    """Rows to make room for: a power of two from 8 up, so that plans of like length share a signature."""
    return max(8, 1 << (steps - 1).bit_length())


def as_int64(seed: int) -> int:
    """The 64 bits of a seed as the signed integer a tensor can hold."""
    return seed if seed < 2**63 else seed - 2**64
