"""The graph runner: its logic on a CPU with a recorder in the capture's place, and the same promises on a GPU."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep import Engine, Inpaint, Step, schedules
from fewstep.run.buffers import StaticBuffers
from fewstep.run.graphs import runner as graph_runner
from fewstep.run.graphs.cache import Entry, GraphCache, GraphKey
from fewstep.run.loop import sample_loop
from support.recorder import CaptureError, RecordedGraph
from support.runners import engines, used_three_times
from support.small import SHAPE, small_model

BUDGET = 10**9


@pytest.mark.parametrize("steps", [1, 4, 12], ids=["one step", "unrolled", "step by step"])
@pytest.mark.parametrize("w", [1.0, 3.0], ids=["one half", "guided"])
def test_graph_equals_eager_bitwise(device: str, steps: int, w: float) -> None:
    eager, graph, runner = engines(device)
    arguments: dict[str, Any] = {
        "labels": [1, 2],
        "seeds": [3, 4],
        "steps": steps,
        "guidance_scale": w,
        "sampler": "ddpm",
    }
    assert torch.equal(used_three_times(graph, **arguments), eager.sample(**arguments).images)
    assert runner.stats()["captures"] == 1
    assert runner.stats()["hits"] == 1


CHANGES: dict[str, dict[str, Any]] = {
    "seeds": {"seeds": [8, 9]},
    "labels": {"labels": [5, 0]},
    "guidance scale": {"guidance_scale": 7.5},
    "sampler": {"sampler": "ddpm"},
    "another sampler": {"sampler": "lcm"},
    "clip": {"clip": 0.5},
    "spacing": {"spacing": "leading"},
    "schedule": {"schedule": schedules.cosine()},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_of_values_replays_the_same_graph(device: str, change: dict[str, Any]) -> None:
    eager, graph, runner = engines(device)
    base: dict[str, Any] = {"labels": [1, 2], "seeds": [3, 4], "guidance_scale": 3.0}
    used_three_times(graph, **base)
    of_model = {name: change[name] for name in ("schedule", "defaults") if name in change}
    for engine in (eager, graph) if of_model else ():
        engine._planner = small_model(**of_model).planner()
    arguments = base | {name: value for name, value in change.items() if name not in of_model}
    assert torch.equal(graph.sample(**arguments).images, eager.sample(**arguments).images)
    assert runner.stats()["captures"] == 1


OTHER_KEYS: dict[str, dict[str, Any]] = {
    "more samples": {"labels": [1, 2, 3], "seeds": 0},
    "guidance on": {"guidance_scale": 3.0},
    "another number of steps": {"steps": 5},
    "rescale": {"guidance_scale": 3.0, "guidance_rescale": 0.5},
    "inpainting": {"start": Inpaint(torch.zeros(SHAPE), torch.ones(8, 8))},
    "a callback": {"callback": lambda step: None},
}


@pytest.mark.parametrize("change", OTHER_KEYS.values(), ids=OTHER_KEYS.keys())
def test_a_new_key_is_captured_exactly_once(device: str, change: dict[str, Any]) -> None:
    eager, graph, runner = engines(device)
    base: dict[str, Any] = {"labels": [1, 2], "seeds": 0}
    used_three_times(graph, **base)
    other = base | change
    assert torch.equal(used_three_times(graph, **other), eager.sample(**other).images)
    graph.sample(**base)
    graph.sample(**other)
    assert runner.stats()["captures"] == 2


def test_a_key_is_served_eagerly_twice(device: str) -> None:
    _, graph, runner = engines(device)
    for expected in (0, 0, 1, 1):
        graph.sample(labels=[1], seeds=0)
        assert runner.stats()["captures"] == expected
    assert runner.stats()["eager_runs"] == 2


def test_warming_up_captures_at_once(device: str) -> None:
    eager, graph, runner = engines(device)
    graph.warm_up([{"n": 2, "steps": 4}, {"n": 1, "steps": 2, "guidance_scale": 3.0}])
    assert runner.stats()["captures"] == 2
    found = graph.sample(labels=[1, 2], seeds=0, steps=4).images
    assert torch.equal(found, eager.sample(labels=[1, 2], seeds=0, steps=4).images)
    assert runner.stats()["eager_runs"] == 0


def test_outputs_are_never_overwritten(device: str) -> None:
    _, graph, _ = engines(device)
    kept = used_three_times(graph, labels=[1], seeds=[1])
    copy = kept.clone()
    graph.sample(labels=[2], seeds=[2])
    assert torch.equal(kept, copy)


def test_callbacks_cancel_and_preview_through_a_graph(device: str) -> None:
    eager, graph, runner = engines(device)
    results = []
    for engine in (eager, graph):
        for _ in range(3):
            previews: list[Tensor] = []

            def watch(step: Step, previews: list[Tensor] = previews) -> None:
                previews.append(step.x_0)
                if step.index == 1:
                    step.cancel(0)

            images = engine.sample(labels=[1, 2, 3], seeds=0, steps=4, callback=watch).images
        results.append((images, torch.stack(previews)))
    assert runner.stats()["hits"] == 1
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_a_nan_left_in_the_buffers_reaches_nobody(device: str) -> None:
    eager, graph, runner = engines(device)
    used_three_times(graph, labels=[1, 2], seeds=0)
    ((_, entry),) = runner.cache.items()
    for tensor in (entry.buffers.x, entry.buffers.x_in, entry.buffers.row):
        tensor.fill_(float("nan"))
    again = graph.sample(labels=[1, 2], seeds=0).images
    assert torch.equal(again, eager.sample(labels=[1, 2], seeds=0).images)


def test_two_threads_on_a_graph_engine(device: str) -> None:
    eager, graph, _ = engines(device)
    wanted = {label: eager.sample(labels=[label], seeds=[label]).images for label in range(8)}
    found: dict[int, Tensor] = {}

    def work(labels: range) -> None:
        for label in labels:
            found[label] = graph.sample(labels=[label], seeds=[label]).images

    threads = [threading.Thread(target=work, args=(range(start, 8, 2),)) for start in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[label], wanted[label]) for label in range(8))


def test_batch_invariance_needs_one_graph(device: str) -> None:
    _, graph, runner = engines(device, batch_invariant=True, max_batch=4)
    alone = used_three_times(graph, labels=[7], seeds=[3])[0]
    company = graph.sample(labels=[1, 7, 2], seeds=[8, 3, 9]).images[1]
    assert torch.equal(alone, company)
    assert runner.stats()["captures"] == 1


def cache_of(budget: int) -> tuple[GraphCache, list[GraphKey], list[RecordedGraph]]:
    _, graph, runner = engines("cpu")
    for steps in (1, 2, 3):
        graph.warm_up([{"n": 1, "steps": steps}])
    keys = [key for key, _ in runner.cache.items()]
    buffers = [entry.buffers for _, entry in runner.cache.items()]
    cache, recorded = GraphCache(budget), [RecordedGraph([], 100) for _ in keys]
    for key, own, each in zip(keys, buffers, recorded, strict=True):
        cache.put(key, Entry(own, each, each.bytes))
    return cache, keys, recorded


def test_the_least_recently_used_graph_goes_first() -> None:
    cache, keys, recorded = cache_of(300)
    assert cache.get(keys[0]) is not None  # now the youngest
    fourth = GraphKey(keys[0].signature, 7)
    assert cache.put(fourth, Entry(cache.items()[0][1].buffers, RecordedGraph([], 100), 100))
    assert [graph.released for graph in recorded] == [False, True, False]
    assert cache.get(keys[1]) is None
    assert cache.bytes == 300
    assert cache.evictions == 1


def test_a_graph_above_the_budget_is_not_kept() -> None:
    cache, keys, _ = cache_of(300)
    big = RecordedGraph([], 301)
    assert not cache.put(GraphKey(keys[0].signature, 7), Entry(cache.items()[0][1].buffers, big, big.bytes))
    assert big.released
    assert len(cache.items()) == 3


def test_an_evicted_key_is_captured_again_on_new_buffers() -> None:
    eager, graph, runner = engines("cpu")
    runner.cache.budget_bytes = 100
    first: dict[str, Any] = {"labels": [1], "seeds": 0, "steps": 2}
    second: dict[str, Any] = {"labels": [1], "seeds": 0, "steps": 3}
    for arguments in (first, second, first):
        assert torch.equal(used_three_times(graph, **arguments), eager.sample(**arguments).images)
    assert runner.stats()["captures"] == 3
    assert runner.stats()["evictions"] == 2


def test_a_graph_that_does_not_win_is_dropped() -> None:
    eager, graph, runner = engines("cpu")
    runner._capturer.speed_up = 1.0  # type: ignore[attr-defined]
    assert torch.equal(used_three_times(graph, labels=[1], seeds=0), eager.sample(labels=[1], seeds=0).images)
    graph.sample(labels=[1], seeds=0)
    assert runner.stats()["captures"] == 1
    assert runner.stats()["dropped"] == 1
    assert runner.stats()["graphs"] == []


def planted(loop: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Engine, Engine]:
    """Both engines, the graph one with a faulty loop."""
    eager, graph, _ = engines("cpu")
    monkeypatch.setattr(graph_runner, "sample_loop", loop)
    return eager, graph


def test_planted_a_coefficient_passed_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from the table on the host: refused at capture. Kept as a Python number: stale at the next plan."""

    def reads_on_the_host(denoiser: Any, buffers: StaticBuffers, steps: int) -> None:
        for _ in range(steps):
            sample_loop(denoiser, buffers, 1)
            buffers.x.mul_(float(buffers.row[0, 1]))

    _, graph = planted(reads_on_the_host, monkeypatch)
    with pytest.raises(CaptureError, match="reads a value on the host"):
        used_three_times(graph, labels=[1], seeds=0)

    count = iter(range(100))

    def counts_on_the_host(denoiser: Any, buffers: StaticBuffers, steps: int) -> None:
        for _ in range(steps):
            sample_loop(denoiser, buffers, 1)
            buffers.x.mul_(1.0 + next(count))

    _, graph = planted(counts_on_the_host, monkeypatch)
    with pytest.raises(CaptureError, match="by value"):
        used_three_times(graph, labels=[1], seeds=0)

    scale = {"value": 1.0}

    def a_frozen_number(denoiser: Any, buffers: StaticBuffers, steps: int) -> None:
        for _ in range(steps):
            sample_loop(denoiser, buffers, 1)
            buffers.x.mul_(scale["value"])

    eager, graph = planted(a_frozen_number, monkeypatch)
    same = eager.sample(labels=[1], seeds=0).images
    assert torch.equal(used_three_times(graph, labels=[1], seeds=0), same)
    scale["value"] = 0.5  # what eager code would now do is not what the graph does
    assert torch.equal(graph.sample(labels=[1], seeds=0).images, same)


