"""What happens to one sample changes no other: permute, split, resume, cancel, reuse of a slot after a NaN. Bitwise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fewstep.diffusion.plan import Plan
from fewstep.diffusion.samplers import make_plan
from fewstep.diffusion.schedules import linear
from fewstep.request.lanes import Lanes, assign_lanes
from fewstep.request.start import initial_noise, starting_x
from fewstep.run.buffers import Signature, Slot, State, StaticBuffers
from fewstep.run.loop import sample_loop
from fewstep_kernels import COLUMN

SHAPE = (2, 3, 5)
SCHEDULE = linear()


def two_step_history(steps: int) -> Plan:
    """DDIM with some of its last two estimates mixed in: a plan with history, for the ring to be tested."""
    base = make_plan("ddim", SCHEDULE, steps, clip=1.0)
    rows = np.array(base.rows)
    rows[1:, COLUMN["c_1"]], rows[2:, COLUMN["c_2"]] = 0.3, -0.1
    return Plan(base.sampler, base.prediction, base.levels, rows, base.init_scale, history=2)


@dataclass(frozen=True)
class Wish:
    """What one sample of a batch is to be."""

    plan: Plan
    seed: int


def plan_of(kind: str, steps: int, w: float) -> Plan:
    plan = two_step_history(steps) if kind == "history" else make_plan(kind, SCHEDULE, steps, clip=1.0)
    return plan.with_guidance(w, rescale=0.5 if w > 1 else 0.0)


wishes = st.builds(
    Wish,
    plan=st.builds(
        plan_of,
        st.sampled_from(["ddim", "ddpm", "lcm", "history"]),
        st.integers(1, 5),
        st.sampled_from([0.0, 1.0, 3.0]),
    ),
    seed=st.integers(0, 2**63 - 1),
)
batches = st.lists(wishes, min_size=1, max_size=4)


def denoiser(x_in: Tensor, t: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
    """Works on each row alone, so that rounding cannot couple them; the condition is a shift."""
    shift = conditioning["shift"][:, None, None, None]
    return torch.tanh(0.7 * x_in + shift + t[:, None, None, None] / 1000)


def allocate(wished: Sequence[Wish], slots: int) -> tuple[StaticBuffers, Lanes]:
    rows = assign_lanes([wish.plan for wish in wished])
    signature = Signature(
        samples=slots, lanes=2 * slots + 3, shape=SHAPE, steps=6, dtype=torch.float32, device=torch.device("cpu"),
        history=2, statistics=True, preview=True, conditioning=(("shift", (), torch.float32),),
    )  # fmt: skip
    buffers = StaticBuffers.allocate(signature)
    shifts = [0.5 if conditional else -0.5 for conditional in rows.conditional]
    buffers.condition({"shift": torch.tensor([*shifts, *[0.0] * (signature.lanes - len(rows))])})
    return buffers, rows


def beginning(wish: Wish) -> State:
    z = initial_noise([wish.seed], SHAPE, torch.device("cpu"))[0]
    return State(starting_x(wish.plan, 0, z, None), None, 0)


def fill(wished: Sequence[Wish], slots: int | None = None, at: Sequence[State] | None = None) -> StaticBuffers:
    buffers, rows = allocate(wished, slots or len(wished))
    states = at or [beginning(wish) for wish in wished]
    buffers.fill(slots_of(wished, rows, states))
    return buffers


def slots_of(wished: Sequence[Wish], rows: Lanes, states: Sequence[State]) -> list[Slot]:
    owned = zip(rows.cond_lane, rows.uncond_lane, strict=True)
    return [Slot(wish.plan, wish.seed, state, *mine) for wish, state, mine in zip(wished, states, owned, strict=True)]


def finish(buffers: StaticBuffers, steps: int = 6) -> Tensor:
    for _ in sample_loop(denoiser, buffers, steps):
        pass
    return buffers.x


@given(batches, st.randoms())
@settings(max_examples=25)
def test_permuting_a_batch_permutes_its_samples(wished: list[Wish], random: object) -> None:
    order = list(range(len(wished)))
    random.shuffle(order)  # type: ignore[attr-defined]
    together = finish(fill(wished))
    permuted = finish(fill([wished[place] for place in order]))
    assert torch.equal(together[order], permuted)


@given(batches, st.integers(1, 3))
@settings(max_examples=25)
def test_splitting_a_batch_changes_nothing(wished: list[Wish], cut: int) -> None:
    together = finish(fill(wished))
    parts = [part for part in (wished[:cut], wished[cut:]) if part]
    assert torch.equal(together, torch.cat([finish(fill(part)) for part in parts]))


@given(batches)
@settings(max_examples=15)
def test_idle_slots_change_nothing(wished: list[Wish]) -> None:
    assert torch.equal(finish(fill(wished)), finish(fill(wished, slots=6))[: len(wished)])


@given(batches, st.integers(0, 4))
@settings(max_examples=25)
def test_resuming_at_any_step_ends_where_the_whole_run_does(wished: list[Wish], k: int) -> None:
    buffers = fill(wished)
    finish(buffers, k)
    states = [buffers.state(slot) for slot in range(len(wished))]
    whole = finish(buffers, 6 - k)
    states = [state if state.index < 6 else State(state.x, state.history, 6) for state in states]
    assert torch.equal(whole, finish(fill(wished, at=states), 6 - k))


@given(batches, st.integers(0, 3), st.integers(0, 4))
@settings(max_examples=25)
def test_cancelling_a_sample_leaves_the_others_alone(wished: list[Wish], slot: int, k: int) -> None:
    slot = slot % len(wished)
    others = [place for place in range(len(wished)) if place != slot]
    undisturbed = finish(fill(wished)).clone()
    buffers = fill(wished)
    finish(buffers, k)
    stopped = buffers.x[slot].clone()
    buffers.cancel(slot)
    finish(buffers, 6 - k)
    assert torch.equal(buffers.x[others], undisturbed[others])
    assert torch.equal(buffers.x[slot], stopped)


@given(batches, wishes, st.integers(0, 3))
@settings(max_examples=25)
def test_a_slot_is_reused_after_a_nan(wished: list[Wish], newcomer: Wish, slot: int) -> None:
    """A sample dies of NaN; its slot, history and all, goes to another in mid-run: neither it nor the rest notice."""
    slot = slot % len(wished)
    others = [place for place in range(len(wished)) if place != slot]
    undisturbed = finish(fill(wished)).clone()
    alone = finish(fill([newcomer]))[0]
    buffers = fill(wished)
    buffers.x[slot] = float("nan")
    buffers.x_in[int(buffers.cond_lane[slot])] = float("nan")
    finish(buffers, 3)
    assert buffers.history is not None
    buffers.history[:, slot] = float("nan")
    # two rows that nobody owns, before the scratch row of idle slots
    buffers.conditioning["shift"][-3:-1] = torch.tensor([-0.5, 0.5])
    owned = assign_lanes([newcomer.plan])
    uncond_lane, cond_lane = buffers.signature.lanes - 3, buffers.signature.lanes - 2
    if not owned.conditional[0]:
        cond_lane = uncond_lane
    elif len(owned) == 1:
        uncond_lane = cond_lane
    buffers.fill([Slot(newcomer.plan, newcomer.seed, beginning(newcomer), cond_lane, uncond_lane)], first=slot)
    finish(buffers, 6)
    assert torch.equal(buffers.x[others], undisturbed[others])
    assert torch.equal(buffers.x[slot], alone)


def test_two_runs_of_one_signature_share_their_buffers() -> None:
    """Refilled buffers give what fresh ones give: nothing of the first run is left."""
    first = [Wish(plan_of("history", 5, 3.0), 1), Wish(plan_of("ddpm", 3, 3.0), 2)]
    second = [Wish(plan_of("lcm", 2, 3.0), 3), Wish(plan_of("ddim", 5, 3.0), 4)]
    buffers = fill(first)
    pointers = [tensor.data_ptr() for tensor in (buffers.x, buffers.table, buffers.conditioning["shift"])]
    finish(buffers)
    _, rows = allocate(second, 2)
    buffers.fill(slots_of(second, rows, [beginning(wish) for wish in second]))
    buffers.condition({"shift": buffers.conditioning["shift"].clone()})
    assert torch.equal(finish(buffers), finish(fill(second)))
    assert pointers == [tensor.data_ptr() for tensor in (buffers.x, buffers.table, buffers.conditioning["shift"])]


def test_without_a_zeroed_coefficient_the_nan_would_show() -> None:
    """The control of the slot test: a row that does read its history is poisoned by it."""
    wish = Wish(two_step_history(4), 5)
    buffers = fill([wish])
    finish(buffers, 2)
    assert buffers.history is not None
    buffers.history.fill_(float("nan"))
    assert torch.isnan(finish(buffers, 2)).all()


@pytest.mark.parametrize("depth", [1, 2])
def test_a_state_fits_a_run_that_keeps_more_history(depth: int) -> None:
    buffers = fill([Wish(two_step_history(5), 9)])
    finish(buffers, 3)
    state = buffers.state(0)
    assert state.history is not None
    assert state.index == 3
    assert buffers.history is not None
    assert torch.equal(state.history[depth - 1], buffers.history[(3 - depth) % 2, 0])
