"""What goes wrong in a session, or is asked of one that is closed, reaches nobody else."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep import ArgumentError, Resume, Sample, Step
from fewstep.run.graphs.runner import GraphRunner
from support.recorder import RecorderCapturer
from support.small import SHAPE, SmallNet, small_engine


class Failing(SmallNet):
    """A network that fails when it is told to, and answers NaN at t = 0, as one that takes log t does."""

    fails = False

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.fails:
            raise RuntimeError("out of memory")
        return super().forward(x, t, labels) + torch.where(t == 0, torch.nan, 0.0)[:, None, None, None]


def graph_engine(**options: Any) -> Any:
    return small_engine(device="cpu", runner=GraphRunner(RecorderCapturer(), 10**9), **options)


def test_a_sample_that_is_done_is_not_touched_by_the_steps_of_others() -> None:
    engine = small_engine(Failing(), device="cpu")
    both = engine.sample(labels=[1, 2], seeds=0, steps=[2, 4]).images
    assert both.isfinite().all()
    torch.testing.assert_close(both[:1], engine.sample(labels=[1], seeds=0, steps=2).images)


def test_after_a_step_that_failed_a_session_can_only_be_closed() -> None:
    net = Failing()
    engine = small_engine(net, device="cpu")
    session = engine.session(2)
    session.admit(*engine.samples(labels=[1], seeds=0))
    session.advance(1)
    engine.module.fails = True
    with pytest.raises(RuntimeError, match="out of memory"):
        session.advance(1)
    engine.module.fails = False
    for call in (session.advance, lambda: session.take(0), lambda: session.admit(*engine.samples(labels=[1]))):
        with pytest.raises(ArgumentError, match="session: got one whose last step failed; allowed: an open session"):
            call()
    session.close()
    assert engine.sample(labels=[1], seeds=0).images.isfinite().all()


def test_a_session_is_closed_once_and_lets_nobody_elses_lease_go() -> None:
    engine = graph_engine()
    engine.warm_up([{"session": {"slots": 2, "lanes": 5}}])
    first = engine.session(2)
    first.close()
    second = engine.session(2)
    first.close()
    third = engine.session(2)
    assert third.buffers is not second.buffers
    with pytest.raises(ArgumentError, match="session: got one that is closed"):
        first.advance()
    with pytest.raises(ArgumentError, match="session: got one that is closed"):
        first.admit(*engine.samples(labels=[1]))


def test_who_cannot_be_admitted_leaves_no_trace() -> None:
    engine = small_engine(device="cpu")
    (good,) = engine.samples(labels=[1], seeds=3, guidance_scale=2.0)
    (other,) = engine.samples(labels=[2], seeds=4, guidance_scale=2.0)
    odd = Sample(other.plan, 4, other.start, other.condition, {"labels": torch.zeros(2, dtype=torch.int64)})
    with engine.session(3) as session:
        with pytest.raises(ArgumentError, match="a null condition of another shape"):
            session.admit(other, odd)
        (slot,) = session.admit(good)
        session.advance()
        found = session.take(slot).values
    with engine.session(3) as session:
        session.admit(good)
        session.advance()
        assert torch.equal(found, session.take(0).values)


def test_a_cancelled_sample_can_be_kept_and_resumed() -> None:
    engine, kept = small_engine(device="cpu"), list[Sample]()

    def leave(step: Step) -> None:
        if step.index == 1:
            step.cancel(0)
            kept.append(step.state(0))

    engine.sample(labels=[1, 2], seeds=0, callback=leave)
    assert kept[0].start.index == 2
    torch.testing.assert_close(
        engine.sample(start=Resume(kept)).images, engine.sample(labels=[1], seeds=0).images, rtol=1e-5, atol=1e-6
    )


def test_a_stop_ends_the_run_whatever_has_finished_before() -> None:
    net = SmallNet()
    seen: list[tuple[int, ...]] = []

    def stop(step: Step) -> bool | None:
        seen.append(step.samples)
        return False if step.samples == (1,) else None

    samples = small_engine(net, max_batch=1, device="cpu").sample(labels=[1, 2, 3], seeds=0, steps=2, callback=stop)
    assert seen == [(0,), (0,), (1,)]
    assert samples.cancelled == [False, True, True]
    assert samples.model_calls == 3
    assert samples.images[2].isnan().all()
    early = small_engine(device="cpu").sample(
        labels=[1, 2], steps=[2, 8], seeds=0, callback=lambda step: step.index < 4
    )
    assert early.cancelled == [False, True]


@pytest.mark.parametrize("steps", [50, 8, 1])
def test_a_model_of_any_default_opens_a_session_and_stochastic_samples_need_no_table(steps: int) -> None:
    engine = small_engine(device="cpu", defaults={"sampler": "ddim", "steps": steps, "clip": 1.0})
    with engine.session(2) as session:
        (slot,) = session.admit(*engine.samples(labels=[1], seeds=5, sampler="ddpm", steps=4))
        session.advance()
        found = session.take(slot).values
    torch.testing.assert_close(found, engine.sample(labels=[1], seeds=5, sampler="ddpm", steps=4).images)


def test_a_session_for_a_condition_of_ones_own_is_opened_like_a_sample() -> None:
    class Styled(SmallNet):
        def forward(self, x: Tensor, t: Tensor, labels: Any = None, style: Any = None) -> Tensor:
            return super().forward(x, t, labels) + style[:, :, None, None]

    engine = small_engine(Styled(), device="cpu")
    wish: dict[str, Any] = {"labels": [1], "seeds": 0, "condition": {"style": torch.ones(1, 3)}}
    samples = engine.samples(**wish)
    with engine.session(2, like=samples) as session:
        (slot,) = session.admit(*samples)
        session.advance()
        torch.testing.assert_close(session.take(slot).values, engine.sample(**wish).images)
    assert engine.manifest() == []


def test_a_manifest_opens_nothing_and_survives_what_could_not_be_opened() -> None:
    engine = graph_engine()
    for bad in ({"history": -1}, {"steps": 0}, {"steps": "8"}, {"slots": 0}, {"features": ["speed"]}):
        with pytest.raises(ArgumentError, match=next(iter(bad))):
            engine.session(**{"slots": 2, **bad})
    engine.session(2).close()
    before = engine.stats()
    for _ in range(4):
        assert len(engine.manifest()) == 1
    assert engine.stats() == before
    with pytest.raises(ArgumentError, match=r"requests\[0\]: session\.slot: got 3; allowed: one of slots"):
        engine.warm_up([{"session": {"slot": 3}}])


def test_steps_are_not_taken_backwards() -> None:
    engine = small_engine(device="cpu")
    with engine.session(2) as session:
        session.admit(*engine.samples(labels=[1]))
        with pytest.raises(ArgumentError, match="steps: got -2"):
            session.advance(-2)
        assert session.left == 4
        assert session.buffers.x.shape == (2, *SHAPE)
