"""Sessions as a server uses them: samples come, go, are cancelled and finish; each is what it is alone, to the bit."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fewstep import ArgumentError, Engine, Image, Inpaint, Sample, Session
from fewstep.run.graphs.runner import GraphRunner
from support.recorder import RecorderCapturer
from support.runners import BUDGET
from support.small import SHAPE, SmallNet, StyledNet, picture, small_engine

SLOTS = 4
FEATURES = ("stochastic", "statistics", "known", "given_noise", "preview")
Wish = dict[str, Any]


def bucket(runner: str, decoder: nn.Module | None = None) -> Engine:
    """An engine with one bucket, which is also the size of its sessions."""
    graph = GraphRunner(RecorderCapturer(), BUDGET)
    chosen = graph if runner == "graph" else "eager"
    return small_engine(batch_invariant=True, max_batch=SLOTS, runner=chosen, decoder=decoder, device="cpu")


def opened(engine: Engine) -> Session:
    """Of the engine's bucket: as many slots and lanes as its batches have."""
    return engine.session(SLOTS, SLOTS + 1, steps=8, features=FEATURES)


@pytest.fixture(params=["eager", "graph"])
def engine(request: pytest.FixtureRequest) -> Engine:
    engine = bucket(request.param)
    engine.warm_up([{"session": {"slots": SLOTS, "lanes": SLOTS + 1, "features": FEATURES}}])
    return engine


def alone(engine: Engine, wish: Wish) -> Tensor:
    return engine.sample(**wish).images


def captures(engine: Engine) -> int:
    return int(engine.stats().get("captures", 0))


def test_a_trial_of_five_samples_of_other_samplers_and_steps(engine: Engine) -> None:
    """Three come, some steps, two more come, one is cancelled and its slot given away, all finish."""
    first: list[Wish] = [
        {"labels": [1], "seeds": 1, "sampler": "ddim", "steps": 5},
        {"labels": [2], "seeds": 2, "sampler": "ddpm", "steps": 3},
        {"labels": [3], "seeds": 3, "sampler": "lcm", "steps": 2, "guidance_scale": 0.0},
    ]
    later: list[Wish] = [
        {"labels": [4], "seeds": 4, "sampler": "euler", "steps": 4},
        {"labels": [5], "seeds": 5, "sampler": "ddim", "steps": 8, "eta": 0.5},
    ]
    before = captures(engine)
    with opened(engine) as session:
        slots = [session.admit(*engine.samples(**wish))[0] for wish in first]
        assert slots == [0, 1, 2]
        assert session.advance(2) == [2]
        assert session.finished == (2,)
        found = {3: session.take(2).values}
        cancelled = session.admit(*engine.samples(**later[0]))[0]
        assert session.admit(*engine.samples(**later[1])) == [3]
        assert cancelled == 2
        session.advance(1)
        session.cancel(cancelled)
        again = session.admit(*engine.samples(**later[0]))[0]
        assert again == cancelled
        session.advance()
        for slot, label in ((0, 1), (1, 2), (again, 4), (3, 5)):
            found[label] = session.take(slot).values
        assert session.finished == ()
        assert session.left == 0
    assert captures(engine) == before
    for wish in [*first, *later]:
        assert torch.equal(found[wish["labels"][0]], alone(engine, wish))


WISHES: dict[str, Wish] = {
    "guided": {"guidance_scale": 3.0, "steps": 3},
    "guided and rescaled": {"guidance_scale": 3.0, "guidance_rescale": 0.5, "steps": 2, "sampler": "ddpm"},
    "unconditional": {"guidance_scale": 0.0, "steps": 4},
    "from an image": {"start": Image(picture(), 0.5), "steps": 4},
    "inpainting": {"start": Inpaint(picture(), torch.eye(8)), "steps": 3, "sampler": "ddpm"},
    "noise given": {"noise": torch.linspace(-1, 1, 192).view(1, *SHAPE), "steps": 3, "sampler": "ddpm"},
}


@pytest.mark.parametrize("wish", WISHES.values(), ids=WISHES)
def test_every_kind_of_sample_is_what_it_is_alone_beside_every_other(engine: Engine, wish: Wish) -> None:
    mine = {"labels": [7], "seeds": 9, **wish}
    (sample,) = engine.samples(**mine)
    for other in WISHES.values():
        with opened(engine) as session:
            (company,) = engine.samples(labels=[1], seeds=2, **other)
            session.admit(company)
            session.advance(1)
            slot = session.admit(sample)[0]
            session.advance()
            found = session.take(slot).values
        torch.testing.assert_close(found, alone(engine, mine), rtol=0, atol=0)


