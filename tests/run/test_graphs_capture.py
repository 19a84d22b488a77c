"""Captures on one device share a stream, and with it cuBLAS's workspace: a model of what torch does, and a GPU."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from fewstep.run.graphs import CudaCapturer

WORKSPACE = 32 * 2**20


@dataclass(eq=False)
class FakeStream:
    """A stream that knows which others it waits for."""

    priority: int = 0
    waited_for: list["FakeStream"] = field(default_factory=list)
    synchronised: int = 0

    def wait_stream(self, other: "FakeStream") -> None:
        self.waited_for.append(other)

    def synchronize(self) -> None:
        self.synchronised += 1


class FakeGraph:
    """A graph keeps pointing into the workspaces of the products it captured."""

    def __init__(self) -> None:
        self.began_on: FakeStream | None = None
        self.workspaces: list[object] = []


class FakeCuda:
    """torch.cuda as far as a capture goes: streams, and a workspace for each stream that a product ran on."""

    def __init__(self) -> None:
        self.of_thread = threading.local()
        self.workspaces: dict[FakeStream, object] = {}
        self.made = 0
        self.streams: list[FakeStream] = []
        self.capturing: list[FakeGraph] = []
        self.most_at_once = 0

    def current_stream(self, device: object = None) -> FakeStream:
        if not hasattr(self.of_thread, "stream"):
            self.of_thread.stream = FakeStream()
        return self.of_thread.stream  # type: ignore[no-any-return]

    def new_stream(self, device: object = None, priority: int = 0) -> FakeStream:
        self.streams.append(FakeStream(priority))
        return self.streams[-1]

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        before, self.of_thread.stream = self.current_stream(), stream
        try:
            yield
        finally:
            self.of_thread.stream = before

    @contextmanager
    def graph(self, graph: FakeGraph, pool: Any, stream: FakeStream, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        graph.began_on = stream
        self.capturing.append(graph)
        self.most_at_once = max(self.most_at_once, len(self.capturing))
        with self.stream(stream):
            yield
            used = self.current_stream()
        assert used is stream, "a capture ends on the stream it began on"
        self.capturing.remove(graph)

    def product(self) -> None:
        """What a matrix product does: take the stream's workspace, which its first product makes."""
        stream = self.current_stream()
        if stream not in self.workspaces:
            self.workspaces[stream], self.made = object(), self.made + 1
        for graph in self.capturing:
            graph.workspaces.append(self.workspaces[stream])

    def reset(self, graph: FakeGraph) -> None:
        """What torch 2.12 and newer do when a graph is released."""
        assert graph.began_on is not None
        self.workspaces.pop(graph.began_on, None)

    def intact(self, graph: FakeGraph) -> bool:
        return bool(graph.workspaces) and all(each in self.workspaces.values() for each in graph.workspaces)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    names = {"Stream": fake.new_stream, "graph_pool_handle": lambda: (0, 1), "CUDAGraph": FakeGraph}
    names |= {name: getattr(fake, name) for name in ("current_stream", "stream", "graph")}
    for name, value in names.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return fake


def captured(capturer: CudaCapturer, work: Callable[[], None]) -> FakeGraph:
    return capturer.capture(work)._graph  # type: ignore[return-value]


def test_every_capture_is_on_one_stream_and_adds_no_workspace(cuda: FakeCuda) -> None:
    capturer, ran_on = CudaCapturer(torch.device("cuda")), []

    def work() -> None:
        ran_on.append(cuda.current_stream())
        cuda.product()

    for _ in range(40):  # more than torch has streams
        captured(capturer, work)
    assert len(set(ran_on)) == 1
    assert len(ran_on) == 3 * 40
    assert (cuda.made, len(cuda.streams)) == (1, 2)


def test_a_released_graph_leaves_the_workspace_of_the_others(cuda: FakeCuda) -> None:
    capturer = CudaCapturer(torch.device("cuda"))
    first, second = (captured(capturer, cuda.product) for _ in range(2))
    cuda.reset(second)
    assert cuda.intact(first)
    begins, runs = cuda.streams
    assert first.began_on is begins
    assert begins.priority != runs.priority  # or it may be another capturer's


def test_the_work_is_captured_as_a_branch_that_is_joined(cuda: FakeCuda) -> None:
    caller = cuda.current_stream()
    captured(CudaCapturer(torch.device("cuda")), cuda.product)
    begins, runs = cuda.streams
    assert runs.waited_for == [caller, begins]
    assert (begins.waited_for, caller.waited_for) == ([runs], [runs])


