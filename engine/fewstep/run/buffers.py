"""The tensors of a run, allocated once and refilled by copy.

Whatever may differ between two runs of the same signature is a tensor here, never a Python number: so one captured
graph serves every sampler, schedule, seed, guidance scale and label, and a slot can be given away at any step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.diffusion.plan import Plan
from fewstep_kernels import COLUMN, COLUMNS, IDLE_ROW, StepOperands


@dataclass(frozen=True)
class Output:
    """What a run ends in where that is not x: images of `shape` (C', H', W'), decoded or as pixels."""

    shape: tuple[int, int, int]
    dtype: torch.dtype  # float32 [B, C', H', W'] in [-1, 1], or uint8 [B, H', W', C']


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
    conditioning: tuple[tuple[str, tuple[int, ...], torch.dtype], ...] = ()  # name, shape of a lane, dtype
    output: Output | None = None

    @property
    def state_dtype(self) -> torch.dtype:
        """float32, or float64 for a float64 network."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32


@dataclass(frozen=True)
class State:
    """One sample between two steps: enough to go on from there, in any slot of any run.

    Attributes:
        x: [C, H, W] the noisy sample.
        history: [D, C, H, W] youngest first, or None where the plan keeps none.
        index: the row that comes next.
    """

    x: Tensor
    history: Tensor | None
    index: int


@dataclass(frozen=True)
class Slot:
    """One sample as it takes its place in the buffers."""

    plan: Plan
    seed: int
    state: State  # where it begins
    cond_lane: int  # the lane that carries its condition
    uncond_lane: int  # and the one that goes without; the same where it owns one lane
    noise: Tensor | None = None  # [N + 1, C, H, W] given noise: initial, then row by row
    known: Tensor | None = None  # [C, H, W]
    mask: Tensor | None = None  # [1, H, W]


@dataclass
class StaticBuffers:
    """A run's tensors; B = samples, R = lanes, N = steps, K = columns, D = history."""

    signature: Signature
    table: Tensor  # [B, N + 1, K] the plan of each slot, idle rows behind its end
    index: Tensor  # [B] int64 the row that comes next
    row: Tensor  # [B, K] the row of this step
    step: Tensor  # [B] int64 its index
    seed: Tensor  # [B] int64
    cond_lane: Tensor  # [B] int64 which lane carries a slot's condition
    uncond_lane: Tensor  # [B] int64 and which goes without; the same lane where the slot has one
    t: Tensor  # [R]
    x_in: Tensor  # [R, C, H, W] channels last
    x: Tensor  # [B, C, H, W]
    conditioning: dict[str, Tensor]  # each [R, ...]
    history: Tensor | None = None  # [D, B, C, H, W]
    preview: Tensor | None = None  # [B, C, H, W] the estimate of x_0
    statistics: Tensor | None = None  # [B, 2]
    noise: Tensor | None = None  # [N + 1, B, C, H, W] given noise: initial, then row by row
    known: Tensor | None = None  # [B, C, H, W]
    mask: Tensor | None = None  # [B, 1, H, W] 1 where the sample is generated
    images: Tensor | None = None  # what the run ends in, as the signature's output says
    finite: Tensor | None = None  # [B] bool, beside pixels: whether all values were finite

    @classmethod
    def allocate(cls, signature: Signature) -> "StaticBuffers":
        """Buffers with every slot idle: an idle slot maps x to itself and writes the last lane."""
        samples, lanes, steps = signature.samples, signature.lanes, signature.steps
        per_sample = (samples, *signature.shape)
        idle = torch.tensor(IDLE_ROW, dtype=signature.state_dtype, device=signature.device)

        def zeros(*size: int, dtype: torch.dtype = signature.state_dtype) -> Tensor:
            return torch.zeros(*size, dtype=dtype, device=signature.device)

        def whole(value: int) -> Tensor:
            return torch.full((samples,), value, dtype=torch.int64, device=signature.device)

        return cls(
            signature=signature,
            table=idle.expand(samples, steps + 1, len(COLUMNS)).clone(),
            index=whole(0),
            row=zeros(samples, len(COLUMNS)),
            step=whole(0),
            seed=whole(0),
            cond_lane=whole(lanes - 1),
            uncond_lane=whole(lanes - 1),
            t=zeros(lanes),
            x_in=zeros(lanes, *signature.shape, dtype=signature.dtype).to(memory_format=torch.channels_last),
            x=zeros(*per_sample),
            conditioning={name: zeros(lanes, *lane, dtype=dtype) for name, lane, dtype in signature.conditioning},
            history=zeros(signature.history, *per_sample) if signature.history else None,
            preview=zeros(*per_sample) if signature.preview else None,
            statistics=zeros(samples, 2) if signature.statistics else None,
            noise=zeros(steps + 1, *per_sample) if signature.given_noise else None,
            known=zeros(*per_sample) if signature.known else None,
            mask=zeros(samples, 1, *signature.shape[1:]) if signature.known else None,
            **_images(signature),
        )

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
        self.cond_lane.fill_(self.signature.lanes - 1)
        self.uncond_lane.fill_(self.signature.lanes - 1)

    def fill(self, slots: Sequence[Slot], first: int = 0) -> None:
        """Give slots `first`, `first` + 1, ... to samples, and write the model input of their next rows.

        The other slots are left as they are, so this may happen between any two steps of a run.
        """
        here = slice(first, first + len(slots))
        plans = [slot.plan.table(self.table.dtype) for slot in slots]
        padded = [torch.cat([plan, plan[-1:].expand(self.table.shape[1] - len(plan), -1)]) for plan in plans]
        self.table[here].copy_(torch.stack(padded))
        self.index[here].copy_(torch.tensor([slot.state.index for slot in slots]))
        self.seed[here].copy_(torch.tensor([as_int64(slot.seed) for slot in slots]))
        self.cond_lane[here].copy_(torch.tensor([slot.cond_lane for slot in slots]))
        self.uncond_lane[here].copy_(torch.tensor([slot.uncond_lane for slot in slots]))
        self.x[here].copy_(torch.stack([slot.state.x for slot in slots]))
        for place, slot in enumerate(slots, start=first):
            self._fill_optional(place, slot)
        c_in = torch.stack([plan[slot.state.index, COLUMN["c_in"]] for plan, slot in zip(padded, slots, strict=True)])
        scaled = (c_in.to(self.x.device)[:, None, None, None] * self.x[here]).to(self.x_in.dtype)
        for lanes in (self.cond_lane[here], self.uncond_lane[here]):
            self.x_in[:, : scaled.shape[1]].index_copy_(0, lanes, scaled)

    def _fill_optional(self, place: int, slot: Slot) -> None:
        for age, kept in enumerate([] if slot.state.history is None else slot.state.history, start=1):
            if self.history is not None and age <= self.signature.history:
                self.history[(slot.state.index - age) % self.signature.history, place].copy_(kept)
        if self.noise is not None and slot.noise is not None:
            rows = min(len(slot.noise), len(self.noise))
            self.noise[:rows, place].copy_(slot.noise[:rows])
        if self.known is not None and self.mask is not None:
            self.known[place] = 0 if slot.known is None else slot.known.to(self.known)
            self.mask[place] = 1 if slot.mask is None else slot.mask.to(self.mask)

    def cancel(self, slot: int) -> None:
        """Let a slot idle from the next step on; the others are unchanged."""
        self.index[slot] = self.signature.steps

    def state(self, slot: int) -> State:
        """A copy of where a slot stands."""
        index, depth = int(self.index[slot]), self.signature.history
        places = [(index - age) % depth for age in range(1, depth + 1)]
        history = None if self.history is None else self.history[places, slot]
        return State(self.x[slot].clone(), history, index)

    def condition(self, conditioning: Mapping[str, Tensor]) -> None:
        """Refill the conditioning of every lane; the names, shapes and dtypes are the signature's."""
        for name, rows in conditioning.items():
            self.conditioning[name].copy_(rows)


def _images(signature: Signature) -> dict[str, Tensor]:
    output, samples, device = signature.output, signature.samples, signature.device
    if output is None:
        return {}
    if output.dtype != torch.uint8:
        return {"images": torch.zeros(samples, *output.shape, dtype=output.dtype, device=device)}
    channels, height, width = output.shape
    return {
        "images": torch.zeros(samples, height, width, channels, dtype=output.dtype, device=device),
        "finite": torch.zeros(samples, dtype=torch.bool, device=device),
    }


def table_capacity(steps: int) -> int:
    """Rows to make room for: a power of two from 8 up, so that plans of like length share a signature."""
    return max(8, 1 << (steps - 1).bit_length())


def as_int64(seed: int) -> int:
    """The 64 bits of a seed as the signed integer a tensor can hold."""
    return seed if seed < 2**63 else seed - 2**64
