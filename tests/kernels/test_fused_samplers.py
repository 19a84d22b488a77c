"""One batch of every sampler with the Triton kernels, each held to the meaning of its rows in float64.

Without a GPU they run in Triton's interpreter; with one, `-m gpu` runs the same test through its compiler.
"""

from collections.abc import Mapping
from types import ModuleType

import pytest
import torch
from torch import Tensor

from fewstep import schedules
from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import SAMPLERS, make_plan
from fewstep.diffusion.schedules import Schedule
from fewstep.run.buffers import Place, Signature, StaticBuffers
from fewstep.run.lanes import assign_lanes
from fewstep.run.loop import sample_loop
from fewstep.run.sample import Sample, State
from fewstep_kernels import STREAM_INITIAL, STREAM_STEP, StepOps, fused, reference
from support.devices import KERNEL_DEVICES
from support.plan_interpreter import run_plan

SAMPLE = (2, 5, 3)
CALLS = 5  # a budget that every sampler can spend
SCHEDULES: dict[str, Schedule] = {"vp": schedules.linear(), "flow": schedules.flow(), "ve": schedules.karras()}
SHIFT = {"conditional": 0.3, "unconditional": -0.4}


@pytest.fixture(params=KERNEL_DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def plan_of(name: str, guided: bool) -> Plan:
    sampler = SAMPLERS[name]
    prediction = "v" if "v" in sampler.predictions else None
    return make_plan(name, SCHEDULES[sampler.kinds[0]], CALLS, prediction, guidance_scale=2.0 if guided else 1.0)


PLANS = [plan_of(name, guided=bool(i % 2)) for i, name in enumerate(SAMPLERS)]


def network(x_in: Tensor, t: Tensor, r: Tensor, shift: Tensor) -> Tensor:
    """Smooth, of all it is told; t, r and shift are [R] or numbers."""
    of_time = (shift + t / 1000 + r / 3000).reshape(-1, 1, 1, 1)
    return torch.tanh(0.7 * x_in + of_time)


def normal(seed: int, step: int, stream: int) -> Tensor:
    return reference.normal(torch.tensor([seed]), torch.tensor([step]), stream, SAMPLE).double()


def in_float64(plan: Plan, seed: int) -> Tensor:
    """[1, C, H, W] by `plan_interpreter`, which keeps a list and no ring."""
    ends = dict(zip(plan.column("t").tolist(), plan.column("r").tolist(), strict=True))
    w = float(plan.column("w")[0])

    def guided(x_in: Tensor, t: float) -> Tensor:
        told = torch.tensor(t).double(), torch.tensor(ends[t]).double()
        cond, uncond = (network(x_in, *told, torch.tensor(shift).double()) for shift in SHIFT.values())
        return uncond + w * (cond - uncond)

    z = [normal(seed, row, STREAM_STEP) for row in range(len(plan))]
    return run_plan(plan, guided, plan.init_scale * normal(seed, 0, STREAM_INITIAL), z)


def in_one_batch(kind: ModuleType, device: str) -> Tensor:
    """[samplers, C, H, W] by `sample_loop` with the ops of a module."""
    slots, lanes = len(PLANS), sum(2 if plan.guided else 1 for plan in PLANS)
    signature = Signature(
        samples=slots, lanes=lanes, shape=SAMPLE, steps=8, dtype=torch.float32, device=torch.device(device),
        history=max(plan.history for plan in PLANS), second_time=True,
    )  # fmt: skip
    buffers, owned = StaticBuffers.allocate(signature), assign_lanes(PLANS, range(lanes))
    states = [
        State(plan.init_scale * normal(seed, 0, STREAM_INITIAL)[0].float(), None, 0) for seed, plan in enumerate(PLANS)
    ]
    buffers.clear()
    buffers.fill(
        [
            Place(Sample(plan, slot, state), slot, *owned[slot])
            for slot, (plan, state) in enumerate(zip(PLANS, states, strict=True))
        ]
    )
    shift = torch.full((lanes,), SHIFT["conditional"], device=device)
    for plan, (_, uncond) in zip(PLANS, owned, strict=True):
        shift[uncond] = SHIFT["unconditional" if plan.guided else "conditional"]

    class Denoiser:
        prepares = False

        def prepare(
            self, condition: Mapping[str, Tensor], times: Tensor, ends: Tensor | None = None
        ) -> Mapping[str, Tensor]:
            return condition

        def predict(self, x_in: Tensor, t: Tensor, prepared: Mapping[str, Tensor], r: Tensor | None = None) -> Tensor:
            assert r is not None
            return network(x_in, t, r, shift)

    ops = StepOps(kind.begin_step, kind.step_statistics, kind.denoise_step, kind.step_log_prob)
    sample_loop(Denoiser(), buffers, CALLS, ops)
    return buffers.x.cpu().double()


@pytest.mark.slow
def test_every_sampler_is_its_rows_beside_all_others(device: str) -> None:
    """At most twice the twin's own error, plus one eps of what x was on the way."""
    assert {plan.history for plan in PLANS} >= {0, 1, 2, 3, 4}
    ours, theirs = (in_one_batch(kind, device) for kind in (fused, reference))
    for seed, plan in enumerate(PLANS):
        exact = in_float64(plan, seed)[0]
        mine, twins = (float((each[seed] - exact).abs().max()) for each in (ours, theirs))
        print(f"{plan.sampler}, depth {plan.history}: ours {mine:.1e}, twin {twins:.1e}")
        largest = max(1.0, plan.init_scale, float(exact.abs().max()))
        assert mine <= 2 * twins + torch.finfo(torch.float32).eps * largest, plan.sampler
        assert twins < 1e-5 * largest, plan.sampler
