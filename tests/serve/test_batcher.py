"""The batcher: fair turns, sizes of sessions, adapters, previews, and whoever comes and goes at random."""

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fewstep import Engine, Image, Inpaint
from fewstep.run.graphs.runner import GraphRunner
from fewstep.serve import Ask, Batcher, Family, Limits
from fewstep.serve.batching.buckets import Bucket, bucket_for, buckets_of
from fewstep.serve.batching.costs import Costs
from fewstep.serve.batching.group import SHRINKS, Group
from fewstep.serve.batching.job import preview_steps
from fewstep.serve.batching.weight import weight_of
from fewstep.serve.events import Admitted, Event, Failed, Finished, Progress
from fewstep.serve.family import Member
from fewstep.serve.refusals import RefusedError
from support.batching import Ear, alone, asks, failed, running
from support.recorder import RecorderCapturer
from support.runners import BUDGET
from support.serving import FaultyNet, Knobs, tiny_engine, tiny_family, until

EVENT_ORDER = [Admitted, Progress, Progress, Progress, Finished]


def test_events_come_in_their_order_and_previews_evenly_and_never_last() -> None:
    family, ear = tiny_family(), Ear()
    with running(family) as batcher:
        plain, watched = batcher.submit([*asks(1), replace(asks(1, steps=8)[0], previews=3)], ear)
        ear.ends([plain, watched])
    assert [type(event) for event in ear.events[plain.number]] == EVENT_ORDER
    shown = [event.step for event in ear.of(watched, Progress) if event.preview is not None]
    assert shown == [2, 4, 6]
    preview = next(event.preview for event in ear.of(watched, Progress) if event.preview is not None)
    assert (preview.dtype, preview.shape) == (np.uint8, (8, 8, 3))


@pytest.mark.parametrize(
    ("steps", "previews", "after"),
    [(8, 3, [2, 4, 6]), (4, 3, [1, 2, 3]), (2, 3, [1]), (1, 3, []), (8, 0, []), (50, 2, [16, 33])],
)
def test_previews_are_spread_over_the_steps(steps: int, previews: int, after: list[int]) -> None:
    assert preview_steps(steps, previews) == after


class Doubling(torch.nn.Module):
    """A decoder: each pixel four times."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.nn.functional.interpolate(z, scale_factor=2.0)


def test_previews_of_a_latent_model_are_decoded() -> None:
    latent = Engine(replace(tiny_engine().model, decoder=Doubling()), device="cpu", backend="torch")
    ear = Ear()
    with running(Family("tiny", [Member("tiny", latent, ())])) as batcher:
        (ticket,) = batcher.submit([replace(asks(1)[0], previews=1)], ear)
        end = ear.end(ticket)
    assert isinstance(end, Finished)
    assert end.image.shape == (16, 16, 3)
    (shown,) = [event.preview for event in ear.of(ticket, Progress) if event.preview is not None]
    assert shown.shape == (16, 16, 3)


def test_nobody_waits_behind_a_head_that_cannot_run() -> None:
    """One family is full and has more waiting; another's image is done all the same, and so is another kind of need."""
    ear = Ear()
    with running({"tiny": tiny_family(), "other": tiny_family("other")}, Limits(slots=1, steps=128)) as batcher:
        slow = batcher.submit(asks(6, steps=100), ear)
        quick = batcher.submit(asks(1, model="other", steps=2), ear)
        masked = batcher.submit(asks(1, steps=2, start=Inpaint(torch.zeros(3, 8, 8), torch.ones(8, 8))), ear)
        assert [failed(end) for end in ear.ends([*quick, *masked])] == [None] * 2
        assert slow[-1].state == "queued"
        for ticket in slow:
            ticket.cancel()


def test_groups_that_always_have_work_get_equal_shares_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """By seconds, not by steps: a step that takes three times as long comes a third as often."""
    step, taken = Group.step, []

    def timed(group: Group) -> float:
        step(group)
        taken.append(group.member.name)
        return 3.0 if group.member.name == "long" else 1.0

    monkeypatch.setattr(Group, "step", timed)
    ear, knobs = Ear(), Knobs()
    families = {name: tiny_family(name, knobs) for name in ("short", "long", "late")}
    with running(families, Limits(slots=2)) as batcher:
        knobs.shut()
        tickets = batcher.submit([*asks(2, "short", steps=60), *asks(2, "long", steps=20)], ear)
        until(knobs.entered.is_set)
        knobs.open()
        ear.ends(tickets)
        both = taken[:40]
        assert both.count("short") == pytest.approx(3 * both.count("long"), abs=4)
        before = len(taken)
        ear.ends(batcher.submit([*asks(1, "late", steps=20), *asks(1, "short", steps=20)], ear))
        assert abs(taken[before : before + 20].count("late") - 10) <= 3  # it has saved nothing up


