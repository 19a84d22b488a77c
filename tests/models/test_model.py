"""A model is a value: the caller's module stays as it is, and an engine runs a view of it, or a copy."""

import copy

import pytest
import torch
from torch import Tensor, nn

from fewstep import ArgumentError, Classes, Engine, Model, ModelError, Numbers, schedules
from fewstep.models.spec import ModelSpec
from support.cli_case import SPEC
from support.small import SHAPE, SmallNet, small_engine, small_model


def test_the_callers_module_keeps_mode_dtype_and_weights() -> None:
    net = SmallNet().train()
    before = copy.deepcopy(net.state_dict())
    for dtype in (None, torch.float64, torch.bfloat16):
        small_engine(net, dtype=dtype).sample(labels=[1], seeds=0)
    assert all(module.training for module in net.modules())
    assert net.conv.weight.dtype == torch.float32
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_a_strength_is_no_default() -> None:
    with pytest.raises(
        ArgumentError, match=r"defaults: got \{'strength': 0.7\}; allowed: no strength: a sample has it"
    ):
        small_model(defaults={"sampler": "ddim", "steps": 4, "strength": 0.7})
    with pytest.raises(ModelError, match="strength: is for a request to ask for"):
        ModelSpec.from_dict(SPEC.to_dict() | {"plan": SPEC.plan | {"strength": 0.7}})


class Dropping(SmallNet):
    """A network whose mode shows."""

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return nn.functional.dropout(super().forward(x, t, labels), 0.5, self.training)


def test_an_engine_evaluates_a_module_that_is_being_trained() -> None:
    net = Dropping().train()
    engine = small_engine(net)
    images = engine.sample(labels=[1], seeds=0).images
    assert torch.equal(images, small_engine(Dropping()).sample(labels=[1], seeds=0).images)
    net.train()
    assert torch.equal(images, engine.sample(labels=[1], seeds=0).images)


def test_two_engines_of_one_module_in_two_dtypes_are_both_right() -> None:
    model = small_model()
    wide, narrow = Engine(model, dtype=torch.float64), Engine(model)
    assert (wide.dtype, narrow.dtype) == (torch.float64, torch.float32)
    images = [engine.sample(labels=[1], seeds=0).images for engine in (wide, narrow, wide, narrow)]
    assert torch.equal(images[0], images[2])
    assert torch.equal(images[1], images[3])
    torch.testing.assert_close(images[0].float(), images[1], rtol=1e-4, atol=1e-4)


def test_weights_that_are_loaded_later_are_seen() -> None:
    net, other = SmallNet(), SmallNet()
    with torch.no_grad():
        other.conv.weight.mul_(0.5)
    engine = small_engine(net)
    before = engine.sample(labels=[1], seeds=0).images
    net.load_state_dict(other.state_dict())
    after = engine.sample(labels=[1], seeds=0).images
    assert not torch.equal(before, after)
    assert torch.equal(after, small_engine(other).sample(labels=[1], seeds=0).images)


def test_a_module_that_is_there_twice_and_hooks_are_kept() -> None:
    class Twice(SmallNet):
        def __init__(self) -> None:
            super().__init__()
            self.again = self.conv

        def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            return self.again(torch.tanh(super().forward(x, t, labels)))

    net, seen = Twice(), []
    net.conv.register_forward_hook(lambda *_: seen.append(1))
    engine = small_engine(net)
    assert engine.module.again is engine.module.conv  # type: ignore[union-attr]
    engine.sample(labels=[1], seeds=0, steps=2)
    assert len(seen) == 4


