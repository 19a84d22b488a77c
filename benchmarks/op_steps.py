"""All that happens between two U-Net calls: the ops of a step beside the loop that people write.

A function here takes [B, C, H, W], the dtype of the network's answer and a generator; x is float32, as in the engine.
Every sample is at the same row of a plan of ten. Eager has that row's numbers as Python floats, which costs it least.
Where a row adds noise, ours draws it by Philox within the kernel, and eager by torch.randn, within its time too. For
parity eager is given the normals that Philox's words stand for in float64, and torch's own error is the twin's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch
from op_layers import Shape
from op_work import Call, Tensors, Work, runs_fused
from torch import Tensor

from fewstep import schedules
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import Clip, make_plan
from fewstep.run.buffers import Place, Signature, StaticBuffers
from fewstep.run.sample import Sample, State
from fewstep_kernels import COLUMN, STEP_OPS, STREAM_STEP, StepOps, eager_step_ops, reference
from fewstep_kernels.philox import philox4x32

STEPS, ROW = 10, 6
W, PHI, LIMIT, RATIO = 5.0, 0.7, 3.0, 0.9


@dataclass(frozen=True)
class Kind:
    """What a row asks of a step.

    Attributes:
        sampler: ddpm, which adds noise, or ddim, which adds none.
        guided: a sample owns two lanes.
        statistics: dynamic thresholding and guidance rescale, two numbers that need the whole of a sample.
        whole: with `begin_step`, which gathers the rows of the plans, and `step_statistics`.
    """

    sampler: str = "ddpm"
    guided: bool = True
    statistics: bool = False
    whole: bool = True

    def plan(self) -> Plan:
        """Of ten rows."""
        clip = Clip(LIMIT, RATIO) if self.statistics else Clip(1.0)
        plan = make_plan(self.sampler, schedules.scaled_linear(), STEPS, clip=clip)
        return plan.with_guidance(W, rescale=PHI if self.statistics else 0.0) if self.guided else plan


def step(kind: Kind) -> Callable[[Shape, torch.dtype, torch.Generator], Work]:
    """What makes the tensors of such a step."""

    def make(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Work:
        device, lanes = generator.device, shape[0] * (2 if kind.guided else 1)
        x = torch.randn(shape, generator=generator, device=device)
        m = torch.randn(lanes, *shape[1:], generator=generator, device=device).to(dtype)
        m = m.contiguous(memory_format=torch.channels_last)
        buffers = filled(kind, x, dtype)
        start, before = buffers.index.clone(), buffers.x.clone()

        def reset() -> None:
            buffers.index.copy_(start)
            buffers.x.copy_(before)
            buffers.x_in.fill_(float("nan"))

        numbers = dict(zip(COLUMN, kind.plan().rows[ROW].tolist(), strict=True))
        eager = Call(as_written(kind, numbers, dtype), {"x": x, "m": m})
        z = exact_normals(buffers.seed, buffers.index.clone(), shape[1:]) if numbers["s"] else None
        given = {"x": x, "m": m, "z": None if z is None else z.float()}
        exact = Call(as_written(kind, numbers, torch.float64), {"x": x.double(), "m": m.double(), "z": z})
        twin = Call(of_ops(twins(reference), kind), {"b": buffers, "m": m})
        ops = STEP_OPS if runs_fused(device) else eager_step_ops(device)
        ours = Call(of_ops(ops, kind), {"b": buffers, "m": m})
        moved = x[0].numel() * (8 * shape[0] + (m.element_size() + buffers.x_in.element_size()) * lanes)
        if kind.statistics:  # which must be whole before the update begins
            moved += x.nbytes + m.nbytes
        return Work(ours, eager, exact, moved, own=twin, shown=given, reset=reset)

    return make


def twins(ops: ModuleType) -> StepOps:
    """Those of `fewstep_kernels.reference`."""
    return StepOps(ops.begin_step, ops.step_statistics, ops.denoise_step, ops.step_log_prob)


def of_ops(ops: StepOps, kind: Kind) -> Callable[[StaticBuffers, Tensor], Tensors]:
    """One step on buffers; it returns the new x and the network's next input, which it has written in place."""

    def run(b: StaticBuffers, m: Tensor) -> Tensors:
        if kind.whole:
            ops.begin_step(b.table, b.index, b.row, b.step, b.t, b.cond_lane, b.uncond_lane)
            if b.statistics is not None:
                ops.step_statistics(b.statistics, b.x, m, b.row, b.cond_lane, b.uncond_lane)
        ops.denoise_step(b.operands(m))
        return b.x, b.x_in

    return run


