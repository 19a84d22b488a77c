"""How a server begins and ends: there at once, drained by SIGTERM, gone after a second SIGINT; 3 without a device."""

import signal
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from fewstep.errors import ArgumentError
from fewstep.serve import Batcher
from fewstep.serve.address import Address
from fewstep.serve.refusals import RefusedError
from fewstep.serve.server import warm
from support.served import served
from support.serving import Answer, Remote, digits_family, tiny_family, until


def asked(remote: Remote, count: int, **fields: Any) -> tuple[list[Answer], list[threading.Thread]]:
    """So many requests at once; their answers, as they come, and who waits for them."""
    answers = list[Answer]()

    def ask(seed: int) -> None:
        answers.append(remote.generate(model="tiny", prompt="1", seed=seed, **fields))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(count)]
    for thread in threads:
        thread.start()
    return answers, threads


def running(remote: Remote) -> int:
    """Requests that are not answered yet."""
    lines = remote.get("/metrics").body.decode().splitlines()
    return int(float(next(line for line in lines if line.startswith("fewstep_requests_in_progress ")).split()[1])) - 1


@pytest.mark.slow
def test_it_answers_before_it_is_warm_and_finishes_what_was_let_in_after_sigterm(tmp_path: Path) -> None:
    opening = tmp_path / "opening"
    opening.touch()
    with served(tmp_path, OPENING=str(opening), STEP_SECONDS="0.05") as process:
        remote = process.remote
        assert remote.get("/health").status == 200
        assert (remote.get("/ready").status, remote.get("/ready").json) == (503, {"status": "starting"})
        answer = remote.generate(model="tiny", prompt="1")
        assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (503, "starting", "2")
        opening.unlink()
        process.ready()
        answers, threads = asked(remote, 12, num_inference_steps=8)
        until(lambda: running(remote) == 12)
        held = remote.connection()
        held.request("GET", "/health")
        held.getresponse().read()
        process.signal(signal.SIGTERM)
        until(lambda: process.event("draining"))
        refused = remote.generate(model="tiny", prompt="1")
        assert (refused.status, refused.error["code"], refused.headers["connection"]) == (503, "draining", "close")
        assert remote.get("/ready").status == 503
        held.close()
        for thread in threads:
            thread.join(60)
        assert [each.status for each in answers] == [200] * 12
        assert process.code() == 0
        assert process.event("ended")


@pytest.mark.long
def test_a_second_sigint_ends_it_there_and_then(tmp_path: Path) -> None:
    with served(tmp_path, STEP_SECONDS="30") as process:
        process.remote.get("/health")
        until(lambda: process.event("opened"))  # it is being made ready, by a step that takes half a minute
        process.signal(signal.SIGINT)
        until(lambda: process.event("draining"))
        process.signal(signal.SIGINT)
        assert process.code() == 130


@pytest.mark.long
def test_a_drain_takes_no_longer_than_it_may(tmp_path: Path) -> None:
    with served(tmp_path, STEP_SECONDS="0.2", DRAIN="0.3") as process:
        remote = process.ready()
        answers, threads = asked(remote, 1, num_inference_steps=100)
        until(lambda: running(remote) == 1)
        process.signal(signal.SIGTERM)
        assert process.code() == 0
        threads[0].join(60)
        assert [(each.status, each.error["code"]) for each in answers] == [(503, "dead")]
        assert process.event("drained too late")


@pytest.mark.slow
def test_a_lost_device_ends_it_with_3_and_everybody_is_told(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    with served(tmp_path, STEP_SECONDS="0.05", BROKEN=str(broken)) as process:
        remote = process.ready()
        answers, threads = asked(remote, 3, num_inference_steps=50)
        until(lambda: running(remote) == 3)
        broken.touch()
        assert process.code() == 3
        for thread in threads:
            thread.join(60)
        assert [(each.status, each.error["code"]) for each in answers] == [(503, "dead")] * 3
        assert process.event("device lost")


def test_a_port_in_use_is_an_error_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ArgumentError, match=f"port: got {port}; allowed: a free one"):
            Address(port=port).listen()
    for wrong in (Address(port=-1), Address(port=70_000), Address("no such host.invalid"), Address("203.0.113.1")):
        with pytest.raises(ArgumentError, match=r"port|host"):
            wrong.listen()


def test_a_unix_socket_replaces_one_that_nobody_listens_to(tmp_path: Path) -> None:
    address = Address(uds=str(tmp_path / "socket"))
    with address.listen(), pytest.raises(ArgumentError, match="where nothing listens"):
        address.listen()
    listener = address.listen()  # the file of the first is still there
    address.leave(listener)
    address.leave(listener)
    assert not list(tmp_path.iterdir())
    (tmp_path / "a file").write_text("kept")
    with pytest.raises(ArgumentError, match="a path for a new socket"):
        Address(uds=str(tmp_path / "a file")).listen()
    assert (tmp_path / "a file").read_text() == "kept"


def test_every_model_of_a_family_has_drawn_once_before_it_is_ready() -> None:
    batcher = Batcher({"digits": digits_family(), "tiny": tiny_family()})
    batcher.start()
    warm(batcher)
    stats = batcher.stats()
    batcher.close()
    assert stats["failed"] == {}
    steps = ("1-step", "2-step", "4-step", "8-step", "teacher")
    assert stats["finished_by_member"] == {**{f"digits/{name}": 1 for name in steps}, "tiny": 1}
    with pytest.raises(RefusedError):
        warm(batcher)
