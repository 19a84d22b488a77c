"""What a server counts, for Prometheus; of one application, so that two in a process do not add up."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily

from fewstep.serve.asks import Ticket
from fewstep.serve.events import Event, Failed, Finished

SECONDS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """The counters of one application.

    Attributes:
        registry: which holds them.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        own: dict[str, Any] = {"namespace": "fewstep", "registry": registry}
        self._requests = Counter("requests", "Requests that were answered.", ("route", "status"), **own)
        self._in_progress = Gauge("requests_in_progress", "Requests that are not answered yet.", **own)
        self._request_seconds = Histogram(
            "request_seconds", "From a request to the end of its answer.", ("route",), buckets=SECONDS, **own
        )
        self._queue_seconds = Histogram("queue_seconds", "From an ask to its first step.", buckets=SECONDS, **own)
        self._run_seconds = Histogram("run_seconds", "From the first step to the image.", buckets=SECONDS, **own)
        self._images = Counter("images", "Images that were made.", ("model", "steps"), **own)
        self._rejected = Counter("rejected", "Requests that were not let in.", ("reason",), **own)
        self._cancelled = Counter("cancelled", "Images that nobody waited for any more.", **own)
        self._failed = Counter("failed", "Images that were let in and not made.", ("reason",), **own)

    def watch(self, stats: Callable[[], Mapping[str, Any]]) -> None:
        """Take what stands where from the batcher whenever somebody looks."""
        self.registry.register(_Stats(stats))  # type: ignore[no-untyped-call,unused-ignore]

    def heard(self, ticket: Ticket, event: Event) -> None:
        """An event of a ticket."""
        if isinstance(event, Finished):
            self._images.labels(event.member, str(event.steps)).inc()
            self._queue_seconds.observe(event.queue_seconds)
            self._run_seconds.observe(event.run_seconds)
        elif isinstance(event, Failed) and event.reason == "cancelled":
            self._cancelled.inc()
        elif isinstance(event, Failed):
            self._failed.labels(event.reason).inc()

    def refused(self, why: str) -> None:
        """Something was not let in."""
        self._rejected.labels(why).inc()

    @contextmanager
    def in_progress(self) -> Iterator[None]:
        """A request, for as long as it lasts."""
        self._in_progress.inc()
        try:
            yield
        finally:
            self._in_progress.dec()

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A request has come to its end; the status is 0 where the client did not wait for one."""
        self._requests.labels(route, str(status) if status else "gone").inc()
        self._request_seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)


class _Stats:
    """What `Batcher.stats` says, as gauges."""

    def __init__(self, stats: Callable[[], Mapping[str, Any]]) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        """Called for every scrape."""
        said = self._stats()
        yield _gauge("queue_depth", "Images that wait.", {(): said.get("queued", 0)})
        yield _gauge("queue_bytes", "Of the pictures and masks that wait.", {(): said.get("queued_bytes", 0)})
        running = said.get("running", {})
        yield _gauge("batch_rows", "Images that share the steps of a model.", _keyed(running), "model")
        yield _gauge("slots", "Images that may share the steps of a model.", {(): said.get("slots", 0)})
        yield _counter("steps", "Steps that were taken.", _keyed(said.get("steps", {})), "model")
        yield _counter("step_rows", "Images in those steps, summed.", _keyed(said.get("rows", {})), "model")
        yield from _step_seconds(said.get("step_seconds", {}))
        yield _counter("faults", "Steps that failed.", _keyed(said.get("faults", {})), "reason")
        yield _counter("restarts", "Images that began again after a fault.", {(): said.get("restarts", 0)})
        yield _counter("lora_swaps", "Changes of adapters.", {(): said.get("lora_swaps", 0)})
        memory = {kind.removeprefix("device_"): value for kind, value in said.get("memory", {}).items()}
        held = [stats["bytes"] for stats in said.get("graphs", {}).values() if "captures" in stats]
        memory |= {"graphs": sum(held)} if held else {}
        yield _gauge("gpu_memory_bytes", "Of the device.", _keyed(memory), "kind")
        yield _gauge("graphs", "Graphs that are held, and what was done with them.", _keyed(_graphs(said)), "state")


Values = Mapping[tuple[str, ...], float]


def _gauge(name: str, text: str, values: Values, *labels: str) -> Metric:
    family = GaugeMetricFamily(f"fewstep_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _counter(name: str, text: str, values: Values, *labels: str) -> Metric:
    family = CounterMetricFamily(f"fewstep_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _step_seconds(said: Mapping[str, Mapping[int, Mapping[str, float]]]) -> Iterable[Metric]:
    """How long steps took: `_sum` and `_count` by the rows of the network's batch that were in use."""
    family = SummaryMetricFamily("fewstep_step_seconds", "Of a step.", labels=("model", "bucket"))
    for model, buckets in said.items():
        for bucket, seen in buckets.items():
            family.add_metric((model, str(bucket)), int(seen["count"]), seen["seconds"])
    yield family


def _keyed(values: Mapping[str, float]) -> Values:
    return {(key,): value for key, value in values.items()}


def _graphs(said: Mapping[str, Any]) -> dict[str, float]:
    """Of all models together; none where steps are taken without graphs."""
    each = [stats for stats in said.get("graphs", {}).values() if "captures" in stats]
    if not each:
        return {}
    counted = {name: float(sum(stats[name] for stats in each)) for name in ("captures", "hits", "evictions")}
    return {"held": float(sum(len(stats["graphs"]) for stats in each)), **counted}
