"""What one process has made ready or measured, the next one takes, for the same network called in the same way."""

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewstep.errors import BackendWarning
from fewstep.run.backends.cache import CARD, Cache
from fewstep.run.backends.call import Call
from fewstep.run.backends.choice import race
from fewstep.run.backends.kept import STATES, Kept
from fewstep.run.backends.network import Network
from fewstep.run.backends.openvino import OpenVino
from support.backends import Copying
from support.tree import ROOT

HOW = {"backend": "copying", "dtype": "float32", "threads": None}


class Net(nn.Module):
    """A convolution, a time and a label."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.label = nn.Embedding(5, 3)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        h = self.conv(x) + t[:, None, None, None].to(x.dtype) / 1000
        return torch.tanh(h if labels is None else h + self.label(labels)[:, :, None, None])


def inputs_of(batch: int = 2, side: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 3, side, 4, generator=generator).to(memory_format=torch.channels_last)
    return x, torch.linspace(10, 900, batch)


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", 1 << 24)


class Library:
    """Stands for openvino: models are texts, in files of one name."""

    class Model(str):
        """A model for any number of lanes, or for one."""

        def input(self, place: int) -> Any:
            return self

        @property
        def partial_shape(self) -> list[Any]:
            return [self]

        @property
        def is_dynamic(self) -> bool:
            return "fixed" not in self

    def save_model(self, model: str, path: Path, compress_to_fp16: bool) -> None:
        assert not compress_to_fp16
        path.write_text(model)

    def Core(self) -> Any:  # noqa: N802
        return self

    def read_model(self, path: Path) -> "Library.Model":
        return Library.Model(path.read_text())


class Process:
    """What a process knows of a network: nothing but what is kept."""

    def __init__(self, cache: Cache, net: nn.Module | None = None, **how: object) -> None:
        self.kept = Kept(Cache(cache.folder, cache.limit), net or Net(), HOW | how)
        self.converted = 0

    def model(self, call: Call, made: str = "made") -> str:
        def convert() -> Library.Model:
            self.converted += 1
            return Library.Model(made)

        return str(self.kept.model(Library(), call, convert)[0])


def call_of(batch: int = 2, side: int = 6, names: tuple[str, ...] = (), dtype: torch.dtype = torch.float32) -> Call:
    x, t = inputs_of(batch, side)
    return Call.of((x.to(dtype), t, *(torch.zeros(batch, dtype=torch.long) for _ in names)), names)


# models


def test_a_model_is_converted_once_for_every_batch_and_thread_count_and_process(cache: Cache) -> None:
    first, second = Process(cache), Process(cache, threads=2)
    assert [first.model(call_of(2)), first.model(call_of(3)), second.model(call_of(1), "other")] == ["made"] * 3
    assert (first.converted, second.converted) == (1, 0)


def test_a_model_for_one_number_of_lanes_is_for_no_other(cache: Cache) -> None:
    first, second = Process(cache), Process(cache)
    assert first.model(call_of(2), "fixed 2") == second.model(call_of(2), "other") == "fixed 2"
    assert second.model(call_of(3), "fixed 3") == "fixed 3"


@pytest.mark.parametrize(
    "other",
    [
        lambda: (Net(seed=1), call_of()),
        lambda: (Net().bfloat16(), call_of()),
        lambda: (Net().eval(), call_of()),
        lambda: (Net(), call_of(side=8)),
        lambda: (Net(), call_of(dtype=torch.bfloat16)),
        lambda: (Net(), call_of(names=("labels",))),
    ],
    ids=["weights", "dtype", "mode", "side", "input's dtype", "arguments"],
)
def test_a_model_of_anything_else_is_never_taken(cache: Cache, other: Callable[[], tuple[nn.Module, Call]]) -> None:
    Process(cache).model(call_of(), "first")
    net, call = other()
    assert Process(cache, net).model(call, "second") == "second"
    assert Process(cache).model(call_of(), "third") == "first"


@pytest.mark.parametrize("package", ["torch", "openvino", "fewstep", "sources"])
def test_a_model_of_another_version_is_never_taken(cache: Cache, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    Process(cache).model(call_of(), "first")
    where = "fewstep.run.backends.kept"
    patched = {
        "torch": (f"{where}.torch.__version__", "0.0"),
        "openvino": (f"{where}._installed", lambda name: "0.0"),
        "fewstep": (f"{where}.__version__", "0.0"),
        "sources": (f"{where}.own_sources", lambda: "0"),
    }[package]
    monkeypatch.setattr(*patched)
    assert Process(cache).model(call_of(), "second") == "second"


def test_a_model_that_cannot_be_read_is_made_anew(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    Process(cache).model(call_of(), "first")
    for path in cache.folder.glob("*/model.xml"):
        path.write_text("damaged")
    assert Process(cache).model(call_of(), "second") == "second"
    monkeypatch.setattr(Library, "read_model", lambda *_: 1 / 0)
    assert Process(cache).model(call_of(), "third") == "third"


def test_a_library_that_cannot_save_is_told_of_once(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("Check 'bin_file' failed: cannot be written")

    monkeypatch.setattr(Library, "save_model", fails)
    process = Process(cache)
    with pytest.warns(BackendWarning, match="bin_file"):
        assert process.model(call_of()) == "made"
    assert process.model(call_of()) == "made"
    assert os.listdir(cache.folder) == []


def test_a_network_without_a_digest_is_converted_by_each_process(
    cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fewstep")
    for _ in range(2):
        net = Net()
        net.scale = lambda x: x  # type: ignore[assignment]
        process = Process(cache, net)
        process.model(call_of())
        assert process.converted == 1
        assert "Net.scale is " in process.kept.why_not
    assert not cache.folder.exists()
    assert "in each process" in caplog.text


def test_what_takes_long_is_said_before_it_is_done(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fewstep")
    Process(cache).model(call_of())
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "openvino: converting Net, 9.9e-05 million parameters" in caplog.text
    Process(cache).model(call_of())
    assert len(caplog.records) == 1


def test_a_network_in_training_fills_the_cache_with_few_of_its_states(cache: Cache) -> None:
    process = Process(cache)
    for _ in range(STATES + 3):
        process.model(call_of())
        process.kept.module.conv.weight.add_(1)
        process.kept.forget()
    assert process.converted == STATES + 3
    assert len(cache.entries()) == STATES


# findings


def slow(program: Any) -> None:
    call = type(program).__call__
    program.__class__ = type("Slow", (type(program),), {"__call__": lambda *given: (time.sleep(0.01), call(*given))[1]})


class Slow(Net):
    """Slower than any program of it."""

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        time.sleep(0.01)
        return super().forward(x, t, labels)


def network(cache: Cache, backend: Copying, net: nn.Module | None = None, only_if_faster: bool = True) -> Network:
    module = (net or Net()).eval()
    kept = Kept(Cache(cache.folder, cache.limit), module, HOW)
    return Network(module, backend, torch.float32, only_if_faster=only_if_faster, kept=kept)


def told(network: Network) -> dict[str, Any]:
    calls: Any = network.stats()["calls"]
    return dict(calls[-1])


def test_where_torch_is_faster_the_next_process_makes_no_program(cache: Cache) -> None:
    first = network(cache, Copying(slow))
    first(*inputs_of())
    assert (first.used, told(first)["choice"]) == ("torch", "measured")
    backend = Copying()
    second = network(cache, backend)
    second(*inputs_of())
    assert backend.made == []
    assert (second.used, told(second)["choice"]) == ("torch", "stored")
    for name in ("milliseconds", "torch_milliseconds", "error"):
        assert told(second)[name] == told(first)[name]
    second(*inputs_of(3))
    assert len(backend.made) == 1  # another kind of call is measured


def test_where_a_backend_is_faster_the_next_process_does_not_measure_and_still_checks(cache: Cache) -> None:
    class Faster(Copying):
        """Its programs do not run what is slow."""

    def quick(program: Any) -> None:
        program.module.__class__ = Net

    first = network(cache, Faster(quick), Slow())
    first(*inputs_of())
    assert (first.used, told(first)["choice"]) == ("copying", "measured")
    backend = Faster(quick)
    second = network(cache, backend, Slow())
    second(*inputs_of())
    assert (second.used, told(second)["choice"]) == ("copying", "stored")
    assert backend.made[0].calls <= 2
    wrong = network(cache, Faster(lambda program: program.module.conv.weight.data.mul_(2)), Slow())
    with pytest.warns(BackendWarning, match="differs"):
        wrong(*inputs_of())
    assert wrong.used == "torch"


def test_what_was_asked_for_is_not_measured_and_its_error_is_kept(cache: Cache) -> None:
    asked = network(cache, Copying(), only_if_faster=False)
    asked(*inputs_of())
    (entry,) = cache.entries()
    assert entry.facts["found"]["taken"] == "copying"
    assert entry.facts["found"]["error"] == told(asked)["error"]
    assert "milliseconds" not in entry.facts["found"]
    automatic = network(cache, Copying(slow))
    automatic(*inputs_of())
    assert told(automatic)["choice"] == "measured"
    (entry,) = cache.entries()
    assert entry.facts["found"]["milliseconds"] > 0
    network(cache, Copying(), only_if_faster=False)(*inputs_of())
    assert cache.entries()[0].facts == entry.facts


@pytest.mark.parametrize("other", ["threads", "torch's threads", "dtype", "lanes", "weights", "CPU", "instructions"])
def test_what_was_measured_of_another_call_or_machine_is_never_taken(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    Process(cache).kept.keep_finding(call_of(), {"taken": "torch", "milliseconds": 2.0})
    assert Process(cache).kept.finding(call_of()) == {"taken": "torch", "milliseconds": 2.0}
    how: dict[str, Any] = {"threads": {"threads": 2}, "dtype": {"dtype": "bfloat16"}}.get(other, {})
    where = "fewstep.run.backends.kept"
    patched = {
        "torch's threads": (f"{where}.torch.get_num_threads", lambda: 7),
        "CPU": (f"{where}.cpu_name", lambda: "another"),
        "instructions": (f"{where}.cpu_features", lambda: "others"),
    }
    if other in patched:
        monkeypatch.setattr(*patched[other])
    process = Process(cache, Net(seed=int(other == "weights")), **how)
    assert process.kept.finding(call_of(3 if other == "lanes" else 2)) is None


@pytest.mark.parametrize("damage", ["cut off", "another's"])
def test_a_damaged_finding_is_measured_again(cache: Cache, damage: str) -> None:
    network(cache, Copying(slow))(*inputs_of())
    card = next(cache.folder.glob(f"*/{CARD}"))
    text = card.read_text()
    card.write_text(text[:-9] if damage == "cut off" else text.replace('"taken":"torch"', '"taken":"other"'))
    again = network(cache, Copying(slow))
    again(*inputs_of())
    assert told(again)["choice"] == "measured"


def test_weights_that_change_are_measured_anew(cache: Cache) -> None:
    backend = Copying(slow)
    measured = network(cache, backend)
    measured(*inputs_of())
    measured.module.conv.weight.mul_(2)
    measured.look()
    measured.kept.forget()  # type: ignore[union-attr] # as a backend does that has it
    measured(*inputs_of())
    assert told(measured)["choice"] == "measured"
    assert len(cache.entries()) == 2


def test_two_calls_are_timed_in_turns_after_one_of_each() -> None:
    order: list[str] = []

    def call(name: str, seconds: float) -> Callable[[], None]:
        return lambda: (order.append(name), time.sleep(seconds))[0]

    one, other = race(call("a", 0.002), call("b", 0.0))
    assert one > other
    assert "".join(order) == "ab" + ("abba" * 4)[:14]


# OpenVINO itself


@pytest.fixture(scope="module")
def openvino() -> Any:
    return pytest.importorskip("openvino")


def made_by(cache: Cache | None, dtype: torch.dtype, net: nn.Module | None = None, batch: int = 2) -> OpenVino:
    net = (net or Net()).eval()
    backend = OpenVino(dtype, 1, None if cache is None else Kept(cache, net, HOW))
    x, t = inputs_of(batch)
    backend.program = backend.make(net, Call.of((x, t), ()), (x, t))  # type: ignore[attr-defined]
    return backend


def answer(backend: OpenVino, batch: int = 2) -> Tensor:
    found: Tensor = backend.program(inputs_of(batch)).clone()  # type: ignore[attr-defined]
    return found


@pytest.fixture(scope="module")
def warm(openvino: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Cache, Tensor]:
    """A cache with a model of the network in it, and the answer of the program that was made of that."""
    cache = Cache(tmp_path_factory.mktemp("warm") / "cache", 1 << 24)
    with torch.no_grad():
        return cache, answer(made_by(cache, torch.float32))


@pytest.mark.slow
def test_float32_then_bfloat16_in_one_cache_have_the_bits_of_fresh_ones(warm: tuple[Cache, Tensor]) -> None:
    cache, first = warm
    assert torch.equal(answer(made_by(None, torch.float32)), first)  # kept nowhere
    fresh = {torch.float32: first, torch.bfloat16: answer(made_by(None, torch.bfloat16))}
    for dtype in (torch.bfloat16, torch.float32, torch.bfloat16):
        assert torch.equal(answer(made_by(cache, dtype)), fresh[dtype])
    (entry,) = cache.entries()
    weights = 4 * sum(each.numel() for each in Net().conv.parameters())
    assert (entry.path / "model.bin").stat().st_size >= weights  # and are not compressed


@pytest.mark.slow
def test_a_damaged_model_and_one_of_another_network_are_made_again(warm: tuple[Cache, Tensor], tmp_path: Path) -> None:
    shutil.copytree(warm[0].folder, tmp_path / "cache")
    cache = Cache(tmp_path / "cache", 1 << 24)
    (entry,) = cache.entries()
    weights = (entry.path / "model.bin").read_bytes()
    others = bytes(len(weights))

    def write(new: Path) -> None:
        shutil.copy(warm[0].folder / entry.key / "model.xml", new)
        (new / "model.bin").write_bytes(others)

    cache.remove(entry.key)
    cache.keep(entry.key, entry.facts, write)
    net = Net().eval()
    kept = Kept(cache, net, HOW)
    checked = Network(net, OpenVino(torch.float32, 1, kept), torch.float32, only_if_faster=False, kept=kept)
    checked(*inputs_of())
    assert checked.used == "openvino"
    assert torch.equal(checked(*inputs_of()), warm[1])
    assert (entry.path / "model.bin").read_bytes() == weights


@pytest.mark.slow
def test_two_processes_that_warm_one_cache_at_once_both_go_on(openvino: Any, tmp_path: Path) -> None:
    path = ":".join(str(ROOT / each) for each in ("engine", "kernels", "tests"))
    environment = os.environ | {"PYTHONPATH": path, "FEWSTEP_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    program = (
        "import warnings; warnings.simplefilter('error', category=UserWarning)\n"
        "from support.small import small_engine\n"
        "engine = small_engine(backend='openvino', threads=1)\n"
        "images = engine.sample(2, steps=2, seeds=0).images\n"
        "print(engine.stats()['backend']['name'], float(images.double().sum()))\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [each.communicate()[0].split() for each in started]
    assert [each.returncode for each in started] == [0, 0]
    assert said[0] == said[1]
    assert said[0][0] == "openvino"
    assert all(len(name) == 64 for name in os.listdir(tmp_path))


@pytest.mark.parametrize(("ours", "torchs", "held"), [((), (slow,), 0), ((slow,), (), 1)], ids=["ahead", "behind"])
def test_auto_races_with_torchs_own_way_and_holds_one_of_the_two(
    ours: tuple[Any, ...], torchs: tuple[Any, ...], held: int, cache: Cache
) -> None:
    by_torch = Network(Net(), Copying(*torchs), torch.float32, only_if_faster=False)
    auto = network(cache, Copying(*ours), only_if_faster=True)
    auto.otherwise = by_torch
    auto(*inputs_of())
    assert auto.stats()["asked"] == "auto"
    assert (auto.used == "copying", len(by_torch.stats()["calls"])) == (held == 0, held)  # type: ignore[arg-type]