@dataclass(frozen=True)
class Arrival:
    """Who comes, after how many steps, and whether the oldest is sent away then."""

    sampler: str
    steps: int
    label: int
    scale: float
    after: int
    cancels: bool


ARRIVALS = st.builds(
    Arrival,
    st.sampled_from(["ddim", "ddpm", "lcm", "euler"]),
    st.integers(1, 6),
    st.integers(0, 9),
    st.sampled_from([0.0, 1.0, 2.5]),
    st.integers(0, 3),
    st.booleans(),
)


@pytest.mark.parametrize("runner", ["eager", "graph"])
@given(st.lists(ARRIVALS, min_size=1, max_size=8))
@settings(max_examples=15)
def test_random_arrivals_change_no_bit_of_anybody(runner: str, arrivals: list[Arrival]) -> None:
    engine = bucket(runner)
    running: dict[int, Wish] = {}
    done: list[tuple[Wish, Tensor]] = []

    def step(session: Session, steps: int | None) -> None:
        done.extend((running.pop(slot), session.take(slot).values) for slot in session.advance(steps))

    with opened(engine) as session:
        for seed, who in enumerate(arrivals):
            step(session, who.after)
            if who.cancels and running:
                oldest = next(iter(running))
                del running[oldest]
                session.cancel(oldest)
            wish = {"labels": [who.label], "seeds": seed, "sampler": who.sampler, "steps": who.steps}
            wish["guidance_scale"] = who.scale
            (sample,) = engine.samples(**wish)
            if session.accepts(sample):
                running[session.admit(sample)[0]] = wish
        step(session, None)
    assert not running
    for wish, image in done:
        assert torch.equal(image, alone(engine, wish))


def test_a_finished_sample_is_decoded_by_itself(engine: Engine) -> None:
    kind = "graph" if captures(engine) else "eager"
    latent = bucket(kind, decoder=nn.Upsample(scale_factor=2))
    wanted = latent.sample(labels=[1, 2], seeds=[3, 4], steps=2, output="uint8")
    with latent.session(SLOTS, SLOTS + 1, output="uint8") as session:
        slots = session.admit(*latent.samples(labels=[1, 2], seeds=[3, 4], steps=2))
        session.advance()
        found = [session.take(slot) for slot in slots]
    assert [image.values.shape for image in found] == [(1, 16, 16, 3)] * 2
    assert torch.equal(torch.cat([image.values for image in found]), wanted.images)
    assert [bool(image.finite) for image in found] == [True, True]


def refusals() -> dict[str, tuple[dict[str, Any], Wish, str]]:
    """How a session was opened, who comes, and why it is refused."""
    return {
        "a plan too long": ({"steps": 8}, {"steps": 9}, "a plan of 9 rows"),
        "rescaled guidance": ({}, {"guidance_scale": 2.0, "guidance_rescale": 0.5}, "a rescaled guidance"),
        "inpainting": ({}, {"start": Inpaint(picture(), torch.ones(8, 8))}, "a known region"),
        "noise": ({}, {"noise": torch.zeros(1, *SHAPE)}, "noise of its own"),
        "no noise": ({"features": ()}, {"sampler": "ddpm"}, "noise, which"),
        "another condition": ({}, {"condition": {"style": torch.zeros(1, 3)}}, "the conditions"),
    }


@pytest.mark.parametrize(("features", "wish", "why"), refusals().values(), ids=refusals())
def test_what_a_session_was_not_opened_for_is_refused_with_the_reason(
    features: dict[str, Any], wish: Wish, why: str
) -> None:
    engine = small_engine(StyledNet(), device="cpu")
    (sample,) = engine.samples(labels=[1], seeds=0, **wish)
    with engine.session(2, **features) as session:
        assert not session.accepts(sample)
        with pytest.raises(ArgumentError, match=rf"sample: got {why}.*allowed: what the session has room for"):
            session.admit(sample)
        assert session.accepts(*engine.samples(labels=[1], steps=4))


def test_a_null_condition_of_another_dtype_is_refused() -> None:
    engine = small_engine(device="cpu")
    (sample,) = engine.samples(labels=[1], seeds=0, guidance_scale=2.0)
    with engine.session(2) as session:
        whole = replace(sample, null={"labels": torch.tensor(9.5)})
        with pytest.raises(ArgumentError, match="sample: got a null condition of another shape or dtype"):
            session.admit(whole)
        assert session.accepts(sample)