def as_written(kind: Kind, numbers: dict[str, float], dtype: torch.dtype) -> Callable[..., Tensors]:
    """One step of a plain loop: guide, estimate, clip, update, and the next input of both halves."""

    def run(x: Tensor, m: Tensor, z: Tensor | None = None) -> Tensors:
        m = m.to(x.dtype)
        if kind.guided:
            cond, uncond = m.chunk(2)
            m = uncond + W * (cond - uncond)
            if kind.statistics:
                rescaled = m * (cond.std(dim=(1, 2, 3), keepdim=True) / m.std(dim=(1, 2, 3), keepdim=True))
                m = PHI * rescaled + (1 - PHI) * m
        x_0 = numbers["k_x"] * x + numbers["k_m"] * m
        if kind.statistics:
            s = torch.quantile(x_0.abs().flatten(1), RATIO, dim=1).clamp(1.0, LIMIT)[:, None, None, None]
            x_0 = torch.minimum(torch.maximum(x_0, -s), s) / s
        else:
            x_0 = x_0.clamp(-numbers["clip"], numbers["clip"])
        new = numbers["a"] * x + numbers["b"] * x_0
        if numbers["e"]:
            new = new + numbers["e"] * m
        if numbers["s"]:
            new = new + numbers["s"] * (torch.randn_like(x) if z is None else z)
        x_in = torch.cat((new, new)) if kind.guided else new
        return new, (numbers["c_in_next"] * x_in).to(dtype, memory_format=torch.channels_last)

    return run


def filled(kind: Kind, x: Tensor, dtype: torch.dtype) -> StaticBuffers:
    """Buffers with these samples at `ROW`, and NaN wherever a step must write before anybody reads."""
    batch, guided = len(x), kind.guided
    signature = Signature(
        samples=batch,
        lanes=batch * (2 if guided else 1),
        shape=(x.shape[1], x.shape[2], x.shape[3]),
        steps=STEPS,
        dtype=dtype,
        device=x.device,
        statistics=kind.statistics,
    )
    buffers = StaticBuffers.allocate(signature)
    plan, apart = kind.plan(), batch if guided else 0
    samples = [Sample(plan, 7 + i, State(x[i], None, ROW)) for i in range(batch)]
    buffers.fill([Place(sample, i, i, apart + i) for i, sample in enumerate(samples)])
    buffers.index.fill_(ROW)
    for tensor in (buffers.x_in, buffers.row, buffers.t, buffers.statistics):
        if tensor is not None:
            tensor.fill_(float("nan"))
    buffers.step.fill_(-1)
    if not kind.whole:
        buffers.row.copy_(buffers.table[:, ROW])
        buffers.step.fill_(ROW)
    return buffers


def exact_normals(seed: Tensor, step: Tensor, shape: Shape) -> Tensor:
    """`reference.normal` of a row's noise with float64 after u and v, which are float32 by definition: [B, C, H, W]."""
    size = shape[0] * shape[1] * shape[2]
    blocks = torch.arange(-(-size // 4), device=seed.device).expand(len(seed), -1)
    here = step[:, None].expand_as(blocks)
    counter = torch.stack((blocks, here, torch.full_like(blocks, STREAM_STEP), torch.zeros_like(blocks)))
    words = philox4x32(counter, torch.stack((seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF))[:, :, None])
    u = words[0::2].float().mul(2.0**-32).add(2.0**-33).double()
    v = ((words[1::2] ^ 0x80000000) - 0x80000000).float().mul(2.0**-32).double()
    radius, angle = (-2 * u.log()).sqrt(), 2 * torch.pi * v
    pairs = torch.stack((radius * angle.cos(), radius * angle.sin()), 1).flatten(0, 1)  # [4, B, blocks]
    normals: Tensor = pairs.movedim(0, -1).flatten(1)[:, :size].unflatten(1, shape)
    return normals
