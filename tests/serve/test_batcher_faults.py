"""What goes wrong in a step: who is to blame fails alone, and everybody else gets the image that was asked for."""

import threading
import time
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch

from fewstep.serve import Ask, Limits
from fewstep.serve.batching.faults import kind_of, let_go
from fewstep.serve.batching.group import RECOVERS
from fewstep.serve.events import Admitted, Event, Finished, Progress
from fewstep.serve.refusals import RefusedError
from support.batching import Ear, alone, asks, failed, running
from support.serving import FaultyNet, Knobs, out_of_memory_above, tiny_family, until

LIMITS = Limits(slots=8, steps=64)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out_of_memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("CUDA error: device-side assert triggered"), "dead"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "dead"),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), "dead"),
        (KeyboardInterrupt(), "dead"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "worker"),
        (ZeroDivisionError(), "worker"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_an_exception_means(error: BaseException, kind: str) -> None:
    assert kind_of(error) == kind


@pytest.mark.parametrize("error", [MemoryError("16 lanes"), torch.OutOfMemoryError("CUDA out of memory")])
def test_where_memory_runs_out_fewer_run_together_and_nobody_notices(error: BaseException) -> None:
    knobs = Knobs()
    family, ear = tiny_family(knobs=knobs), Ear()
    wanted = [alone(family, ask) for ask in asks(8)]
    with running(family, LIMITS) as batcher:
        knobs.error = lambda lanes: error if lanes > 3 else None
        tickets = batcher.submit(asks(8), ear)
        ends = ear.ends(tickets)
        assert batcher.stats()["faults"] == {"out_of_memory": 2}  # of eight, and of four
        assert batcher.stats()["groups"][0]["limit"] < 8
    for ticket, end, image in zip(tickets, ends, wanted, strict=True):
        assert isinstance(end, Finished)
        assert np.array_equal(end.image, image)
        assert len(ear.of(ticket, Admitted)) == 1
        assert [event.step for event in ear.of(ticket, Progress)] == [1, 2, 3]


def test_who_finds_no_memory_alone_fails_and_the_limit_recovers() -> None:
    knobs = Knobs()
    family, ear = tiny_family(knobs=knobs), Ear()
    with running(family, LIMITS) as batcher:
        knobs.error = out_of_memory_above(1)
        guided = batcher.submit(asks(1, guidance_scale=3.0), ear)  # of two lanes
        others = batcher.submit(asks(4), ear)
        assert [failed(end) for end in ear.ends(guided)] == ["out_of_memory"]
        assert [failed(end) for end in ear.ends(others)] == [None] * 4
        knobs.reset()
        while batcher.stats()["groups"][0]["limit"] < 8:
            ear.ends(batcher.submit(asks(1, steps=RECOVERS), ear))
        tickets = batcher.submit(asks(8), ear)
        assert [failed(end) for end in ear.ends(tickets)] == [None] * 8


def test_a_sample_that_is_not_finite_fails_alone() -> None:
    knobs = Knobs()
    family, ear = tiny_family(knobs=knobs), Ear()
    wanted = [alone(family, ask) for ask in asks(8)]
    with running(family, LIMITS) as batcher:
        knobs.nan_label = 5
        ends = ear.ends(batcher.submit(asks(8), ear))
    assert [failed(end) for end in ends] == [None] * 5 + ["non_finite"] + [None] * 2
    for end, image in zip(ends, wanted, strict=True):
        assert not isinstance(end, Finished) or np.array_equal(end.image, image)


class Picky(FaultyNet):
    """Cannot bear some labels."""

    hated: tuple[int, ...] = ()

    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        if labels is not None and set(labels.tolist()) & set(self.hated):
            raise ValueError("secret: /etc/passwd")
        return super().forward(x, t, labels)


@pytest.mark.parametrize("hated", [(0,), (7,), (2, 3), (0, 3, 6)], ids=["first", "last", "neighbours", "three"])
def test_an_exception_is_narrowed_down_to_the_guilty(hated: tuple[int, ...]) -> None:
    family, ear = tiny_family(), Ear()
    engine = family.first
    wanted = [alone(family, ask) for ask in asks(8)]
    engine.module.__class__ = Picky
    engine.module.hated = hated  # type: ignore[assignment]
    with running(family, LIMITS) as batcher:
        ends = ear.ends(batcher.submit(asks(8), ear))
        assert [failed(end) for end in ear.ends(batcher.submit(asks(8)[1:2], ear))] == [None]
    assert [failed(end) for end in ends] == ["worker" if label in hated else None for label in range(8)]
    for end, image in zip(ends, wanted, strict=True):
        if isinstance(end, Finished):
            assert np.array_equal(end.image, image)
        else:
            assert "secret" not in end.message
            assert "passwd" not in end.message


def test_who_comes_while_others_begin_again_waits_and_is_not_drawn_in() -> None:
    knobs = Knobs()
    family, ear = tiny_family(knobs=knobs), Ear()
    seen: list[int] = []

    def once(lanes: int) -> BaseException | None:
        seen.append(lanes)
        return RuntimeError("a hiccup") if len(seen) == 1 else None

    with running(family, LIMITS) as batcher:
        knobs.shut()
        knobs.error = once
        first = batcher.submit(asks(4, steps=2), ear)
        until(knobs.entered.is_set)
        late = batcher.submit(asks(1, steps=2), ear)
        knobs.open()
        assert [failed(end) for end in ear.ends([*first, *late])] == [None] * 5
    assert seen == [4, 2, 2, 2, 2, 1, 1]


LOST: dict[str, Callable[[], BaseException]] = {
    "assert": lambda: RuntimeError("CUDA error: device-side assert triggered"),
    "accelerator": lambda: torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    "not even an Exception": lambda: KeyboardInterrupt(),
}


@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
def test_where_the_device_is_lost_everybody_is_told_and_nothing_is_taken(
    lost: Callable[[], BaseException],
) -> None:
    knobs, died = Knobs(), []
    other = tiny_family("other")
    families, ear = {"tiny": tiny_family(knobs=knobs), "other": other}, Ear()
    with running(families, LIMITS, died=died.append) as batcher:
        knobs.shut()
        tickets = batcher.submit(asks(12), ear)
        until(knobs.entered.is_set)
        tickets += batcher.submit(asks(3, model="other"), ear)
        asked = batcher.call(lambda: 1, "tiny")
        knobs.error = lambda lanes: lost()
        knobs.open()
        assert [failed(end) for end in ear.ends(tickets)] == ["dead"] * 15
        until(lambda: len(died) == 1)
        assert not batcher.ready
        assert batcher.stats()["state"] == "dead"
        with pytest.raises(RefusedError) as refused:
            batcher.submit(asks(1), ear)
        assert refused.value.why == "dead"
        assert isinstance(asked.exception(), RefusedError)
        assert isinstance(batcher.call(lambda: 1).exception(), RefusedError)
        assert not batcher.drain(1)
    assert len(died) == 1


def test_a_defect_of_the_loop_itself_counts_as_a_lost_device(monkeypatch: pytest.MonkeyPatch) -> None:
    died: list[BaseException] = []
    ear = Ear()
    with running(tiny_family(), LIMITS, died=died.append) as batcher:
        monkeypatch.setattr(batcher._loop.shares, "next", lambda groups: 1 // 0)
        tickets = batcher.submit(asks(2), ear)
        assert [failed(end) for end in ear.ends(tickets)] == ["dead"] * 2
        until(lambda: len(died) == 1)
        assert not batcher.ready
    assert isinstance(died[0], ZeroDivisionError)


def test_a_listener_that_raises_harms_nobody() -> None:
    ear = Ear()

    def raises(ticket: object, event: Event) -> None:
        raise RuntimeError("the loop of this client is closed")

    with running(tiny_family(), LIMITS) as batcher:
        batcher.submit(asks(2), raises)
        assert [failed(end) for end in ear.ends(batcher.submit(asks(2), ear))] == [None] * 2
        until(lambda: batcher.stats()["finished"] == 4)
        assert batcher.stats()["listener_errors"] == 2 * (1 + 3 + 1)


def test_who_is_cancelled_in_the_queue_leaves_at_once_and_who_runs_at_the_next_step() -> None:
    knobs = Knobs()
    ear = Ear()
    with running(tiny_family(knobs=knobs), Limits(slots=2, queue=4, steps=64)) as batcher:
        knobs.shut()
        runs = batcher.submit(asks(2, steps=8), ear)
        until(knobs.entered.is_set)
        waits = batcher.submit(asks(4), ear)
        with pytest.raises(RefusedError) as refused:
            batcher.submit(asks(1), ear)
        assert refused.value.why == "full"
        waits[1].cancel()
        assert batcher.stats()["queued"] == 3  # its room is free before the step is over
        waits += batcher.submit(asks(1), ear)
        runs[0].cancel()
        knobs.open()
        assert failed(ear.end(runs[0])) == "cancelled"
        assert len(ear.of(runs[0], Progress)) <= 1
        assert failed(ear.end(waits[1])) == "cancelled"
        assert not ear.of(waits[1], Admitted)
        assert [failed(ear.end(each)) for each in (runs[1], waits[0], *waits[2:])] == [None] * 5
        runs[1].cancel()  # has ended: nothing happens
        assert batcher.stats()["failed"] == {"cancelled": 2}


def test_a_deadline_that_passes_in_the_queue_is_told() -> None:
    knobs = Knobs()
    ear = Ear()
    with running(tiny_family(knobs=knobs), Limits(slots=1, steps=64)) as batcher:
        knobs.shut()
        runs = batcher.submit(asks(1), ear)
        until(knobs.entered.is_set)
        soon = time.monotonic() + 0.2
        waits = batcher.submit([Ask("tiny", 1, {"labels": [1]}, steps=2, deadline=soon)], ear)
        until(lambda: time.monotonic() > soon)
        knobs.open()
        assert [failed(end) for end in ear.ends(waits)] == ["deadline"]
        assert [failed(end) for end in ear.ends(runs)] == [None]


def test_what_is_wrong_with_an_ask_is_told_by_its_name() -> None:
    ear = Ear()
    with running(tiny_family(), LIMITS) as batcher:
        wrong = [Ask("tiny", 1, {"labels": [11]}), Ask("tiny", 1, {"sampler": "dimm"}), Ask("tiny", 1, {}, steps=65)]
        ends = ear.ends(batcher.submit([*wrong, *asks(1)], ear))
        assert [failed(end) for end in ends] == ["invalid"] * 3 + [None]
        assert [getattr(end, "argument", None) for end in ends] == ["labels", "sampler", "steps", None]


def test_closing_tells_who_waits() -> None:
    knobs, ear = Knobs(), Ear()
    with running(tiny_family(knobs=knobs), Limits(slots=1)) as batcher:
        knobs.shut()
        tickets = batcher.submit(asks(3), ear)
        until(knobs.entered.is_set)
        closing = threading.Thread(target=batcher.close)
        closing.start()
        until(lambda: batcher.stats()["state"] == "closed")
        knobs.open()
        closing.join()
        assert [failed(end) for end in ear.ends(tickets)] == ["dead"] * 3


def test_an_error_keeps_nothing_of_the_step_it_came_from() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def step() -> None:
        activations = torch.zeros(4)
        held.append(weakref.ref(activations))
        raise MemoryError

    with pytest.raises(MemoryError) as caught:
        step()
    assert held[0]() is not None
    let_go(caught.value)
    assert held[0]() is None