def test_planted_a_fresh_tensor_inside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    def from_host_data(denoiser: Any, buffers: StaticBuffers, steps: int) -> None:
        for _ in range(steps):
            sample_loop(denoiser, buffers, 1)
            buffers.x.mul_(torch.tensor(1.0))

    _, graph = planted(from_host_data, monkeypatch)
    with pytest.raises(CaptureError, match="freezes host data"):
        used_three_times(graph, labels=[1], seeds=0)

    def rebinds_the_state(denoiser: Any, buffers: StaticBuffers, steps: int) -> None:
        for _ in range(steps):
            sample_loop(denoiser, buffers, 1)
            buffers.x = buffers.x * 1.0

    _, graph = planted(rebinds_the_state, monkeypatch)
    with pytest.raises(CaptureError, match="new address"):
        used_three_times(graph, labels=[1], seeds=0)


def test_planted_a_stale_buffer_after_an_eviction(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner that remembers buffers across an eviction fills ones no graph reads: the result shows it."""
    eager, graph, runner = engines("cpu")
    used_three_times(graph, labels=[1], seeds=0)
    ((_, entry),) = runner.cache.items()
    runner.cache.budget_bytes = 100
    used_three_times(graph, labels=[1, 2], seeds=0)  # evicts the first
    with pytest.raises(CaptureError, match="released"):
        entry.graph.replay()
    stale = entry.buffers
    monkeypatch.setattr(graph_runner.GraphRun, "buffers", property(lambda run: stale))
    wrong = used_three_times(graph, labels=[3], seeds=5)
    assert not torch.equal(wrong, eager.sample(labels=[3], seeds=5).images)


def test_planted_an_output_aliased_to_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the copy at the end of a run the next one overwrites its images: the test of outputs would fail."""
    _, graph, runner = engines("cpu")
    kept = used_three_times(graph, labels=[1], seeds=[1])
    ((_, entry),) = runner.cache.items()
    aliased = entry.buffers.x[:1]
    assert torch.equal(aliased, kept)
    assert aliased.data_ptr() != kept.data_ptr()
    graph.sample(labels=[2], seeds=[2])
    assert not torch.equal(aliased, kept)
