"""Ten times what a server can do, for a minute: it refuses in time, keeps its memory, and serves all that it let in."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fewstep.serve.load import Report, Traffic, run
from fewstep.serve.load.remote import Target
from support.server_process import Other, server_process

STEP, STEPS, SLOTS = 0.1, 2, 2
CAPACITY = SLOTS / (STEP * STEPS)  # pictures a second


@contextmanager
def watched(other: Other) -> Iterator[list[int]]:
    """The sizes of a server, twice a second."""
    sizes, end = [other.resident], threading.Event()

    def watch() -> None:
        while not end.wait(0.5):
            sizes.append(other.resident)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield sizes
    finally:
        end.set()
        thread.join()


def overloaded(seconds: float, deadline_ms: int, queue: int) -> tuple[Report, list[int]]:
    """A Poisson load of ten times the capacity."""
    rate = 10 * CAPACITY
    traffic = Traffic(
        requests=int(2 * rate * seconds), seconds=seconds, rate=rate, steps=(STEPS,), deadline_ms=deadline_ms
    )
    with server_process(seconds=STEP, limits={"slots": SLOTS, "queue": queue}) as other:
        target = Target(other.remote.url)
        run(target, Traffic(requests=200, seconds=3.0, rate=rate, steps=(STEPS,)))  # connections and caches
        with watched(other) as sizes:
            report = run(target, traffic)
    print({name: report.summary()[name] for name in ("sent", "served", "rejected", "failed", "in_time", "errors")})
    print(f"{sizes[0] / 2**20:.0f} MiB, most {max(sizes) / 2**20:.0f}")
    return report, sizes


@pytest.mark.long
@pytest.mark.alone
def test_ten_times_the_capacity_for_a_minute() -> None:
    """A full queue is two seconds of work, the deadline is ten: whoever is let in is served in time."""
    report, sizes = overloaded(60.0, 10_000, 20)
    summary = report.summary()
    assert summary["sent"] > 5 * CAPACITY * 60
    assert summary["failed"] == 0, summary["errors"]
    assert summary["rejected"] > 0.7 * summary["sent"]
    assert summary["rejected_without_retry_after"] == 0
    assert summary["statuses"].keys() == {"200", "429"}
    assert summary["in_time"] == summary["served"]
    assert max(sizes) < sizes[0] + (64 << 20)
    # Of the capacity, refusing nine of ten costs little.
    assert summary["images_per_second"][0] > 0.5 * CAPACITY


@pytest.mark.long
@pytest.mark.alone
def test_a_queue_that_is_longer_than_the_deadline_refuses_who_would_be_late() -> None:
    """A full queue would be twenty seconds of work, and the deadline is three."""
    report, _ = overloaded(15.0, 3000, 200)
    summary = report.summary()
    assert summary["rejected_without_retry_after"] == 0
    assert summary["in_time"] == summary["served"]
    assert summary["failed"] <= 0.02 * summary["served"], summary["errors"]
    assert summary["served"] > 0.4 * CAPACITY * 15