def test_the_queue_is_bounded_in_images_and_in_bytes_and_all_or_none_of_a_request_is_taken() -> None:
    knobs, ear = Knobs(), Ear()
    picture = torch.zeros(3, 8, 8)
    with running(tiny_family(knobs=knobs), Limits(slots=1, queue=4, queue_bytes=2000)) as batcher:
        knobs.shut()
        runs = batcher.submit(asks(1), ear)
        until(knobs.entered.is_set)
        waits = batcher.submit(asks(3), ear)
        with pytest.raises(RefusedError, match="3 images wait, and 4 may") as refused:
            batcher.submit(asks(2), ear)
        assert (refused.value.why, batcher.stats()["queued"]) == ("full", 3)
        assert refused.value.retry_after is not None
        waits[0].cancel()
        waits += batcher.submit(asks(1, start=Image(picture, 0.5)), ear)
        with pytest.raises(RefusedError, match="bytes"):
            batcher.submit(asks(1, start=Image(torch.zeros(3, 16, 16), 0.5)), ear)
        knobs.open()
        assert [failed(end) for end in ear.ends([*runs, *waits])] == [None, "cancelled", None, None, None]
        assert (batcher.stats()["queued"], batcher.stats()["queued_bytes"]) == (0, 0)
        assert batcher.stats()["refused"] == {"full": 3}


def test_what_the_words_of_an_ask_weigh() -> None:
    picture = torch.zeros(3, 8, 8)
    mask = np.zeros((8, 8), np.uint8)
    assert weight_of({"labels": [3], "steps": 4}) == 0
    assert weight_of({"start": Inpaint(picture, mask)}) >= picture.nbytes + mask.nbytes
    assert weight_of({"prompt": "a fox"}) == 5


def test_a_cpu_has_one_size_and_all_else_powers_of_two() -> None:
    graphs = tiny_engine(runner=GraphRunner(RecorderCapturer(), BUDGET))
    assert buckets_of(tiny_engine(), 6) == (Bucket(12, 6),)
    assert buckets_of(tiny_engine(batch_invariant=True, max_batch=4), 6) == (Bucket(4, 4),)
    sizes = buckets_of(graphs, 6)
    assert sizes == (Bucket(1, 1), Bucket(2, 2), Bucket(4, 4), Bucket(8, 6), Bucket(12, 6))
    assert [bucket_for(sizes, lanes).lanes for lanes in (1, 3, 8, 9, 99)] == [1, 4, 8, 12, 12]


