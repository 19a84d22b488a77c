"""Clients that go while they wait, and clients that do not read: nothing runs for them, and others do not notice."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import numpy as np
import pytest

from fewstep.serve import Limits
from fewstep.serve.settings import Settings
from support.server_process import server_process
from support.serving import Knobs, Remote, running_server, tiny_family, until

STEPS = 100


@pytest.fixture(scope="module")
def knobs() -> Knobs:
    return Knobs()


@pytest.fixture(scope="module")
def one_slot(knobs: Knobs) -> Iterator[Remote]:
    """A server that runs one picture at a time."""
    with running_server(tiny_family(knobs=knobs), Settings(limits=Limits(slots=1, queue=8))) as remote:
        yield remote


@pytest.fixture(autouse=True)
def _reset(request: pytest.FixtureRequest, knobs: Knobs) -> Iterator[None]:
    yield
    knobs.reset()


def stats(remote: Remote) -> dict[str, Any]:
    assert remote.batcher is not None
    return remote.batcher.stats()


def running(remote: Remote) -> int:
    return sum(stats(remote)["running"].values())


def cancelled(remote: Remote) -> int:
    return int(metric(remote, "fewstep_cancelled_total"))


def metric(remote: Remote, name: str) -> float:
    """Of /metrics, summed over its labels."""
    lines = remote.get("/metrics").body.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


def asked(remote: Remote, **fields: Any) -> HTTPConnection:
    """A request that was sent and whose answer nobody has read yet."""
    body = {"model": "tiny", "labels": [3], "num_inference_steps": STEPS} | fields
    connection = remote.connection()
    connection.request("POST", "/v1/images/generations", json.dumps(body), {"Content-Type": "application/json"})
    return connection


def test_a_client_that_goes_while_it_is_queued_is_never_run(one_slot: Remote, knobs: Knobs) -> None:
    before = cancelled(one_slot)
    knobs.shut()
    first = asked(one_slot, num_inference_steps=2)
    assert knobs.entered.wait(60)
    second = asked(one_slot)
    until(lambda: stats(one_slot)["queued"] == 1)
    second.close()
    knobs.seconds = 0.01
    knobs.open()
    assert first.getresponse().status == 200
    first.close()
    until(lambda: cancelled(one_slot) == before + 1)
    until(lambda: stats(one_slot)["queued"] == 0 and running(one_slot) == 0)
    assert len(knobs.calls) < 2 + STEPS


@pytest.mark.parametrize("stream", [False, True], ids=["running", "streaming"])
def test_a_client_that_goes_while_it_runs_frees_its_slot(one_slot: Remote, knobs: Knobs, stream: bool) -> None:
    before, finished = cancelled(one_slot), stats(one_slot)["finished"]
    knobs.seconds = 0.02
    connection = asked(one_slot, stream=stream, partial_images=3 * stream)
    until(lambda: len(knobs.calls) >= 2)
    if stream:
        answer = connection.getresponse()
        assert answer.readline().startswith(b"event: image_generation.partial_image")
        answer.close()
    connection.close()
    until(lambda: cancelled(one_slot) == before + 1)
    assert running(one_slot) == 0
    assert len(knobs.calls) < STEPS
    assert stats(one_slot)["finished"] == finished
    knobs.seconds = 0.0
    assert one_slot.generate(model="tiny", labels=[1], num_inference_steps=2).status == 200


def test_of_several_pictures_all_go_with_the_client(one_slot: Remote, knobs: Knobs) -> None:
    before = cancelled(one_slot)
    knobs.seconds = 0.02
    connection = asked(one_slot, n=4)
    until(lambda: running(one_slot) == 1 and stats(one_slot)["queued"] == 3)
    connection.close()
    until(lambda: cancelled(one_slot) == before + 4)
    assert (running(one_slot), stats(one_slot)["queued"]) == (0, 0)


def reader_that_does_not_read(remote: Remote, body: dict[str, Any]) -> socket.socket:
    """A request for events over a connection that takes next to nothing, and from which nobody reads."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.settimeout(60)
    raw.connect((remote.host, remote.port))
    text = json.dumps(body).encode()
    head = f"POST /v1/images/generations HTTP/1.1\r\nHost: {remote.host}\r\nContent-Type: application/json\r\n"
    raw.sendall(f"{head}Connection: close\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)
    return raw


@pytest.mark.slow
def test_a_slow_reader_holds_up_nobody_and_loses_no_picture() -> None:
    """Ten pictures of 64x64 with three previews each are more than a connection holds unread.

    All of them are drawn while nobody reads, others are answered, and in the end every picture is there.
    """
    body = {"model": "tiny", "labels": [3], "n": 10, "seed": 0, "num_inference_steps": 5}
    with running_server(tiny_family(size=64, batch_invariant=True), send_buffer=8192) as remote:
        idle = metric(remote, "fewstep_requests_in_progress")
        slow = reader_that_does_not_read(remote, body | {"stream": True, "partial_images": 3})
        until(lambda: stats(remote)["finished"] == 10)
        assert running(remote) == 0
        with ThreadPoolExecutor(2) as threads:
            others = list(threads.map(lambda seed: remote.generate(**body | {"n": 1, "seed": seed}), range(4)))
        assert [answer.status for answer in others] == [200] * 4
        assert metric(remote, "fewstep_requests_in_progress") == idle + 1
        text = b"".join(iter(lambda: slow.recv(1 << 16), b""))
        slow.close()
    completed = [
        json.loads(line.removeprefix(b"data: "))
        for line in text.split(b"\n")
        if line.startswith(b'data: {"type":"image_generation.completed"')
    ]
    pictures = {each["fewstep"]["seed"]: each["b64_json"] for each in completed}
    assert sorted(pictures) == list(range(10))
    assert [pictures[seed] for seed in range(4)] == [answer.json["data"][0]["b64_json"] for answer in others]


@pytest.mark.long
def test_slow_readers_cost_a_bounded_memory() -> None:
    """What is kept for one that does not read does not grow with the number of steps."""
    grown = {}
    for steps in (5, 40):
        with server_process(size=64, send_buffer=8192) as other:
            fields = {"model": "tiny", "labels": [3], "n": 10, "stream": True, "partial_images": 3}
            assert other.remote.generate(**fields | {"stream": False, "num_inference_steps": 2}).status == 200
            before = other.resident
            slow = [reader_that_does_not_read(other.remote, fields | {"num_inference_steps": steps}) for _ in range(4)]
            until(lambda other=other: metric(other.remote, "fewstep_images_total") >= 50)  # type: ignore[misc]
            grown[steps] = other.resident - before
            for raw in slow:
                raw.close()
    print({steps: f"{size / 2**20:.1f} MiB" for steps, size in grown.items()})
    assert max(grown.values()) < 100 << 20
    assert grown[40] - grown[5] < 20 << 20


@pytest.mark.long
def test_memory_does_not_grow_over_two_thousand_requests() -> None:
    """Half are streamed, a tenth are invalid, some are left in the middle: the slope is below 1 %."""
    with server_process() as other:
        remote = other.remote

        def ask(number: int) -> None:
            kind = number % 20
            if kind < 2:
                assert remote.generate(model="tiny", labels=[99]).status == 400
            elif kind == 2:
                asked(remote, num_inference_steps=8).close()
            elif kind % 2:
                body = {"model": "tiny", "labels": [3], "stream": True, "partial_images": 2}
                with remote.stream("/v1/images/generations", body) as events:
                    assert [each.event for each in events][-1] == "image_generation.completed"
            else:
                assert remote.generate(model="tiny", labels=[3], num_inference_steps=2, seed=number).status == 200

        # The first step of several images costs 8 MB once. On a busy machine a request that was left still runs beside
        # the next one, which would be in the middle of what is counted.
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(ask, range(400)))
        sizes = []
        for number in range(2000):
            ask(number)
            sizes.append(other.resident)
    slope = np.polyfit(np.arange(len(sizes)), sizes, 1)[0] * len(sizes)
    print(f"{sizes[0] / 2**20:.1f} MiB, {slope / sizes[0]:+.2%} over {len(sizes)} requests")
    assert slope / sizes[0] < 0.01
