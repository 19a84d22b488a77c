"""Requests that every replica has to hear: a job to cancel, which one of them holds, and the numbers of all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

METRICS: Final = "/metrics"
JOBS: Final = "/v1/jobs/"


@dataclass(frozen=True)
class Whole:
    """One replica's answer.

    Attributes:
        replica: which one.
        status, headers, body: of HTTP.
    """

    replica: str
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


def is_for_all(path: str) -> bool:
    """Whether one replica could not answer for the others."""
    return path == METRICS or path.startswith(JOBS)


def together(path: str, answers: Sequence[Whole]) -> Whole:
    """One answer of several: of metrics all, with the replica as a label; else the best."""
    best = min(answers, key=lambda answer: answer.status)
    if path != METRICS or best.status != 200:
        return best
    good = [answer for answer in answers if answer.status == 200]
    kept = tuple((name, value) for name, value in best.headers if name.lower() != b"content-length")
    return Whole("", 200, kept, generate_latest(_merged(good)))


class _Replicas(Collector):
    def __init__(self, answers: Sequence[Whole]) -> None:
        self._answers = answers

    def collect(self) -> list[Metric]:
        """Each metric once, with the samples of all replicas."""
        metrics: dict[str, Metric] = {}
        for answer in self._answers:
            for family in text_string_to_metric_families(answer.body.decode()):
                metric = metrics.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    labels = {**sample.labels, "replica": answer.replica}
                    metric.add_sample(sample.name, labels, sample.value, sample.timestamp)
        return list(metrics.values())


def _merged(answers: Sequence[Whole]) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_Replicas(answers))
    return registry
