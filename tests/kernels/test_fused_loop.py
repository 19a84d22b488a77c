"""Whole runs with the Triton kernels in place of the ops, held to the same runs with the twins.

Without a GPU they run in Triton's interpreter; with one, `-m gpu` runs the same tests through its compiler.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import make_plan
from fewstep.diffusion.schedules import linear
from fewstep.run.buffers import Place, Signature, StaticBuffers
from fewstep.run.loop import sample_loop
from fewstep.run.sample import Sample, State
from fewstep_kernels import COLUMN, STREAM_INITIAL, STREAM_STEP, StepOps, fused, reference
from support.devices import KERNEL_DEVICES
from support.plan_interpreter import run_plan

pytestmark = pytest.mark.slow

SAMPLE = (2, 9, 7)
SCHEDULE = linear()


@pytest.fixture(params=KERNEL_DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def random(*size: int, seed: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def with_history() -> Plan:
    """DDIM with some of its last two estimates mixed in."""
    base = make_plan("ddim", SCHEDULE, 4, clip=1.0)
    rows = np.array(base.rows)
    rows[1:, COLUMN["c_1"]], rows[2:, COLUMN["c_2"]] = 0.3, -0.1
    return Plan(base.sampler, base.prediction, base.levels, rows, base.init_scale, history=2)


def multistep(depth: int) -> Plan:
    """DDIM with what so many rows before it left of x, x_0 and m mixed in, each by another weight."""
    base = make_plan("ddim", SCHEDULE, 6, clip=1.0)
    rows, weights = np.array(base.rows), np.random.default_rng(depth).uniform(-0.3, 0.3, (6, 7))
    for j in range(1, depth + 1):
        rows[j:, COLUMN[f"c_{j}"]] = weights[j:, j - 1]
    rows[:, COLUMN["h_x"] : COLUMN["h_m"] + 1] = weights[:, 4:]
    return Plan(base.sampler, base.prediction, base.levels, rows, base.init_scale, history=depth)


def with_threshold() -> Plan:
    base = make_plan("ddim", SCHEDULE, 4, clip=2.0).with_guidance(5.0, rescale=0.6)
    rows = np.array(base.rows)
    rows[:, COLUMN["clip_ratio"]] = 0.9
    return Plan(base.sampler, base.prediction, base.levels, rows, base.init_scale)


PLANS: dict[str, tuple[Callable[[], Plan], bool]] = {
    "ddim": (lambda: make_plan("ddim", SCHEDULE, 4), False),
    "ddpm, clipped": (lambda: make_plan("ddpm", SCHEDULE, 4, clip=1.0), False),
    "lcm": (lambda: make_plan("lcm", SCHEDULE, 3), False),
    "guided, rescaled, thresholded": (with_threshold, False),
    "history of two": (with_history, False),
    "inpainting, initial noise": (lambda: make_plan("ddim", SCHEDULE, 4), True),
    "inpainting, fresh noise": (lambda: make_plan("ddpm", SCHEDULE, 4, clip=1.0).with_known(fresh=True), True),
}


def network(x_in: Tensor, t: Tensor) -> Tensor:
    """Of five lanes, each with a shift of its own."""
    shift = torch.linspace(-0.5, 0.5, 5, dtype=x_in.dtype, device=x_in.device)
    return torch.tanh(0.7 * x_in + (shift + t / 1000)[:, None, None, None])


def ops_of(kind: Any) -> StepOps:
    return StepOps(kind.begin_step, kind.step_statistics, kind.denoise_step, kind.step_log_prob)


def run_loop(plan: Plan, known: bool, device: str, ops: StepOps) -> StaticBuffers:
    """Two samples, both halves each, and an idle slot."""
    signature = Signature(
        samples=3, lanes=5, shape=SAMPLE, steps=len(plan) + 1, dtype=torch.float32, device=torch.device(device),
        history=plan.history, statistics=plan.statistics, preview=True, known=known, stochastic=plan.stochastic,
    )  # fmt: skip
    buffers = StaticBuffers.allocate(signature)
    images, masks = random(2, *SAMPLE, seed=1).tanh(), (random(2, 1, *SAMPLE[1:], seed=2) > 0).float()
    seeds = [3, 2**40 + 1]
    z = reference.normal(torch.tensor(seeds), torch.zeros(2, dtype=torch.int64), STREAM_INITIAL, SAMPLE)
    states = [State(plan.init_scale * each, None, 0) for each in z]
    buffers.clear()
    buffers.fill(
        [
            Place(Sample(plan, seed, state, known=image, mask=mask), slot, slot, slot + 2)
            for slot, (seed, state, image, mask) in enumerate(zip(seeds, states, images, masks, strict=True))
        ]
    )

    class Denoiser:
        prepares = False

        def prepare(
            self, condition: Mapping[str, Tensor], times: Tensor, ends: Tensor | None = None
        ) -> Mapping[str, Tensor]:
            return condition

        def predict(self, x_in: Tensor, t: Tensor, prepared: Mapping[str, Tensor], r: Tensor | None = None) -> Tensor:
            return network(x_in, t)

    sample_loop(Denoiser(), buffers, signature.steps, ops)
    return buffers


@pytest.mark.parametrize(("build_plan", "known"), PLANS.values(), ids=PLANS.keys())
def test_a_whole_run_is_the_twins(device: str, build_plan: Callable[[], Plan], known: bool) -> None:
    theirs, ours = (run_loop(build_plan(), known, device, ops_of(kind)) for kind in (reference, fused))
    for name in ("x", "preview", "x_in", "t"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-5, atol=1e-5)
    assert torch.equal(ours.index, theirs.index)


@pytest.mark.parametrize("depth", [3, 4])
def test_a_plan_that_looks_far_back_is_its_rows_in_float64(device: str, depth: int) -> None:
    """Against `plan_interpreter`, which keeps a list and no ring: at most twice the twin's own error, plus one eps."""
    plan, seeds = multistep(depth), torch.tensor([3, 2**40 + 1])
    z = [reference.normal(seeds, torch.full((2,), i), STREAM_STEP, SAMPLE).double() for i in range(len(plan))]
    start = plan.init_scale * reference.normal(seeds, torch.zeros_like(seeds), STREAM_INITIAL, SAMPLE).double()

    def first_two(x_in: Tensor, t: float) -> Tensor:
        lanes = torch.cat([x_in, torch.zeros(3, *SAMPLE, dtype=x_in.dtype)])
        return network(lanes, torch.full((5,), t, dtype=x_in.dtype))[:2]

    exact = run_plan(plan, first_two, start, z)
    theirs, ours = (run_loop(plan, False, device, ops_of(kind)).x[:2].cpu() for kind in (reference, fused))
    my_error, their_error = (float((each.double() - exact).abs().max()) for each in (ours, theirs))
    print(f"depth {depth}: ours {my_error:.2e}, twin {their_error:.2e}")
    assert my_error <= 2 * their_error + torch.finfo(torch.float32).eps * float(exact.abs().max())
    assert their_error < 1e-5
