"""The two loops that are counted: the engine's, and the one that diffusers' pipelines run eagerly."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep.cost.counter import DEVICE, Call, Cost, CostCounter
from fewstep.cost.subjects import Opaque, Subject, diffusers_network
from fewstep.diffusion.plan import Plan
from fewstep.models.layouts.diffusers_scheduler import PREDICTION_TYPES
from fewstep.run.buffers import Signature, StaticBuffers, table_capacity
from fewstep.run.denoiser import ModuleDenoiser
from fewstep.run.inputs import Inputs
from fewstep.run.loop import sample_loop

BETWEEN, NETWORK = "between", "network"
DTYPE = torch.float32

PREDICTION_TYPE = {ours: theirs for theirs, ours in PREDICTION_TYPES.items()}
SCHEDULERS = {  # by sampler and kind of schedule
    ("ddpm", "vp"): "DDPMScheduler",
    ("ddim", "vp"): "DDIMScheduler",
    ("euler", "vp"): "EulerDiscreteScheduler",
    ("euler", "flow"): "FlowMatchEulerDiscreteScheduler",
    ("lcm", "vp"): "LCMScheduler",
    ("consistency", "ve"): "CMStochasticIterativeScheduler",
}


@dataclass(frozen=True)
class Counted:
    """A run. The network is counted in the first step; what it costs does not depend on which step it is."""

    between: tuple[Cost, ...]  # all that is done outside the network, one entry a step
    network: Cost  # of one call
    ops: dict[str, int]  # calls of each op between network calls, over the whole run
    network_ops: dict[str, Cost]  # of each op within one call

    @classmethod
    def of(cls, calls: Sequence[Call], steps: int) -> "Counted":
        """The calls of a counter, by step."""

        between, network = ([c for c in calls if c.part == part] for part in (BETWEEN, NETWORK))
        by_step = tuple(sum((c.cost for c in between if c.step == step), Cost()) for step in range(steps))
        of_ops: dict[str, Cost] = {}
        for call in network:
            of_ops[call.op] = of_ops.get(call.op, Cost()) + call.cost
        return cls(by_step, sum(of_ops.values(), Cost()), dict(Counter(c.op for c in between)), of_ops)


@torch.no_grad()
def count_engine(subject: Subject, plan: Plan, batch: int) -> Counted:
    """`sample_loop` over static buffers, as every runner executes it."""
    lanes, inputs = 2 * batch if plan.guided else batch, Inputs.of(subject.network)
    signature = Signature(
        samples=batch,
        lanes=lanes,
        shape=subject.shape,
        steps=table_capacity(len(plan)),
        dtype=DTYPE,
        device=DEVICE,
        history=plan.history,
        learned_variance=plan.learned_variance,
        stochastic=plan.stochastic,
        statistics=plan.statistics,
        second_time=inputs.second_time,
        conditioning=subject.conditioning(lanes, table_capacity(len(plan))),
    )
    buffers, counter, opaque = StaticBuffers.allocate(signature), CostCounter(), Opaque(subject.channels)
    step = 0

    class Counting(ModuleDenoiser):
        """The network, its work counted as its own, and once."""

        def predict(self, x_in: Tensor, t: Tensor, prepared: Mapping[str, Tensor], r: Tensor | None = None) -> Tensor:
            if step > 0:
                return opaque.forward(x_in, t)
            with counter.at(NETWORK, step):
                return super().predict(x_in, t, prepared, r)

    denoiser = Counting(subject.network, inputs.labels, (subject.channels,), second_time=inputs.second_time)
    with counter:
        for step in range(len(plan)):
            with counter.at(BETWEEN, step):
                sample_loop(denoiser, buffers, 1)
    return Counted.of(counter.calls, len(plan))


@torch.no_grad()
def count_diffusers(subject: Subject, plan: Plan, batch: int) -> Counted | None:
    """The loop of diffusers' pipelines with the plan's sampler, steps and guidance; None where diffusers has none.

    The scheduler's timesteps are on the device, as pipelines put them there; its other tables are where it keeps them.

    Raises:
        ImportError: diffusers is not installed.
    """
    scheduler = scheduler_for(subject, plan)
    if scheduler is None:
        return None
    network, opaque = diffusers_network(subject), Opaque(subject.channels)
    counter = CostCounter()
    with counter:
        scheduler.set_timesteps(len(plan), device=DEVICE)
        x = torch.empty(batch, *subject.shape, dtype=DTYPE, device=DEVICE)
        w, phi = float(plan.column("w")[0]), float(plan.column("phi").max())
        for i, t in enumerate(scheduler.timesteps):
            with counter.at(BETWEEN, i):
                x_in = torch.cat([x] * 2) if plan.guided else x
                if hasattr(scheduler, "scale_model_input"):
                    x_in = scheduler.scale_model_input(x_in, t)
                with counter.at(NETWORK, i):
                    answer = opaque(x_in, t) if i else network(x_in, t)
                    m = getattr(answer, "sample", answer)
                if plan.guided:
                    uncond, cond = m.chunk(2)
                    m = guided(cond, uncond, w, phi)
                if subject.learns_variance and not plan.learned_variance:
                    m = m[:, : subject.shape[0]]
                x = scheduler.step(m, t, x, return_dict=False)[0]
    return Counted.of(counter.calls, len(plan))


def guided(cond: Tensor, uncond: Tensor, w: float, phi: float) -> Tensor:
    """m = uncond + w (cond - uncond), then phi m std(cond) / std(m) + (1 - phi) m; op for op as pipelines do it."""
    m = uncond + w * (cond - uncond)
    if phi == 0:
        return m
    axes = list(range(1, m.ndim))
    rescaled = m * (cond.std(dim=axes, keepdim=True) / m.std(dim=axes, keepdim=True))
    return phi * rescaled + (1 - phi) * m


def scheduler_for(subject: Subject, plan: Plan) -> Any:
    """diffusers' scheduler of a plan's sampler and a subject's schedule, without clipping; None where it has none."""
    schedule = subject.schedule
    name = SCHEDULERS.get((plan.sampler, schedule.kind))
    if name is None or (schedule.kind == "vp" and subject.prediction not in PREDICTION_TYPE):
        return None
    import diffusers

    scheduler = getattr(diffusers, name)
    common: dict[str, Any] = {"num_train_timesteps": len(schedule)}
    if schedule.kind == "flow":
        return scheduler(**common)
    if schedule.kind == "ve":
        return scheduler(**common, clip_denoised=False)
    common |= {"trained_betas": schedule.betas.tolist(), "prediction_type": PREDICTION_TYPE[subject.prediction]}
    if plan.sampler != "euler":
        common["clip_sample"] = False
    if plan.learned_variance:
        common["variance_type"] = "learned_range"
    if plan.sampler != "lcm":
        common["timestep_spacing"] = "trailing"
    return scheduler(**common)
