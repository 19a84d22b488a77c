"""A network that has changed is what the next image is of, on every backend."""

import time
import warnings
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fewstep import Engine
from fewstep.errors import BackendWarning
from fewstep.run.backends.backend import Backend, UnreadyError
from fewstep.run.backends.compiled import Compiled
from fewstep.run.backends.weights import Weights
from support.backends import CopiedProgram, Copying, on_backend
from support.changing import CHANGES, ManyKinds, new_weights
from support.lora_case import random_lora
from support.small import PureNet, small_engine
from support.unet_case import SMALL, random_unet

SHORT = ("one weight in place", "hook")
COMPILED = [
    pytest.param(("compile", change), id=f"compile-{change}", marks=[] if change in SHORT else pytest.mark.long)
    for change in CHANGES
]
COPIED = [pytest.param(("copying", change), id=f"copying-{change}") for change in CHANGES]


def backend_named(name: str) -> Backend:
    return Copying() if name == "copying" else Compiled("aot_eager")


def images(engine: Engine) -> Tensor:
    return engine.sample(labels=[1, 2], seeds=0, steps=2).images


@pytest.mark.parametrize("case", COPIED + COMPILED)
def test_change_is_seen_by_the_next_image(case: tuple[str, str]) -> None:
    backend, change = case
    nets = ManyKinds(), ManyKinds()
    ours, torchs = on_backend(small_engine(nets[0]), backend_named(backend)), small_engine(nets[1])
    before = images(ours)
    assert ours.stats()["backend"]["name"] == backend
    assert torch.equal(before, images(ours))
    CHANGES[change](nets[0], ours)
    CHANGES[change](nets[1], torchs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BackendWarning)  # of what torch alone runs
        after = images(ours)
    torch.testing.assert_close(after, images(torchs), rtol=0, atol=1e-6)
    assert (after - before).abs().max() > 1e-3


@pytest.mark.parametrize("change", CHANGES)
def test_packed_weights_are_packed_again(change: str) -> None:
    def many(engine: Engine) -> Tensor:
        return engine.sample(16, labels=[1] * 16, seeds=0, steps=1).images

    nets = ManyKinds(), ManyKinds()
    ours, bare = small_engine(nets[0], backend="torch"), on_backend(small_engine(nets[1]), None)
    before = many(ours)
    [call] = ours.stats()["backend"]["calls"]
    assert call["packed"] > 0
    CHANGES[change](nets[0], ours)
    CHANGES[change](nets[1], bare)
    after = many(ours)
    torch.testing.assert_close(after, many(bare), rtol=0, atol=1e-5)
    assert (after - before).abs().max() > 1e-3


def test_hooks_run_for_as_long_as_they_are_there() -> None:
    net, seen = ManyKinds(), []
    engine = on_backend(small_engine(net), Copying())
    before = images(engine)
    handle = net.norm.register_forward_hook(lambda part, inputs, answer: seen.append(len(answer)))
    with pytest.warns(BackendWarning, match="hooks are registered on the network, which torch alone runs"):
        images(engine)
    assert seen == [2, 2]
    handle.remove()
    assert torch.equal(images(engine), before)
    assert (seen, engine.stats()["backend"]["name"]) == ([2, 2], "copying")


@pytest.fixture
def everywhere() -> Iterator[list[type]]:
    """What a hook on all modules of the process has seen."""
    seen: list[type] = []
    handle = nn.modules.module.register_module_forward_hook(lambda part, inputs, answer: seen.append(type(part)))
    yield seen
    handle.remove()


def test_hooks_of_all_modules_run(everywhere: list[type]) -> None:
    with pytest.warns(BackendWarning, match="hooks"):
        images(on_backend(small_engine(ManyKinds()), Copying()))
    assert ManyKinds in everywhere


def test_weights_of_another_dtype_are_an_error_on_every_backend() -> None:
    net = ManyKinds()
    engine = on_backend(small_engine(net), Copying())
    images(engine)
    net.half()
    with pytest.raises(RuntimeError, match="type"):
        images(engine)
    net.float()
    images(engine)


def test_lora_is_in_the_next_image_and_out_of_it_again() -> None:
    config = replace(SMALL, in_channels=3, out_channels=3, num_classes=11)
    ours, torchs = on_backend(small_engine(random_unet(config)), Copying()), small_engine(random_unet(config))
    lora, found = random_lora(ours.module, "to_v"), []
    for engine in (ours, torchs):
        found.append([images(engine)])
        engine.load_lora(lora, "a")
        found[-1].append(images(engine))
        engine.set_lora({"a": 0.5})
        found[-1].append(images(engine))
        engine.unload_lora()
        found[-1].append(images(engine))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    whole, merged, half, again = found[0]
    assert torch.equal(whole, again)
    assert not torch.equal(whole, merged)
    assert not torch.equal(half, merged)
    assert ours.stats()["backend"]["changes"] == 3


