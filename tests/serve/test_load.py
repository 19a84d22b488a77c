"""The load generator: what it sends and when, what it counts, and that it believes no picture it has not looked at."""

import io
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fewstep.errors import ArgumentError, FewstepError
from fewstep.serve.load import Traffic, run
from fewstep.serve.load.hosting import hosted
from fewstep.serve.load.metrics import sums
from fewstep.serve.load.plot import picture
from fewstep.serve.load.remote import Target
from fewstep.serve.load.report import percentiles
from fewstep.serve.load.traffic import shots
from support.loaded import METRICS, Manners, polite
from support.serving import serving

SUBJECTS = [{"model": "stub", "labels": [label]} for label in range(3)]
Stub = Callable[..., AbstractContextManager[tuple[Manners, Target]]]


@pytest.fixture
def stub() -> Stub:
    @contextmanager
    def started(**manners: Any) -> Iterator[tuple[Manners, Target]]:
        told = Manners(**manners)
        with serving(polite(told)) as (host, port):
            yield told, Target(f"http://{host}:{port}")

    return started


def test_a_load_is_a_function_of_its_seed() -> None:
    traffic = Traffic(requests=500, rate=20.0, seconds=1e4, steps=(1, 8), weights=(3, 1))
    first, again = shots(traffic, SUBJECTS), shots(traffic, SUBJECTS)
    assert first == again
    assert first != shots(Traffic(**{**vars(traffic), "seed": 1}), SUBJECTS)
    assert len({shot.body["seed"] for shot in first}) == 500
    assert [shot.body["labels"] for shot in first[:4]] == [[0], [1], [2], [0]]
    drawn = Counter(shot.steps for shot in first)
    assert 330 < drawn[1] < 420
    assert all(shot.body["num_inference_steps"] == shot.steps for shot in first)


def test_arrivals_are_a_poisson_process() -> None:
    traffic = Traffic(requests=20_000, rate=50.0, seconds=1e4)
    times = np.array([shot.at for shot in shots(traffic, SUBJECTS)])
    gaps = np.diff(times, prepend=0.0)
    assert (gaps >= 0).all()
    assert np.mean(gaps) == pytest.approx(1 / 50, rel=0.03)
    assert np.std(gaps) == pytest.approx(1 / 50, rel=0.03)
    counts = np.bincount(times.astype(int))[:-1]
    assert np.var(counts) == pytest.approx(np.mean(counts), rel=0.2)


def test_no_arrival_is_later_than_the_end() -> None:
    traffic = Traffic(requests=1000, rate=10.0, seconds=5.0)
    times = [shot.at or 0.0 for shot in shots(traffic, SUBJECTS)]
    assert 20 < len(times) < 90
    assert max(times) < 5.0


@pytest.mark.parametrize(
    ("fields", "argument"),
    [
        ({"requests": 0}, "requests"),
        ({"requests": 10**7}, "requests"),
        ({"seconds": float("nan")}, "seconds"),
        ({"seconds": float("inf")}, "seconds"),
        ({"rate": 0.0}, "rate"),
        ({"concurrency": 10**6}, "concurrency"),
        ({"steps": (0,)}, "steps"),
        ({"steps": (1, 2), "weights": (1.0,)}, "weights"),
        ({"steps": (1, 2), "weights": (0.0, 0.0)}, "weights"),
        ({"steps": (1, 2), "weights": (1.0, float("nan"))}, "weights"),
        ({"previews": 4}, "previews"),
        ({"deadline_ms": 0}, "deadline_ms"),
    ],
    ids=str,
)
def test_a_load_has_bounds(fields: dict[str, Any], argument: str) -> None:
    with pytest.raises(ArgumentError) as raised:
        Traffic(**fields)
    assert raised.value.argument == argument


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://me:secret@127.0.0.1"])
def test_an_address_is_one_of_http(url: str) -> None:
    with pytest.raises(ArgumentError):
        Target(url)


def test_a_closed_loop(stub: Stub) -> None:
    heard: list[tuple[int, int]] = []
    with stub() as (manners, target):
        traffic = Traffic(requests=20, concurrency=3, steps=(1, 2))
        report = run(target, traffic, advance=lambda done, total: heard.append((done, total)))
    summary = report.summary()
    assert (summary["sent"], summary["served"], summary["rejected"], summary["failed"]) == (20, 20, 0, 0)
    assert len(manners.bodies) == 20 + 2 * 2  # each number of steps was drawn twice before
    assert heard[-1] == (20, 20)
    assert sum(summary["steps_given"].values()) == 20
    assert summary["server_run_ms"]["p50"] == [2.5, 2.5, 2.5]
    assert summary["occupancy"] | {"looks": 0} == {
        "looks": 0,
        "steps": 20,
        "rows_mean": 4.0,
        "rows_most": 4,
        "queue_most": 5,
        "slots": 8,
        "share": 0.5,
    }
    least, most = summary["latency_ms"]["p50"][1:]
    assert 0 < least <= summary["latency_ms"]["p50"][0] <= most
    assert report.about["about"]["classes"] == 10
    assert {tuple(body["labels"]) for body in manners.bodies} == {(label,) for label in range(10)}


def test_an_open_loop_waits_for_nobody(stub: Stub) -> None:
    """One picture at a time, and all arrive at once: the last has waited for all others."""
    with stub(seconds=0.02, one_at_a_time=True) as (_, target):
        report = run(target, Traffic(requests=10, rate=10_000.0))
    assert len(report.served) == 10
    assert max(outcome.latency for outcome in report.served) > 0.02 * 9