def test_a_session_is_full_when_its_slots_or_its_lanes_are() -> None:
    engine = small_engine(device="cpu")
    plain, guided = engine.samples(labels=[1]), engine.samples(labels=[1], guidance_scale=2.0)
    with engine.session(3, lanes=4) as session:
        session.admit(*guided)
        assert session.why_not(*guided) == "2 lanes and 1 free ones"
        session.admit(*plain)
        assert session.why_not(*plain) == "1 lanes and 0 free ones"
        session.cancel(0)
        session.admit(*plain, *plain)
        assert session.why_not(*plain) == "1 samples and 0 free slots"
        with pytest.raises(ArgumentError, match=r"slot: got 5; allowed: one of \[0, 1, 2\]"):
            session.take(5)


def test_a_sample_kept_from_one_session_goes_on_in_another(engine: Engine) -> None:
    wish: Wish = {"labels": [4], "seeds": 6, "sampler": "ddpm", "steps": 6}
    with opened(engine) as session:
        (slot,) = session.admit(*engine.samples(**wish))
        session.advance(4)
        kept: Sample = session.sample(slot)
    assert kept.start.index == 4
    with opened(engine) as session:
        (slot,) = session.admit(replace(kept))
        assert session.left == 2
        session.advance()
        assert torch.equal(session.take(slot).values, alone(engine, wish))


def test_a_graph_is_leased_to_one_session_at_a_time_and_not_evicted() -> None:
    engine = bucket("graph")
    runner: Any = engine._runner
    engine.warm_up([{"session": {"slots": SLOTS, "lanes": SLOTS + 1}}])
    with engine.session(SLOTS, SLOTS + 1) as session:
        assert runner.stats()["hits"] == 2
        with engine.session(SLOTS, SLOTS + 1) as other:
            assert runner.stats()["eager_runs"] == 1
            assert other.buffers is not session.buffers
        runner.cache.budget_bytes = 1
        for _ in range(4):  # nothing is captured beside a lease, so nothing has to go
            engine.sample(labels=[1], seeds=0)
        assert runner.stats()["captures"] == 1
        assert runner.stats()["evictions"] == 0
    assert not runner.cache.leased


class Prepared(SmallNet):
    """A network that looks its labels up once for a sample, and not in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.prepared: list[tuple[int, int]] = []

    def prepare_condition(self, condition: Mapping[str, Tensor], times: Tensor) -> Mapping[str, Tensor]:
        self.prepared.append((int(condition["labels"]), len(times)))
        return {"shift": self.embedding(condition["labels"])}

    def forward(self, x: Tensor, t: Tensor, shift: Tensor) -> Tensor:  # type: ignore[override]
        h = self.conv(x) + t[:, None, None, None].to(x.dtype) / 1000
        return torch.tanh(h + shift[:, :, None, None])


@pytest.mark.parametrize("w", [1.0, 3.0], ids=["one half", "guided"])
def test_what_a_network_prepares_is_prepared_once_a_sample(w: float) -> None:
    net = Prepared()
    engine, plain = small_engine(net, device="cpu"), small_engine(SmallNet(), device="cpu")
    wish: Wish = {"labels": [3, 7], "seeds": 0, "guidance_scale": w}
    assert torch.equal(engine.sample(**wish).images, plain.sample(**wish).images)
    assert net.prepared == [(label, 8) for label in ((3, 7) if w == 1 else (3, 10, 7, 10))]
    with engine.session(4) as session:
        net.prepared.clear()
        slots = session.admit(*engine.samples(**wish))
        session.advance()
        assert len(net.prepared) == (2 if w == 1 else 4)
        found = torch.cat([session.take(slot).values for slot in slots])
    torch.testing.assert_close(found, plain.sample(**wish).images)


class Uneven(Prepared):
    """One that prepares whole numbers for one label and floats for the others."""

    def prepare_condition(self, condition: Mapping[str, Tensor], times: Tensor) -> Mapping[str, Tensor]:
        shift = super().prepare_condition(condition, times)["shift"]
        return {"shift": shift.to(torch.int64) if condition["labels"] == 3 else shift}


def test_what_is_prepared_of_another_dtype_is_refused_and_not_rounded() -> None:
    engine = small_engine(Uneven(), device="cpu")
    assert torch.isfinite(engine.sample(labels=[3], seeds=0).images).all()
    with pytest.raises(ArgumentError, match=r"prepare_condition: got .*torch\.float32.*; allowed: .*torch\.int64"):
        engine.sample(labels=[3], seeds=0, guidance_scale=3.0)
