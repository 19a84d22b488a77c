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
from fewstep.run.buffers import Signature
from fewstep.run.decode import Decoder
from fewstep.run.noise import initial_noise
from fewstep.run.runners import EagerRunner
from fewstep.run.sample import Sample, State
from fewstep.run.session import Session
from fewstep_kernels import COLUMN

SHAPE = (2, 3, 5)
SCHEDULE = linear()
SHIFT = (("shift", (), torch.float32),)


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


class Shifting:
    """Works on each lane alone, so that rounding cannot couple them; the condition is a shift."""

    prepares = False

    def prepare(
        self, condition: Mapping[str, Tensor], times: Tensor, ends: Tensor | None = None
    ) -> Mapping[str, Tensor]:
        return condition

    def look(self) -> None:
        pass

    def predict(self, x_in: Tensor, t: Tensor, prepared: Mapping[str, Tensor], r: Tensor | None = None) -> Tensor:
        shift = prepared["shift"][:, None, None, None]
        return torch.tanh(0.7 * x_in + shift + t[:, None, None, None] / 1000)


def sample_of(wish: Wish) -> Sample:
    z = initial_noise([wish.seed], SHAPE)[0]
    shifts = {"shift": torch.tensor(0.5)}, {"shift": torch.tensor(-0.5)}
    return Sample(wish.plan, wish.seed, State(wish.plan.init_scale * z, None, 0), *shifts)


def opened(samples: Sequence[Sample], slots: int | None = None) -> Session:
    """A session with room to spare, the samples admitted."""
    slots = slots or len(samples)
    signature = Signature(
        samples=slots, lanes=2 * slots + 3, shape=SHAPE, steps=6, dtype=torch.float32, device=torch.device("cpu"),
        history=2, statistics=True, preview=True, condition=SHIFT, conditioning=SHIFT,
    )  # fmt: skip
    decoder = Decoder.of(None, SHAPE, torch.device("cpu"))
    session = Session(EagerRunner(), Shifting(), decoder, signature, admits=True)
    session.admit(*samples)
    return session


def fill(wished: Sequence[Wish], slots: int | None = None) -> Session:
    return opened([sample_of(wish) for wish in wished], slots)


def finish(session: Session, steps: int = 6) -> Tensor:
    session.advance(steps)
    return session.buffers.x


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
    session = fill(wished)
    finish(session, k)
    kept = [session.sample(slot) for slot in range(len(wished))]
    whole = finish(session)
    for slot, sample in enumerate(kept):
        if sample.calls:
            assert torch.equal(finish(opened([sample]))[0], whole[slot])
        else:
            assert torch.equal(sample.start.x, whole[slot])


@given(batches, st.integers(0, 3), st.integers(0, 4))
@settings(max_examples=25)
def test_cancelling_a_sample_leaves_the_others_alone(wished: list[Wish], slot: int, k: int) -> None:
    slot = slot % len(wished)
    others = [place for place in range(len(wished)) if place != slot]
    undisturbed = finish(fill(wished)).clone()
    session = fill(wished)
    finish(session, k)
    stopped = session.buffers.x[slot].clone()
    session.cancel(slot)
    finish(session)
    assert torch.equal(session.buffers.x[others], undisturbed[others])
    assert torch.equal(session.buffers.x[slot], stopped)


@given(batches, wishes, st.integers(0, 3))
@settings(max_examples=25)
def test_a_slot_is_reused_after_a_nan(wished: list[Wish], newcomer: Wish, slot: int) -> None:
    """A sample dies of NaN; its slot, history and all, goes to another in mid-run: neither it nor the rest notice."""
    slot = slot % len(wished)
    others = [place for place in range(len(wished)) if place != slot]
    undisturbed = finish(fill(wished)).clone()
    alone = finish(fill([newcomer]))[0]
    session = fill(wished)
    buffers = session.buffers
    buffers.x[slot] = float("nan")
    buffers.x_in[int(buffers.cond_lane[slot])] = float("nan")
    finish(session, 3)
    assert buffers.history is not None
    buffers.history[:, slot] = float("nan")
    session.cancel(slot)
    assert session.admit(sample_of(newcomer)) == [slot]
    finish(session)
    assert torch.equal(buffers.x[others], undisturbed[others])
    assert torch.equal(buffers.x[slot], alone)


@dataclass(frozen=True)
class Event:
    """What happens between two steps of a session: somebody comes, and perhaps the oldest is cancelled."""

    steps: int
    arriving: list[Wish]
    cancels: bool


@given(st.lists(st.builds(Event, st.integers(1, 3), st.lists(wishes, max_size=2), st.booleans()), max_size=6))
@settings(max_examples=25)
def test_whoever_comes_and_goes_each_sample_is_what_it_is_alone(events: list[Event]) -> None:
    session, running, done = fill([], slots=3), dict[int, Wish](), list[tuple[Wish, Tensor]]()
    for event in [*events, Event(6, [], cancels=False)]:
        for wish in event.arriving:
            sample = sample_of(wish)
            if session.accepts(sample):
                running[session.admit(sample)[0]] = wish
        if event.cancels and running:
            oldest = next(iter(running))
            del running[oldest]
            session.cancel(oldest)
        for slot in session.advance(event.steps):
            done.append((running.pop(slot), session.take(slot).values[0]))
    assert not running
    assert session.finished == ()
    for wish, image in done:
        assert torch.equal(image, finish(fill([wish]))[0])


def test_two_runs_of_one_signature_share_their_buffers() -> None:
    """Refilled buffers give what fresh ones give: nothing of the first run is left."""
    first = [Wish(plan_of("history", 5, 3.0), 1), Wish(plan_of("ddpm", 3, 3.0), 2)]
    second = [Wish(plan_of("lcm", 2, 3.0), 3), Wish(plan_of("ddim", 5, 3.0), 4)]
    session = fill(first)
    buffers = session.buffers
    pointers = [tensor.data_ptr() for tensor in (buffers.x, buffers.table, buffers.conditioning["shift"])]
    for slot in session.advance():
        session.take(slot)
    session.admit(*(sample_of(wish) for wish in second))
    assert torch.equal(finish(session), finish(fill(second)))
    assert pointers == [tensor.data_ptr() for tensor in (buffers.x, buffers.table, buffers.conditioning["shift"])]


def test_without_a_zeroed_coefficient_the_nan_would_show() -> None:
    """The control of the slot test: a row that does read its history is poisoned by it."""
    session = fill([Wish(two_step_history(4), 5)])
    finish(session, 2)
    assert session.buffers.history is not None
    session.buffers.history.fill_(float("nan"))
    assert torch.isnan(finish(session, 2)).all()


@pytest.mark.parametrize("depth", [1, 2])
def test_a_state_fits_a_run_that_keeps_more_history(depth: int) -> None:
    session = fill([Wish(two_step_history(5), 9)])
    finish(session, 3)
    state, history = session.sample(0).start, session.buffers.history
    assert state.history is not None
    assert history is not None
    assert state.index == 3
    assert torch.equal(state.history[depth - 1], history[(3 - depth) % 2, 0])
