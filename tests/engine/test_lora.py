"""An engine whose weights change: its graphs go on, its sessions are waited for, and its requests see one state."""

import copy
import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fewstep import ArgumentError, Engine, ModelError, Step, UnusedPartWarning
from fewstep.models.lora import Adapters
from fewstep.models.net.unet import UNet
from support.lora_case import random_lora
from support.runners import engines, used_three_times
from support.small import small_engine
from support.unet_case import SMALL, random_unet

CONFIG = replace(SMALL, in_channels=3, out_channels=3, num_classes=11)
ASKED: dict[str, Any] = {"labels": [1, 2], "seeds": [3, 4], "steps": 2}


def network() -> UNet:
    return random_unet(CONFIG)


def merged(*loras: tuple[dict[str, Tensor], float]) -> Engine:
    """An engine of its own whose network has adapters from the start."""
    unet = network()
    adapters = Adapters(unet)
    for place, (lora, weight) in enumerate(loras):
        adapters.load(lora, str(place), weight)
    return small_engine(unet, runner="eager")


@pytest.mark.slow
def test_graphs_are_replayed_with_the_new_weights_and_no_key_changes(device: str) -> None:
    _, graph, runner = engines(device, network().to(device))
    a, b = random_lora(graph.module, ""), random_lora(graph.module, "to_", seed=1)
    before = used_three_times(graph, **ASKED)
    keys, captures = [key for key, _ in runner.cache.items()], runner.stats()["captures"]
    found = []
    for change in (
        lambda: graph.load_lora(a, "a"),
        lambda: graph.load_lora(b, "b", weight=0.0),
        lambda: graph.set_lora({"a": 0, "b": 1}),
        lambda: graph.set_lora({"a": 0.5, "b": -1}),
        lambda: graph.unload_lora("a"),
        lambda: graph.unload_lora(),
    ):
        change()
        found.append(graph.sample(**ASKED).images)
    assert [key for key, _ in runner.cache.items()] == keys
    assert runner.stats()["captures"] == captures == 1
    assert runner.stats()["hits"] == 1 + len(found)
    for images, loras in zip(found, [[(a, 1)], [(a, 1)], [(b, 1)], [(a, 0.5), (b, -1)], [(b, -1)]], strict=False):
        expected = merged(*loras).sample(**ASKED).images
        assert not torch.equal(images, before)
        torch.testing.assert_close(images.cpu(), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(found[-1], before)


def test_the_callers_module_changes_with_a_view_and_not_with_a_copy() -> None:
    shared, own = network(), network()
    before = copy.deepcopy(shared.state_dict())
    engine, apart = small_engine(shared), small_engine(copy.deepcopy(own))
    for each in (engine, apart):
        each.load_lora(random_lora(shared), "a")
    assert all(torch.equal(tensor, before[name]) for name, tensor in own.state_dict().items())
    assert not all(torch.equal(tensor, before[name]) for name, tensor in shared.state_dict().items())
    engine.unload_lora()
    assert all(torch.equal(tensor, before[name]) for name, tensor in shared.state_dict().items())


@contextmanager
def in_another_thread(action: Callable[[], object]) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    yield thread
    thread.join(30)
    assert not thread.is_alive()


def until(holds: Callable[[], object]) -> None:
    """Wait for what another thread is about to do."""
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_change_waits_until_the_last_session_is_closed() -> None:
    engine = small_engine(network())
    lora, session = random_lora(engine.module), engine.session(2)
    (slot,) = session.admit(*engine.samples(labels=[1], seeds=0, steps=2))
    with in_another_thread(lambda: engine.load_lora(lora, "a")) as thread:
        until(lambda: engine._lock._waiting)
        session.advance(1)
        engine.sample(**ASKED)  # of a thread that holds them already, and of any other
        session.advance()
        assert thread.is_alive()
        assert engine.loras == {}
        images = session.take(slot).values
        session.close()
    assert engine.loras == {"a": 1.0}
    expected = merged().sample(labels=[1], seeds=0, steps=2).images
    torch.testing.assert_close(images, expected, rtol=1e-4, atol=1e-4)


def test_no_new_session_keeps_a_change_waiting_for_ever() -> None:
    engine = small_engine(network())
    lora, session = random_lora(engine.module), engine.session(2)
    opened: list[Any] = []

    def serve() -> None:
        with engine.session(2) as later:
            opened.append((later, dict(engine.loras)))

    with in_another_thread(lambda: engine.load_lora(lora, "a")):
        until(lambda: engine._lock._waiting)
        with in_another_thread(serve):
            with engine.session(2):  # of the thread that holds them: else neither would end
                pass
            assert opened == []
            session.close()
    assert [loras for _, loras in opened] == [{"a": 1.0}]


def test_a_session_that_nobody_has_any_more_is_not_waited_for() -> None:
    engine = small_engine(network())
    engine.session(2)
    gc.collect()
    engine.load_lora(random_lora(engine.module), "a")
    assert engine.loras == {"a": 1.0}


def test_a_thread_with_an_open_session_is_told_to_close_it() -> None:
    engine = small_engine(network())
    lora, told = random_lora(engine.module), []

    def change(step: Step) -> None:
        with pytest.raises(ArgumentError, match="close it first") as caught:
            engine.load_lora(lora, "a")
        told.append(caught.value.argument)

    expected = merged().sample(**ASKED).images
    assert torch.equal(engine.sample(**ASKED, callback=change).images, expected)
    assert told == ["session"] * 2
    with engine.session(2), pytest.raises(ArgumentError, match="close it first"):
        engine.unload_lora()
    session = engine.session(2)
    used = threading.Thread(target=lambda: session.admit(*engine.samples(labels=[1], steps=2)))
    used.start()
    used.join()
    with pytest.raises(ArgumentError, match="close it first"):
        engine.set_lora({})
    session.close()
    engine.load_lora(lora, "a")


def test_what_was_computed_from_the_weights_is_dropped_after_each_change() -> None:
    engine = small_engine(network())
    calls: list[dict[str, float]] = []
    engine.when_weights_change(lambda: calls.append(engine.loras))
    engine.load_lora(random_lora(engine.module), "a")
    engine.set_lora({"a": 0.5})
    engine.unload_lora("a")
    assert calls == [{"a": 1.0}, {"a": 0.5}, {}]
    with pytest.raises(ArgumentError, match="forget"):
        engine.when_weights_change(7)  # type: ignore[arg-type]


def test_parts_for_text_encoders_are_reported(tmp_path: Path) -> None:
    engine = small_engine(network())
    lora = random_lora(engine.module)
    texts = {
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(2, 8),
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.ones(8, 2),
    }
    save_file(lora | texts, tmp_path / "style.safetensors")
    with pytest.warns(UnusedPartWarning, match=r"text_encoder \(1 layers\): applied to nothing"):
        loaded = engine.load_lora(tmp_path / "style.safetensors", weight=0.5)
    assert (loaded.name, loaded.weight, loaded.ranks) == ("style", 0.5, (4, 4))
    assert loaded.unused == {"text_encoder": 1}
    assert engine.loras == {"style": 0.5}


def test_a_file_that_does_not_fit_leaves_the_engine_as_it_was(tmp_path: Path) -> None:
    engine = small_engine(network())
    before = engine.sample(**ASKED).images
    (tmp_path / "style.bin").write_bytes(b"PK")
    for source, message in (
        ({}, "holds no tensors"),
        (tmp_path / "style.bin", "is a pickle"),
        (tmp_path / "nowhere.safetensors", "cannot be read: no such file"),
        ("owner/name", "cannot be read: no such file"),
        (tmp_path, "holds no .safetensors file"),
    ):
        with pytest.raises(ModelError, match=message):
            engine.load_lora(source)
    assert engine.loras == {}
    assert torch.equal(engine.sample(**ASKED).images, before)