def test_what_waits_here_for_its_turn_has_waited(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for one request at a time the others are sent late; their latency counts from when they were due."""
    monkeypatch.setattr("fewstep.serve.load.sending.IN_FLIGHT", 1)
    with stub(seconds=0.02) as (_, target):
        report = run(target, Traffic(requests=10, rate=10_000.0))
    last = max(report.served, key=lambda outcome: outcome.ended)
    assert last.latency > 0.02 * 9
    assert last.ended - last.sent < last.latency
    assert report.summary()["sent_late_ms"]["most"] > 20 * 8


def test_a_streamed_load_has_first_previews(stub: Stub) -> None:
    with stub() as (manners, target):
        report = run(target, Traffic(requests=6, stream=True, previews=2, deadline_ms=60_000))
    assert manners.bodies[-1]["partial_images"] == 2
    assert manners.bodies[-1]["deadline_ms"] == 60_000
    assert "deadline_ms" not in manners.bodies[0]  # of the comparison before: its steps must not depend on the load
    summary = report.summary()
    assert summary["first_preview_ms"]["count"] == summary["served"] == summary["in_time"] == 6


def test_refusals_are_no_failures(stub: Stub) -> None:
    with stub(refuse=3) as (_, target):
        report = run(target, Traffic(requests=10, concurrency=1))
    summary = report.summary()
    assert (summary["served"], summary["rejected"], summary["failed"]) == (6, 4, 0)
    assert summary["rejected_without_retry_after"] == 0
    assert summary["statuses"] == {"200": 6, "429": 4}


def test_what_is_no_picture_has_failed(stub: Stub) -> None:
    with stub(break_every=4) as (_, target):
        report = run(target, Traffic(requests=10, concurrency=1))
    summary = report.summary()
    assert (summary["served"], summary["failed"]) == (7, 3)
    assert all("cannot be decoded" in error for error in summary["errors"])


@pytest.mark.parametrize(
    ("manners", "message"),
    [
        ({"forgetful": True}, "one seed gave two pictures"),
        ({"size": (28, 27)}, "28x27 instead of 28x28"),
        ({"break_every": 1}, "cannot be decoded"),
        ({"refuse": 1}, "status 429: full"),
        ({"redirect": "http://192.0.2.1/elsewhere"}, "status 307"),
    ],
    ids=["another picture", "another size", "no picture", "refused", "sent elsewhere"],
)
def test_no_load_is_given_to_a_server_whose_pictures_are_wrong(
    stub: Stub, manners: dict[str, Any], message: str
) -> None:
    with stub(**manners) as (told, target):
        with pytest.raises(FewstepError, match=message):
            run(target, Traffic(requests=10))
        assert len(told.bodies) <= 2


def test_a_request_without_an_answer_has_failed_in_time(stub: Stub) -> None:
    with stub(seconds=30.0) as (_, target), pytest.raises(FewstepError, match="no answer in time"):
        run(target, Traffic(requests=1, timeout=0.2))


def test_a_server_that_is_not_there_is_one_line() -> None:
    with pytest.raises(FewstepError, match=r"http://127.0.0.1:9/v1/models"):
        run(Target("http://127.0.0.1:9"), Traffic(requests=1))


def test_a_model_that_is_not_served_is_named(stub: Stub) -> None:
    with stub() as (_, target), pytest.raises(ArgumentError, match="stub, other"):
        run(Target(target.url, "third"), Traffic(requests=1))


def test_a_key_is_sent_and_not_shown(stub: Stub) -> None:
    with stub() as (manners, target):
        target = Target(target.url, key="a secret")
        report = run(target, Traffic(requests=1), [{"prompt": "7"}])
    assert manners.keys == ["Bearer a secret"] * 3
    assert "a secret" not in f"{target} {report.to_dict()}"
    assert manners.bodies[0]["prompt"] == "7"


def test_the_picture_of_a_load(stub: Stub) -> None:
    with stub(refuse=5) as (_, target):
        report = run(target, Traffic(requests=12, steps=(1, 2), deadline_ms=1000, concurrency=1))
    with Image.open(io.BytesIO(picture(report))) as image:
        assert image.format == "PNG"


def test_percentiles_have_the_spread_of_five_parts() -> None:
    found = percentiles([1.0] * 50 + [3.0] * 50)
    assert found is not None
    assert found["p50"] == [2.0, 1.0, 3.0]
    assert (found["count"], found["mean"], found["most"]) == (100, 2.0, 3.0)
    assert percentiles([]) is None
    one = percentiles([5.0])
    assert one is not None
    assert one["p99"] == [5.0, 5.0, 5.0]


def test_metrics_are_summed_over_their_labels() -> None:
    assert sums(METRICS) == {"fewstep_batch_rows": 4.0, "fewstep_queue_depth": 5.0}


@pytest.mark.long
def test_a_server_of_our_own_is_started_and_stopped() -> None:
    with hosted("digits") as url:
        report = run(Target(url), Traffic(requests=24, concurrency=4, steps=(1, 2, 4)))
    summary = report.summary()
    assert summary["served"] == 24
    assert set(summary["steps_given"]) == {"1", "2", "4"}
    assert summary["occupancy"]["rows_mean"] >= 1
    with pytest.raises(FewstepError, match="/v1/models"):
        run(Target(url), Traffic(requests=1))


@pytest.mark.long
def test_a_server_that_does_not_start_says_why() -> None:
    with pytest.raises(FewstepError, match="no-such-model"), hosted("no-such-model"):
        pass
