"""A session on a CPU computes the lanes in use: who came, went and idles decides, and no sample's image notices."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fewstep import ArgumentError, Engine, Image, Inpaint
from fewstep.run.decode import Images
from fewstep.run.runners import SIZES
from fewstep.run.session import Session
from support.small import SHAPE, picture, small_engine

SLOTS = 5
FEATURES = ("stochastic", "statistics", "known", "given_noise", "preview", "log_prob")
KINDS: list[dict[str, Any]] = [
    {"sampler": "ddim"},
    {"sampler": "ddpm"},
    {"sampler": "dpmpp_2m"},
    {"guidance_scale": 3.0},
    {"guidance_scale": 2.0, "guidance_rescale": 0.5, "sampler": "ddpm"},
    {"start": Image(picture(), 0.9)},
    {"start": Inpaint(picture(), torch.eye(8)), "sampler": "ddpm"},
    {"noise": torch.linspace(-1, 1, 192).view(1, *SHAPE)},
]


def counted(engine: Engine) -> list[int]:
    """The rows of each batch that the network of an engine is called with from now on."""
    rows: list[int] = []
    engine.module.register_forward_pre_hook(lambda module, given: rows.append(len(given[0])))
    return rows


def wish(place: int, steps: int) -> dict[str, Any]:
    return {"labels": [place % 10], "seeds": [place], "steps": steps, **KINDS[place % len(KINDS)]}


def test_the_network_gets_the_lanes_in_use_and_a_scratch_lane_for_a_hole() -> None:
    engine = small_engine(device="cpu", runner="eager", max_batch=SLOTS)
    rows = counted(engine)
    with engine.session(SLOTS) as session:
        one, two, three = session.admit(*(engine.samples(labels=[i], seeds=[i], steps=8)[0] for i in range(3)))
        session.advance(1)
        session.cancel(three)
        session.advance(1)
        session.cancel(one)
        session.advance(1)
        assert session.admit(*engine.samples(labels=[4], seeds=[4], steps=2, guidance_scale=2.0)) == [one]
        session.advance(1)
        session.cancel(two)
        session.advance(1)
        session.advance(3)
    # three lanes; two; the second and a scratch lane, since the slot before it idles: three; lanes 0, 1 and 2; the same
    # with slot 1 idle behind those in use; then nobody is left
    assert rows == [3, 2, 3, 3, 3]


def test_an_engine_whose_bits_depend_on_nobody_computes_all_lanes() -> None:
    engine = small_engine(device="cpu", runner="eager", max_batch=SLOTS, batch_invariant=True)
    rows = counted(engine)
    with engine.session(SLOTS, SLOTS + 1) as session:
        session.admit(*engine.samples(labels=[1], seeds=[1], steps=2))
        session.advance()
    assert rows == [SLOTS + 1] * 2


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(0, 4)), min_size=1, max_size=12))
def test_whoever_comes_and_goes_a_sample_is_what_it_is_alone(arrivals: list[tuple[int, int, int]]) -> None:
    """Each arrival: steps taken before it, its own steps, and at which step it is cancelled: 0 for never."""
    engine = small_engine(device="cpu", runner="eager", max_batch=2 * SLOTS)
    rows = counted(engine)
    found: dict[int, Tensor] = {}
    running: dict[int, int] = {}
    with engine.session(SLOTS, history=4, features=FEATURES) as session:

        def take(steps: int) -> None:
            for _ in range(steps):
                for slot in session.advance(1):
                    found[running.pop(slot)] = session.take(slot).values

        for place, (before, steps, leaves) in enumerate(arrivals):
            take(before)
            (sample,) = engine.samples(**wish(place, steps))
            while not session.accepts(sample):
                take(1)
            slot = session.admit(sample)[0]
            running[slot] = place
            if leaves and leaves < sample.calls:
                take(leaves)
                if running.get(slot) == place:
                    session.cancel(slot)
                    del running[slot]
        take(session.left)
        assert not running
        lanes = session.signature.lanes
    assert set(rows) <= {*SIZES, lanes}
    for place, images in found.items():
        alone = engine.sample(**wish(place, arrivals[place][1])).images
        assert (images - alone).norm() <= 1e-5 * alone.norm()


def test_a_preview_is_the_estimate_after_the_last_step() -> None:
    engine = small_engine(device="cpu", runner="eager")
    seen: list[Tensor] = []
    engine.sample(labels=[3], seeds=[1], steps=4, callback=lambda step: seen.append(step.x_0[0]))
    with engine.session(2, features=["stochastic", "preview"]) as session:
        slot = session.admit(*engine.samples(labels=[3], seeds=[1], steps=4))[0]
        for expected in seen:
            session.advance(1)
            assert torch.allclose(session.preview(slot), expected, atol=1e-6)
    with (
        engine.session(2) as session,
        pytest.raises(ArgumentError, match=r"preview: got .*features=\['preview', ...\]"),
    ):
        session.preview(session.admit(*engine.samples(labels=[3], seeds=[1], steps=4))[0])


def test_a_step_has_the_lanes_of_those_who_are_left() -> None:
    engine = small_engine(device="cpu", runner="eager", max_batch=8)
    rows = counted(engine)
    with engine.session(8) as session:
        slots = session.admit(*(engine.samples(labels=[i], seeds=[i], steps=8)[0] for i in range(6)))
        session.advance(1)
        assert session.compact() == {}
        for slot in slots[:3]:
            session.cancel(slot)
        session.advance(1)
        assert session.compact() == {3: 0, 4: 1, 5: 2}
        session.advance(1)
        assert session.running == (0, 1, 2)
        session.cancel(1)
        guided = engine.samples(labels=[4], seeds=[4], steps=8, guidance_scale=2.0)[0]
        assert session.admit(guided) == [1]  # its second lane lies behind
        session.cancel(2)
        assert session.compact() == {}  # the slots are together, and so are the lanes now
        session.advance(1)
    assert rows == [6, 8, 3, 3]  # with three holes in front the last lane in use is the sixth, and a scratch lane


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6), st.booleans()), min_size=2, max_size=12))
def test_whoever_moves_is_what_it_is_alone(arrivals: list[tuple[int, int, bool]]) -> None:
    """Each arrival: steps taken before it, its own steps, and whether the first that runs is cancelled then."""
    engine = small_engine(device="cpu", runner="eager", max_batch=2 * SLOTS)
    found: dict[int, Images] = {}
    running: dict[int, int] = {}

    def take(session: Session, steps: int) -> None:
        nonlocal running
        for _ in range(steps):
            moved = session.compact()
            running = {moved.get(slot, slot): place for slot, place in running.items()}
            assert set(session.running) == set(running) == set(range(len(running)))
            for slot in session.advance(1):
                found[running.pop(slot)] = session.take(slot)

    with engine.session(SLOTS, history=4, features=FEATURES) as session:
        for place, (before, steps, leaves) in enumerate(arrivals):
            take(session, before)
            (sample,) = engine.samples(**wish(place, steps))
            while not session.accepts(sample):
                take(session, 1)
            if leaves and running:
                slot = min(running)
                session.cancel(slot)
                del running[slot]
            running[session.admit(sample)[0]] = place
        take(session, session.left)
        assert not running
        assert session.why_not(*[engine.samples(labels=[1], steps=1)[0]] * SLOTS) is None  # every slot and lane is free
    for place, images in found.items():
        alone = engine.sample(**wish(place, arrivals[place][1]), log_prob=True)
        assert (images.values - alone.images).norm() <= 1e-5 * alone.images.norm()
        assert images.log_prob is not None
        assert alone.log_prob is not None
        rows = images.log_prob.shape[1]
        assert torch.allclose(images.log_prob, alone.log_prob[:, :rows], rtol=1e-3, atol=1e-2, equal_nan=True)


def test_where_bits_depend_on_nobody_nothing_moves() -> None:
    engine = small_engine(device="cpu", runner="eager", max_batch=SLOTS, batch_invariant=True)
    with engine.session(SLOTS, SLOTS + 1) as session:
        one, _ = session.admit(*(engine.samples(labels=[i], seeds=[i], steps=2)[0] for i in range(2)))
        session.cancel(one)
        assert session.compact() == {}
