"""Streams and clients that leave: previews on the way, errors inside, and nothing that runs on for nobody."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fewstep.serve import Ask, Batcher, Family, Limits
from fewstep.serve.asks import Listener, Ticket
from fewstep.serve.events import Admitted, Failed, Finished, Progress
from fewstep.serve.family import Member
from fewstep.serve.http.app import build_app
from fewstep.serve.http.waiting import Waiting
from fewstep.serve.http.wire.answers import Facts, Story
from fewstep.serve.http.wire.pictures import Encoding
from fewstep.serve.settings import Settings
from support.serving import Knobs, Remote, running_server, serving, tiny_engine, tiny_family, until

KNOBS = Knobs()
PATH = "/v1/images/generations"
ASKED = {"model": "tiny", "labels": [1], "steps": 4, "seed": 3}


@pytest.fixture(scope="module")
def remote() -> Iterator[Remote]:
    with running_server(tiny_family(knobs=KNOBS)) as remote:
        yield remote


@pytest.fixture(autouse=True)
def no_faults() -> Iterator[None]:
    yield
    KNOBS.reset()


def failed(remote: Remote) -> Any:
    assert remote.batcher is not None
    return remote.batcher.stats()["failed"]


def idle(remote: Remote) -> bool:
    assert remote.batcher is not None
    stats = remote.batcher.stats()
    return stats["queued"] == 0 and not any(stats["running"].values())


def test_previews_then_the_image(remote: Remote) -> None:
    with remote.stream(PATH, ASKED | {"stream": True, "partial_images": 2, "n": 2}) as events:
        heard = list(events)
    last = [each for each in heard if each.event == "image_generation.completed"]
    partial = [each for each in heard if each.event == "image_generation.partial_image"]
    assert len(last) + len(partial) == len(heard)
    assert all(each.data["type"] == each.event for each in heard)
    assert sorted(each.data["fewstep"]["index"] for each in last) == [0, 1]
    for index in (0, 1):
        own = [each.data for each in partial if each.data["fewstep"]["index"] == index]
        assert [each["partial_image_index"] for each in own] == list(range(len(own)))
        assert len(own) <= 2
        assert all(each["fewstep"]["steps"] == 4 for each in own)
    image = next(each.data for each in last if each.data["fewstep"]["index"] == 0)
    assert image["fewstep"]["seed"] == 3
    assert image["size"] == "8x8"


def test_a_stream_without_previews_is_one_event(remote: Remote) -> None:
    with remote.stream(PATH, ASKED | {"stream": True}) as events:
        assert [each.event for each in events] == ["image_generation.completed"]


def test_an_error_on_the_way_is_the_last_event(remote: Remote) -> None:
    KNOBS.shut()
    with remote.stream(PATH, ASKED | {"stream": True, "partial_images": 3}) as events:
        KNOBS.nan_label = 1
        KNOBS.open()
        heard = list(events)
    assert heard[-1].event == "error"
    assert heard[-1].data["error"]["code"] == "non_finite"
    answer = remote.generate(**ASKED)
    assert (answer.status, answer.error["code"]) == (500, "non_finite")
    assert answer.headers["x-should-retry"] == "false"


def test_silence_is_filled() -> None:
    knobs = Knobs()
    batcher = Batcher({"tiny": tiny_family(knobs=knobs)})
    batcher.start()
    knobs.shut()
    with serving(build_app(batcher, heartbeat=0.05)) as (host, port):
        remote = Remote(host, port)
        with_body = b'{"labels": [1], "steps": 1, "stream": true}'
        connection = remote.connection()
        connection.request("POST", PATH, with_body)
        answer = connection.getresponse()
        assert answer.readline() == b": still here\n"
        knobs.open()
        assert b"completed" in answer.read()
        connection.close()
    assert batcher.drain(60)


@pytest.mark.parametrize("stream", [False, True], ids=["at once", "streamed"])
def test_who_hangs_up_while_running_is_dropped(remote: Remote, stream: bool) -> None:
    before = failed(remote).get("cancelled", 0)
    KNOBS.shut()
    connection = remote.connection()
    connection.request("POST", PATH, json.dumps(ASKED | {"steps": 100, "stream": stream, "partial_images": 3}))
    assert KNOBS.entered.wait(60)
    if stream:
        assert connection.getresponse().status == 200
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    KNOBS.seconds = 0.05  # all 100 steps would take 5 s
    KNOBS.open()
    until(lambda: failed(remote).get("cancelled", 0) == before + 1)
    assert len(KNOBS.calls) < 100
    until(lambda: idle(remote))


@pytest.mark.parametrize("stream", [False, True], ids=["at once", "streamed"])
def test_who_hangs_up_in_the_queue_is_dropped_at_once(stream: bool) -> None:
    knobs = Knobs()
    with running_server(tiny_family(knobs=knobs), Settings(limits=Limits(slots=1))) as remote:
        knobs.shut()
        first = threading.Thread(target=remote.generate, kwargs=ASKED)
        first.start()
        assert knobs.entered.wait(60)
        connection = remote.connection()
        connection.request("POST", PATH, json.dumps(ASKED | {"stream": stream}))
        assert remote.batcher is not None
        until(lambda: remote.batcher.stats()["queued"] == 1)
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
        until(lambda: remote.batcher.stats()["queued"] == 0)  # though the device is busy
        knobs.open()
        first.join()
        assert len(knobs.calls) == 4


class Script:
    """A batcher that tells what a test says."""

    def __init__(self) -> None:
        self.tickets: list[Ticket] = []

    def submit(self, asks: list[Ask], listener: Listener) -> list[Ticket]:
        self.tickets = [Ticket(ask, listener) for ask in asks]
        return self.tickets


def test_a_slow_reader_holds_a_bounded_amount_and_loses_no_image() -> None:
    async def scenario() -> None:
        script: Any = Script()
        with Waiting(script, [Ask("tiny", 1), Ask("tiny", 2)]) as waiting:
            picture = np.zeros((8, 8, 3), np.uint8)

            def device() -> None:
                for ticket in script.tickets:
                    ticket.tell(Admitted("tiny", "ddim", 5000))
                for step in range(1, 5000):
                    for ticket in script.tickets:
                        ticket.tell(Progress(step, 5000, picture if step % 2 else None))
                script.tickets[1].tell(Finished(picture, "tiny", "ddim", 5000, 2, 0.0, 0.0))

            thread = threading.Thread(target=device)
            thread.start()
            thread.join()  # the loop takes nothing meanwhile
            news = await waiting.news()
            kinds = [(place, type(event).__name__, getattr(event, "step", 0)) for place, event in news]
            assert sorted(kinds) == [
                (0, "Admitted", 0),
                (0, "Progress", 4998),
                (0, "Progress", 4999),
                (1, "Admitted", 0),
                (1, "Finished", 0),
                (1, "Progress", 4998),
                (1, "Progress", 4999),
            ]
            assert not waiting.over
            assert await waiting.news(0.001) == []
            script.tickets[0].tell(Failed("worker", "it failed"))
            assert [place for place, _ in await waiting.news()] == [0]
            assert waiting.over
        assert all(ticket.abandoned for ticket in script.tickets)

    asyncio.run(scenario())


def test_a_loop_that_is_gone_cancels() -> None:
    script: Any = Script()

    async def leave() -> None:
        Waiting(script, [Ask("tiny", 1)])

    asyncio.run(leave())
    script.tickets[0].tell(Admitted("tiny", "ddim", 1))
    assert script.tickets[0].abandoned


def test_a_defect_says_nothing_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("the secret")

    batcher = Batcher({"tiny": tiny_family()})
    batcher.start()
    monkeypatch.setattr(batcher, "submit", fails)
    with serving(build_app(batcher)) as (host, port):
        answer = Remote(host, port).post(PATH, ASKED, headers={"x-request-id": "job-9"})
        assert (answer.status, answer.error["code"]) == (500, "internal_error")
        assert "job-9" in answer.error["message"]
        assert b"secret" not in answer.body
        assert answer.headers["x-request-id"] == "job-9"
    batcher.close()


def test_a_defect_in_a_stream_is_its_last_event(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("the secret")

    monkeypatch.setattr(Encoding, "__call__", fails)
    with remote.stream(PATH, ASKED | {"stream": True}) as events:
        heard = list(events)
    assert [each.event for each in heard] == ["error"]
    assert heard[0].data["error"]["code"] == "internal_error"
    assert "secret" not in str(heard[0].data)


def test_a_model_of_two_channels_draws_no_pictures() -> None:
    family = Family("two", [Member("two", tiny_engine(channels=2), ())])
    with running_server(family) as remote:
        assert "2 channels" in remote.generate(labels=[1]).error["message"]


def test_what_is_told_of_an_image() -> None:
    story = Story(1, Ask("tiny", 7, {"labels": ["cat"]}))
    story.heard(Admitted("tiny/4-step", "ddim", 4, chosen=True, warnings=("it was not trained for that",)))
    done = Finished(np.zeros((8, 8, 3), np.uint8), "tiny/4-step", "ddim", 4, 7, 0.0012346, 0.5)
    story.heard(done)
    assert Facts.model_validate(story.facts(done)).model_dump() == {
        "index": 1,
        "seed": 7,
        "steps": 4,
        "sampler": "ddim",
        "model": "tiny/4-step",
        "label": "cat",
        "queue_ms": 1.235,
        "run_ms": 500.0,
        "chosen_by_deadline": True,
        "warnings": ["it was not trained for that"],
    }