@pytest.mark.parametrize("steps", [1, 2], ids=["between two steps", "between two samples"])
def test_change_within_an_open_session_shows_from_the_next_step_on(steps: int) -> None:
    def run(net: ManyKinds, engine: Engine) -> Tensor:
        found = []
        with engine.session(2, steps=2, features=()) as session:
            for sample in engine.samples(labels=[1, 2], seeds=0, steps=2):
                [slot] = session.admit(sample)
                session.advance(steps)
                net.wide.weight.data.mul_(1.5)
                session.advance()
                found.append(session.take(slot)[0])
        return torch.cat(found)

    nets = ManyKinds(), ManyKinds()
    ours = on_backend(small_engine(nets[0]), Copying())
    assert torch.equal(run(nets[0], ours), run(nets[1], small_engine(nets[1])))
    assert ours.stats()["backend"]["changes"] == 3 - steps


def test_compiled_network_reads_what_is_written_without_being_compiled_again() -> None:
    net = ManyKinds()
    engine = on_backend(small_engine(net), Compiled("aot_eager"))
    images(engine)
    net.wide.weight.data.mul_(2)
    images(engine)
    assert engine.stats()["backend"]["changes"] == 0


def test_one_value_in_a_large_weight_through_data_is_not_seen() -> None:
    """What the documentation says is not."""
    net = ManyKinds()
    weights = Weights(net)
    net.wide.weight.data[1, 1] += 1  # 64 x 64 numbers are 16 KiB, of which sixteen times 64 bytes are read
    assert weights.are_current()
    net.wide.weight.data[0, 0] += 1
    assert not weights.are_current()


def test_attribute_of_the_same_value_is_no_change() -> None:
    net = ManyKinds()
    weights = Weights(net)
    net.gain, net.norm.eps = float("1"), float("1e-5")
    assert weights.are_current()


class Noting(PureNet):
    """Notes what it is called with, in a list or in an attribute."""

    def __init__(self, kept: bool) -> None:
        super().__init__()
        self.kept, self.count = kept, 0

    def note(self, x: Tensor) -> None:
        self.calls.append(tuple(x.shape))
        self.count += not self.kept


@pytest.mark.parametrize("case", [(True, "copying"), (False, "torch")], ids=["in a list", "in an attribute"])
def test_network_that_notes_its_calls_is_not_made_ready_again_and_again(case: tuple[bool, str]) -> None:
    kept, backend = case
    net = Noting(kept)
    engine = on_backend(small_engine(net), Copying())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BackendWarning)
        before = images(engine)
    net.calls.clear()
    assert torch.equal(images(engine), before)
    assert len(net.calls) == (0 if kept else 2)
    told = engine.stats()["backend"]
    assert (told["name"], told["changes"]) == (backend, 0)


def test_scale_of_a_lora_of_peft_is_seen() -> None:
    peft = pytest.importorskip("peft")
    adapted = peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["conv"]), PureNet())
    weights = Weights(adapted)
    assert weights.are_current()
    adapted.conv.set_scale("default", 0.5)
    assert not weights.are_current()


def test_weight_that_cannot_be_read_is_refused() -> None:
    net = ManyKinds()
    net.register_buffer("sparse", torch.eye(3).to_sparse())
    with pytest.raises(UnreadyError, match="a weight cannot be looked at"):
        Weights(net)
    with pytest.warns(BackendWarning, match="a weight cannot be looked at"):
        images(on_backend(small_engine(net), Copying()))


class Slow(PureNet):
    """Takes its time where it is no copy."""

    slowness = 0.004

    def note(self, x: Tensor) -> None:
        time.sleep(self.slowness)


def quick(program: CopiedProgram) -> None:
    program.module.slowness = 0.0


def test_auto_stops_making_programs_in_vain_until_the_network_is_left_alone() -> None:
    net, backend = Slow(), Copying(quick)
    engine = on_backend(small_engine(net), backend, only_if_faster=True)
    for _ in range(6):
        images(engine)
        net.conv.weight.data.add_(0.01)
    assert len(backend.made) == 2
    assert engine.stats()["backend"]["name"] == "torch"
    for _ in range(400):
        images(engine)
        if len(backend.made) == 3:
            break
    assert engine.stats()["backend"]["name"] == "copying"


@pytest.fixture(scope="module")
def on_openvino() -> tuple[PureNet, Engine]:
    pytest.importorskip("openvino")
    net = PureNet()
    return net, Engine(small_engine(net).model, backend="openvino")


@pytest.mark.slow
def test_openvino_draws_with_the_weights_as_they_are(on_openvino: tuple[PureNet, Engine]) -> None:
    net, engine = on_openvino
    for change in (lambda: None, lambda: net.load_state_dict(new_weights(net))):
        change()
        error = (images(engine) - images(small_engine(net))).abs().max()
        print(f"{error:.1e}")
        assert error < 1e-5
        assert engine.stats()["backend"]["name"] == "openvino"
    assert engine.stats()["backend"]["changes"] == 1


@pytest.mark.slow
def test_openvino_leaves_hooks_to_torch(on_openvino: tuple[PureNet, Engine]) -> None:
    net, engine = on_openvino
    images(engine)
    handle = net.conv.register_forward_hook(lambda part, inputs, answer: 2 * answer)
    with pytest.warns(BackendWarning, match="^openvino: hooks are registered on the network, which torch alone runs"):
        found = images(engine)
    assert torch.equal(found, images(small_engine(net)))
    handle.remove()