def test_work_that_fails_is_joined_too_and_gives_the_turn_back(cuda: FakeCuda) -> None:
    capturer = CudaCapturer(torch.device("cuda"))

    def fails() -> None:
        if cuda.capturing:
            raise ValueError("of the work")

    with pytest.raises(ValueError, match="of the work"):
        capturer.capture(fails)
    begins, runs = cuda.streams
    assert begins.waited_for == [runs]
    cuda.capturing.clear()
    assert cuda.intact(captured(capturer, cuda.product))


def test_two_threads_capture_one_after_the_other(cuda: FakeCuda) -> None:
    """Also where each has a capturer: two engines on one device."""
    started, graphs = threading.Barrier(2), []

    def work() -> None:
        cuda.product()
        time.sleep(0.005)

    def engine() -> None:
        capturer = CudaCapturer(torch.device("cuda"))
        started.wait()
        graphs.extend(captured(capturer, work) for _ in range(3))

    threads = [threading.Thread(target=engine) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(graphs), cuda.most_at_once) == (6, 1)
    assert len({graph.workspaces[0] for graph in graphs}) == 2, "engines that are replayed at once share a workspace"


def test_timing_waits_for_the_stream_and_not_for_the_device(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(device: object = None) -> None:
        raise AssertionError("another thread may be capturing on the device")

    monkeypatch.setattr(torch.cuda, "synchronize", forbidden)
    assert CudaCapturer(torch.device("cuda")).seconds(cuda.product) >= 0
    assert cuda.current_stream().synchronised >= 2


@pytest.mark.gpu
def test_captures_on_a_gpu_do_not_grow_by_a_workspace_that_is_not_counted() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    a, b, out = (torch.randn(256, 256, device=device) for _ in range(3))
    capturer = CudaCapturer(device)

    def work() -> None:
        torch.mm(a, b, out=out)

    kept = [capturer.capture(work)]
    before = torch.cuda.memory_reserved(device)
    kept += [capturer.capture(work) for _ in range(8)]
    counted = sum(graph.bytes for graph in kept[1:])
    assert torch.cuda.memory_reserved(device) - before - counted < WORKSPACE


@pytest.mark.gpu
def test_a_graph_on_a_gpu_survives_the_release_of_another() -> None:
    """A product of few tiles and many terms, which cuBLAS splits: the parts meet in its workspace."""
    device = torch.device("cuda", torch.cuda.current_device())
    a, b = torch.randn(64, 16384, device=device), torch.randn(16384, 64, device=device)
    out, capturer = torch.empty(64, 64, device=device), CudaCapturer(device)

    def work() -> None:
        torch.mm(a, b, out=out)

    kept, released = capturer.capture(work), capturer.capture(work)
    kept.replay()
    expected = out.clone()
    released.release()
    torch.cuda.empty_cache()
    others = [torch.zeros(2**20, device=device) for _ in range(32)]  # what would lie where the workspace was
    out.fill_(float("nan"))
    kept.replay()
    assert torch.equal(out, expected)
    assert not any(each.any() for each in others)


@pytest.mark.gpu
def test_another_thread_works_on_a_gpu_during_a_capture() -> None:
    """It launches, allocates and waits for its stream; what it may not, draw from the default generator, raises."""
    device = torch.device("cuda", torch.cuda.current_device())
    x, own = torch.zeros(1000, device=device), torch.Generator(device).manual_seed(0)
    found: dict[str, object] = {}

    def meanwhile() -> None:
        found["sum"] = torch.ones(1000, device=device).sum().item()
        found["drawn"] = torch.randn(1000, device=device, generator=own).isfinite().all().item()
        try:
            torch.randn(1000, device=device)
        except RuntimeError as error:
            found["refused"] = str(error)

    def work() -> None:
        x.add_(1)
        if torch.cuda.is_current_stream_capturing():
            thread = threading.Thread(target=meanwhile)
            thread.start()
            thread.join()

    graph = CudaCapturer(device).capture(work)
    graph.replay()
    assert x[0].item() == 3  # two warm-ups and a replay
    assert (found["sum"], found["drawn"]) == (1000, True)
    assert "outside graph capture" in str(found["refused"])
