"""Which status and code each kind of failure has, and that each has one."""

import threading
from collections.abc import Iterator
from typing import get_args

import pytest
from starlette.exceptions import HTTPException

from fewstep.errors import ArgumentError, ModelError
from fewstep.serve import Limits
from fewstep.serve.events import Failed, Reason
from fewstep.serve.http.wire.errors import FAILED, REFUSED, ProblemError, problem_of, problem_of_failed
from fewstep.serve.refusals import RefusedError, Why
from fewstep.serve.settings import Settings
from support.serving import Answer, Knobs, Remote, running_server, tiny_family, until

KNOBS = Knobs()


@pytest.fixture(scope="module")
def remote() -> Iterator[Remote]:
    with running_server(tiny_family(knobs=KNOBS), Settings(limits=Limits(slots=1, queue=2))) as remote:
        yield remote


def problem(error: BaseException) -> ProblemError:
    found = problem_of(error)
    assert found is not None
    return found


def test_every_reason_has_a_status() -> None:
    assert set(FAILED) == set(get_args(Reason))
    assert set(REFUSED) == set(get_args(Why))


@pytest.mark.parametrize("reason", get_args(Reason))
def test_what_failed(reason: Reason) -> None:
    found = problem_of_failed(Failed(reason, "in words", "labels"))
    assert found.status == {"invalid": 400, "cancelled": 409, "dead": 503, "deadline": 504}.get(reason, 500)
    assert found.body.message == "in words"
    assert found.body.param == "labels"
    again = reason in ("out_of_memory", "worker", "dead", "invalid")
    assert found.headers == ({} if again else {"x-should-retry": "false"})


@pytest.mark.parametrize("why", get_args(Why))
def test_what_is_refused(why: Why) -> None:
    found = problem(RefusedError(why, "in words", retry_after=1.2))
    assert found.status == (429 if why in ("full", "late") else 503)
    assert found.body.type == ("rate_limit_error" if found.status == 429 else "server_error")
    assert (found.body.code, found.headers) == (why, {"Retry-After": "2"})
    assert problem(RefusedError(why, "in words")).headers == {}


def test_what_is_wrong() -> None:
    found = problem(ArgumentError("n", 0, "1 to 10"))
    assert (found.status, found.body.param, found.body.message) == (400, "n", "n: got 0; allowed: 1 to 10")
    assert problem(ModelError("no such folder")).status == 400
    assert problem(HTTPException(404)).body.code == "not_found"
    assert problem_of(ValueError("a defect")) is None


def test_a_message_is_a_line_that_any_reader_takes() -> None:
    found = ProblemError(400, "a\nb\ud800" + "c" * 5000, param="\x00" * 500)
    assert found.body.message.startswith("a\\nb\\ud800c")
    assert len(found.body.message) == 2000
    assert found.body.param is not None
    assert len(found.body.param) == 100


def test_a_full_queue_is_told_with_when_to_come_again(remote: Remote) -> None:
    KNOBS.shut()
    answers: list[Answer] = []
    ask = {"model": "tiny", "labels": 1, "steps": 1}
    threads = [threading.Thread(target=lambda: answers.append(remote.generate(**ask))) for _ in range(3)]
    try:
        threads[0].start()
        assert KNOBS.entered.wait(60)
        for thread in threads[1:]:
            thread.start()
        assert remote.batcher is not None
        until(lambda: remote.batcher is not None and remote.batcher.stats()["queued"] == 2)
        refused = remote.generate(**ask)
        assert (refused.status, refused.error["code"]) == (429, "full")
        assert int(refused.headers["retry-after"]) >= 1
        late = remote.generate(**ask, deadline_ms=1)
        assert late.status == 429
    finally:
        KNOBS.open()
        for thread in threads:
            thread.join()
    assert [answer.status for answer in answers] == [200] * 3


def test_a_deadline_that_passes_and_one_that_does_not(remote: Remote) -> None:
    kept = remote.generate(model="tiny", labels=1, deadline_ms=60_000)
    assert kept.status == 200
    assert kept.json["data"][0]["fewstep"]["chosen_by_deadline"] is True
    KNOBS.shut()
    answers: list[Answer] = []
    ask = {"model": "tiny", "labels": 1, "steps": 1}
    first = threading.Thread(target=lambda: answers.append(remote.generate(**ask)))
    second = threading.Thread(target=lambda: answers.append(remote.generate(**ask, deadline_ms=1)))
    first.start()
    assert KNOBS.entered.wait(60)
    second.start()
    assert remote.batcher is not None
    until(lambda: answers or (remote.batcher is not None and remote.batcher.stats()["queued"] == 1))
    KNOBS.open()
    first.join()
    second.join()
    missed = next(answer for answer in answers if answer.status != 200)
    assert missed.status in (429, 504)
    assert missed.error["code"] in ("late", "deadline_exceeded")
