"""The tensors of a run, allocated once and refilled by copy.

Whatever may differ between two runs of the same signature is a tensor here, never a Python number: so one captured
graph serves every sampler, schedule, seed, guidance scale and label, and a slot can be given away at any step.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.plan import Plan
from fewstep_kernels import COLUMN, COLUMNS, IDLE_ROW


@dataclass(frozen=True)
class Signature:
    """What the shapes and the work of a step depend on. Two runs of one signature differ only in values.

    `samples` slots share `rows` U-Net rows; `steps` is the longest plan that fits.
    """

    samples: int
    rows: int
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


@dataclass
class StaticBuffers:
    """A run's tensors; B = samples, R = U-Net rows, N = steps, K = columns, D = history."""

    signature: Signature
    table: Tensor  # [B, N + 1, K] the plan of each slot, idle rows behind its end
    index: Tensor  # [B] int64 the row that comes next
    row: Tensor  # [B, K] the row of this step
    step: Tensor  # [B] int64 its index
    seed: Tensor  # [B] int64
    cond_row: Tensor  # [B] int64 which U-Net row carries a slot's condition
    uncond_row: Tensor  # [B] int64 and which goes without; the same row where the slot has one
    t: Tensor  # [R] float32
    x_in: Tensor  # [R, C, H, W] channels last
    x: Tensor  # [B, C, H, W]
    conditioning: dict[str, Tensor]  # each [R, ...]
    history: Tensor | None = None  # [D, B, C, H, W]
    preview: Tensor | None = None  # [B, C, H, W] the estimate of x_0
    statistics: Tensor | None = None  # [B, 2]
    noise: Tensor | None = None  # [N + 1, B, C, H, W] given noise: initial, then row by row
    known: Tensor | None = None  # [B, C, H, W]
    mask: Tensor | None = None  # [B, 1, H, W] 1 where the sample is generated

    @classmethod
    def allocate(cls, signature: Signature) -> "StaticBuffers":
        """Buffers with every slot idle: an idle slot maps x to itself and writes the last U-Net row."""
        samples, rows, steps = signature.samples, signature.rows, signature.steps
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
            cond_row=whole(rows - 1),
            uncond_row=whole(rows - 1),
            t=zeros(rows, dtype=torch.float32),
            x_in=zeros(rows, *signature.shape, dtype=signature.dtype).to(memory_format=torch.channels_last),
            x=zeros(*per_sample),
            conditioning={},
            history=zeros(signature.history, *per_sample) if signature.history else None,
            preview=zeros(*per_sample) if signature.preview else None,
            statistics=zeros(samples, 2) if signature.statistics else None,
            noise=zeros(steps + 1, *per_sample) if signature.given_noise else None,
            known=zeros(*per_sample) if signature.known else None,
            mask=zeros(samples, 1, *signature.shape[1:]) if signature.known else None,
        )

    def admit(self, slot: int, plan: Plan, seed: int, cond_row: int, uncond_row: int) -> None:
        """Give a slot to a sample: its plan, its seed, its U-Net rows. `start` then says where it begins."""
        rows = plan.table(dtype=self.table.dtype, device=self.table.device)
        self.table[slot, : len(plan)].copy_(rows[:-1])
        self.table[slot, len(plan) :].copy_(rows[-1])
        self.seed[slot] = seed if seed < 2**63 else seed - 2**64
        self.cond_row[slot], self.uncond_row[slot] = cond_row, uncond_row

    def start(self, slot: int, state: State) -> None:
        """Put a slot at a state and write the model input of its next row."""
        self.x[slot].copy_(state.x)
        self.index[slot] = state.index
        if self.history is not None and state.history is not None:
            for age, kept in enumerate(state.history[: self.signature.history], start=1):
                self.history[(state.index - age) % self.signature.history, slot].copy_(kept)
        c_in = self.table[slot, state.index, COLUMN["c_in"]]
        scaled = (c_in * self.x[slot]).to(self.x_in.dtype)
        channels = scaled.shape[0]
        for row in {int(self.cond_row[slot]), int(self.uncond_row[slot])}:
            self.x_in[row, :channels].copy_(scaled)

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
        """Set the conditioning of every U-Net row; tensors already here are refilled, not replaced."""
        for name, rows in conditioning.items():
            held = self.conditioning.get(name)
            if held is not None and held.shape == rows.shape and held.dtype == rows.dtype:
                held.copy_(rows)
            else:
                self.conditioning[name] = rows.to(self.x.device).clone()