def test_samples_move_to_larger_and_smaller_sessions_between_two_steps_and_keep_their_bits() -> None:
    """With graphs, which compute all their lanes: the session has the size that is asked for."""
    capturer = RecorderCapturer()
    family, ear = tiny_family(runner=GraphRunner(capturer, BUDGET)), Ear()
    knobs = next(module.knobs for module in family.first.module.modules() if isinstance(module, FaultyNet))
    long = [Ask("tiny", 1, {"labels": [1], "sampler": "ddpm", "clip": 1.0}, steps=40, trajectory=True)]
    many = [replace(ask, trajectory=True) for ask in asks(7, steps=4, sampler="dpmpp_2m", clip=1.0)]
    family.first.warm_up([{"session": _words(bucket)} for bucket in buckets_of(family.first, 8)])
    sizes = []

    def listener(ticket: Any, event: Event) -> None:
        sizes.append(batcher.stats()["groups"][0]["lanes"])
        ear(ticket, event)

    with running(family, Limits(slots=8, steps=64)) as batcher:
        before = len(knobs.calls)
        first = batcher.submit(long, listener)
        until(lambda: len(ear.of(first[0], Progress)) >= 2)
        later = batcher.submit(many, listener)
        ends = ear.ends([*first, *later])
        assert len(ear.of(first[0], Progress)) == 40
        assert len(knobs.calls) == before  # every step was a replay
    assert max(sizes) == 8
    assert sizes[0] == sizes[-1] == 1
    for ask, end in zip([*long, *many], ends, strict=True):
        assert isinstance(end, Finished)
        drawn = family.first.sample(1, seeds=[ask.seed], steps=ask.steps, log_prob=True, **ask.words)
        assert end.states is not None
        assert end.log_prob is not None
        torch.testing.assert_close(end.states[-1], drawn.images[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(end.log_prob, drawn.log_prob[0], rtol=0, atol=1e-4, equal_nan=True)
    assert SHRINKS < 30


def _words(bucket: Bucket) -> Mapping[str, Any]:
    features = ["stochastic", "statistics", "preview", "log_prob"]
    words = {"slots": bucket.slots, "lanes": bucket.lanes + 1, "steps": 64, "history": 4}
    return {**words, "features": features, "output": "uint8"}


def lora(family: Family, scale: float) -> dict[str, Tensor]:
    """Of the conv of a tiny net, rank one."""
    weight = family.first.module.conv.weight
    generator = torch.Generator().manual_seed(int(scale * 10))
    down = torch.randn(1, weight.shape[1], 3, 3, generator=generator)
    up = torch.randn(weight.shape[0], 1, 1, 1, generator=generator) * scale
    return {"conv.lora_A.weight": down, "conv.lora_B.weight": up}


def test_adapters_take_turns_and_each_image_has_its_own() -> None:
    family, ear = tiny_family(), Ear()
    with running(family, Limits(slots=2)) as batcher:
        for name, scale in (("a", 0.3), ("b", 0.5)):
            assert batcher.load_lora("tiny", lora(family, scale), name).result(60).name == name
        assert batcher.loras("tiny").result(60) == ["a", "b"]
        sets = [(), (("a", 1.0),), (("b", 0.5),), (("a", 0.5), ("b", 1.0))]
        wanted = [replace(ask, lora=sets[place % 4]) for place, ask in enumerate(asks(24))]
        ends = ear.ends(batcher.submit(wanted, ear))
        swaps = batcher.stats()["lora_swaps"]
        unknown = batcher.submit([replace(wanted[0], lora=(("c", 1.0),))], ear)
        assert [(failed(end), getattr(end, "argument", None)) for end in ear.ends(unknown)] == [("invalid", "lora")]
    assert 3 <= swaps <= 8  # some images for every change
    for ask, end in zip(wanted, ends, strict=True):
        family.first.set_lora({"a": 0.0, "b": 0.0, **dict(ask.lora)})
        assert isinstance(end, Finished)
        assert np.array_equal(end.image, alone(family, ask))


def test_a_set_of_adapters_waits_for_a_bounded_number_of_images_of_another() -> None:
    family, ear = tiny_family(), Ear()
    order: list[bool] = []

    def listener(ticket: Any, event: Event) -> None:
        if isinstance(event, Admitted):
            order.append(bool(ticket.ask.lora))
        ear(ticket, event)

    knobs = family.first.module.knobs
    with running(family, Limits(slots=2, queue=100)) as batcher:
        batcher.load_lora("tiny", lora(family, 0.3), "a").result(60)
        knobs.shut()
        plain = batcher.submit(asks(40, steps=2), listener)
        until(knobs.entered.is_set)
        others = batcher.submit([replace(ask, lora=(("a", 1.0),)) for ask in asks(20, steps=2)], listener)
        knobs.open()
        assert {failed(end) for end in ear.ends([*plain, *others])} == {None}
    first = order.index(True)
    assert first <= 4 * 2 + 4
    assert order.index(False, first) <= first + 4 * 2 + 4


def test_an_adapter_comes_and_goes_while_others_are_served() -> None:
    families, ear = {"tiny": tiny_family(), "other": tiny_family("other")}, Ear()
    with running(families, Limits(slots=2)) as batcher:
        busy = batcher.submit([*asks(4, steps=20), *asks(4, "other", steps=20)], ear)
        loaded = batcher.load_lora("tiny", lora(families["tiny"], 0.3), "a")
        taken = batcher.load_lora("tiny", lora(families["tiny"], 0.3), "a")
        waits = batcher.submit([replace(ask, lora=(("a", 1.0),)) for ask in asks(2)], ear)
        gone = batcher.unload_lora("tiny", "a")
        assert loaded.result(60).name == "a"
        assert "name" in str(taken.exception(60))
        assert gone.exception(60) is None
        assert batcher.loras("tiny").result(60) == []
        assert [failed(end) for end in ear.ends(busy)] == [None] * 8
        assert {failed(end) for end in ear.ends(waits)} <= {"invalid", None}


def test_a_call_is_made_on_the_thread_that_owns_the_device() -> None:
    with running(tiny_family()) as batcher:
        assert batcher.call(lambda: threading.current_thread().name).result(60) == "fewstep-device"
        assert isinstance(batcher.call(lambda: 1 // 0).exception(60), ZeroDivisionError)
        assert batcher.ready


def test_nothing_is_let_in_before_the_start_and_after_the_end() -> None:
    batcher, ear = Batcher({"tiny": tiny_family()}), Ear()
    with pytest.raises(RefusedError) as refused:
        batcher.submit(asks(1), ear)
    assert refused.value.why == "starting"
    batcher.start()
    tickets = batcher.submit(asks(20, steps=8), ear)
    assert batcher.drain(60)
    assert [failed(end) for end in ear.ends(tickets)] == [None] * 20
    with pytest.raises(RefusedError) as refused:
        batcher.submit(asks(1), ear)
    assert refused.value.why == "draining"
    batcher.close()


def test_sessions_that_nobody_uses_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewstep.serve.batching.loop.IDLE", 0.0)
    monkeypatch.setattr("fewstep.serve.batching.loop.LOOKS", 0.01)
    ear = Ear()
    with running(tiny_family()) as batcher:
        ear.ends(batcher.submit(asks(2), ear))
        until(lambda: not batcher.stats()["groups"])
        assert [failed(end) for end in ear.ends(batcher.submit(asks(2), ear))] == [None] * 2


COMERS = st.lists(
    st.tuples(
        st.sampled_from(["ddim", "ddpm", "euler"]),
        st.integers(1, 5),
        st.sampled_from([1.0, 2.5]),
        st.sampled_from(["stays", "goes at once", "goes later"]),
        st.booleans(),
    ),
    min_size=1,
    max_size=10,
)


@given(COMERS)
@settings(max_examples=10)
def test_whoever_comes_and_goes_everybody_ends_once_and_with_their_own_image(comers: list[Any]) -> None:
    family, ear = FAMILY, Ear()
    with running(family, Limits(slots=3)) as batcher:
        tickets = []
        for seed, (sampler, steps, scale, fate, masked) in enumerate(comers):
            words = {"labels": [seed % 10], "sampler": sampler, "guidance_scale": scale}
            if masked:
                words["start"] = Inpaint(torch.zeros(3, 8, 8), torch.eye(8))
            ticket = batcher.submit([Ask("tiny", seed, words, steps=steps)], ear)[0]
            tickets.append(ticket)
            if fate == "goes at once":
                ticket.cancel()
            if fate == "goes later":
                tickets[seed // 2].cancel()
        ends = ear.ends(tickets)
        assert batcher.drain(60)
    for ticket, end in zip(tickets, ends, strict=True):
        events = ear.events[ticket.number]
        assert sum(isinstance(event, Finished | Failed) for event in events) == 1
        assert isinstance(end, Finished) or (end.reason == "cancelled" and ticket.abandoned)
        if isinstance(end, Finished):
            assert np.array_equal(end.image, alone(family, ticket.ask))
    assert batcher.stats()["queued"] == 0


FAMILY = tiny_family(batch_invariant=True, max_batch=4)


def test_a_deadline_chooses_the_steps_and_says_so() -> None:
    """Of a model whose steps are known to cost ten seconds, among 1, 2 and 4."""
    costs, ear = Costs(), Ear()
    for lanes in (1, 2, 4, 8):
        costs.observe("tiny", lanes, 10.0)
    with running(tiny_family(), Limits(slots=4), costs=costs) as batcher:
        roomy = Ask("tiny", 1, {"labels": [1]}, deadline=time.monotonic() + 1e6)
        with pytest.raises(RefusedError) as refused:
            batcher.submit([replace(roomy, deadline=time.monotonic() + 1e-3)], ear)
        ends, tickets = [], []
        for ask in (replace(roomy, deadline=time.monotonic() + 25), roomy, replace(roomy, steps=3)):
            tickets += batcher.submit([ask], ear)
            ends.append(ear.end(tickets[-1]))
        few, free, said = tickets
        assert refused.value.why == "late"
        assert batcher.stats()["refused"] == {"late": 1}
    assert [(event.steps, event.chosen) for event in ear.of(free, Admitted)] == [(4, True)]
    assert [(event.steps, event.chosen) for event in ear.of(few, Admitted)] == [(1, True)]
    assert [(event.steps, event.chosen) for event in ear.of(said, Admitted)] == [(3, False)]
    assert [failed(end) for end in ends] == [None] * 3


def test_a_warm_start_lets_nobody_in_before_every_model_is_measured() -> None:
    knobs, ear = Knobs(), Ear()
    batcher = Batcher({"tiny": tiny_family(knobs=knobs)}, Limits(slots=4))
    knobs.shut()
    batcher.start(warm=True)
    until(knobs.entered.is_set)
    assert not batcher.ready
    with pytest.raises(RefusedError) as refused:
        batcher.submit(asks(1), ear)
    assert refused.value.why == "starting"
    knobs.open()
    until(lambda: batcher.ready)
    assert sorted(batcher.costs.table()["tiny"]) == [1, 4]  # the others lie between them
    assert [failed(end) for end in ear.ends(batcher.submit(asks(2), ear))] == [None] * 2
    batcher.close()