class Sequences(nn.Module):
    """A convolution over any number of sizes, told a time between 0 and 1."""

    def __init__(self, sizes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = {1: nn.Conv1d, 3: nn.Conv3d}[sizes](2, 2, 3, padding=1)
        self.times: list[float] = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.times.append(float(t[0]))
        return torch.tanh(self.conv(x)) + t.view(-1, *[1] * (x.ndim - 1))


@pytest.mark.parametrize("shape", [(2, 7), (2, 3, 4, 5)], ids=["a sequence", "a volume"])
def test_other_shapes_than_pictures(shape: tuple[int, ...]) -> None:
    """One DDIM step of each, written out: the noise is that of a picture with the same values in a row."""
    net = Sequences(len(shape) - 1)
    engine = Engine(Model(net, schedule=schedules.linear(), shape=shape, prediction="v", time="unit"))
    samples = engine.sample(3, steps=1, seeds=0)
    assert samples.images.shape == (3, *shape)
    z = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    given = engine.sample(3, steps=1, noise=z)
    with torch.no_grad():
        m = net(z, torch.full((3,), 0.999))
    schedule = engine.model.schedule
    signal, noise = float(schedule.signal_scale[-1]), float(schedule.noise_scale[-1])
    torch.testing.assert_close(given.images, signal * z - noise * m, rtol=1e-5, atol=1e-5)
    assert net.times[0] == pytest.approx(0.999)
    flat = Engine(Model(SmallNet(), schedule=schedules.linear(), shape=SHAPE)).samples(1, seeds=0)[0].start.x
    mine = engine.samples(1, seeds=0)[0].start.x
    count = min(flat.numel(), mine.numel())
    assert torch.equal(flat.flatten()[:count], mine.flatten()[:count])
    with engine.session(2) as session:
        (slot,) = session.admit(*engine.samples(1, steps=1, seeds=0))
        session.advance()
        torch.testing.assert_close(session.take(slot).values.view(1, *shape), samples.images[:1])


def test_classes_may_be_asked_for_by_name() -> None:
    names = [f"kind {i}" for i in range(10)]
    engine = small_engine(conditions=Classes(10, null=10, names=names))
    by_name = engine.sample(labels=["kind 3", 7], seeds=0)
    assert by_name.labels == [3, 7]
    assert torch.equal(by_name.images, engine.sample(labels=[3, 7], seeds=0).images)
    with pytest.raises(
        ArgumentError, match="labels: got kind 11; allowed: integers from 0 to 9, or names: kind 0, kind 1"
    ):
        engine.sample(labels=["kind 11"])
    with pytest.raises(ArgumentError, match=r"classes\.names: got .*; allowed: 10 names, no two alike"):
        Classes(10, names=names[:9])
    with pytest.raises(ArgumentError, match=r"numbers: got min 2 and max 1"):
        Numbers(2.0, 1.0)


def test_what_floats_in_a_condition_has_the_networks_dtype() -> None:
    class Styled(SmallNet):
        def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None, style: Tensor | None = None) -> Tensor:
            assert style is not None
            found.append((style.dtype, t.dtype))
            return super().forward(x, t, labels) + style[:, :, None, None]

    found: list[tuple[torch.dtype, torch.dtype]] = []
    engine = small_engine(Styled(), dtype=torch.bfloat16)
    engine.sample(labels=[1], seeds=0, condition={"style": torch.ones(1, 3)}, steps=1)
    assert found == [(torch.bfloat16, torch.float32)]


def test_a_default_plan_fits_a_short_schedule() -> None:
    for length in (1, 3, 4, 1000):
        model = Model(SmallNet(), schedule=schedules.linear(length), shape=SHAPE, prediction="v")
        assert len(model.planner().plan()) == min(4, length)


def test_a_model_and_an_engine_say_what_they_are() -> None:
    assert repr(small_engine(device="cpu")) == (
        "Engine('SmallNet', shape [3, 8, 8], ddim, 4 steps by default, float32 on cpu)"
    )
    with pytest.raises(AttributeError):
        small_model().prediction = "v"  # type: ignore[misc]
    with pytest.raises(TypeError):
        small_model().defaults["steps"] = 3  # type: ignore[index]
