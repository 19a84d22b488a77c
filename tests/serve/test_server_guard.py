"""What a request passes before any route: the key, its body's size and time, the depth of JSON; ids, headers, logs."""

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from fewstep.serve.http.guard import json_depth, keyless
from fewstep.serve.http.logs import JsonLines
from fewstep.serve.limits import Limits
from fewstep.serve.settings import Settings
from support.serving import Remote, running_server, serving, until

PATH = "/v1/images/generations"
KEY = "a key with Ümlaut"
LIMITS = Limits(body_bytes=1 << 20, body_seconds=0.3)


@pytest.fixture(scope="module")
def remote() -> Iterator[Remote]:
    with running_server(settings=Settings(limits=LIMITS)) as running:
        yield running


@pytest.fixture(scope="module")
def locked() -> Iterator[Remote]:
    with running_server(settings=Settings(api_key=KEY)) as running:
        yield running


def raw(remote: Remote, head: str, body: bytes = b"") -> tuple[bytes, int]:
    """What comes back, and how many bytes of the body the server took before it hung up."""
    sent = 0
    with socket.create_connection((remote.host, remote.port), timeout=30) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
        try:
            while sent < len(body):
                sent += connection.send(body[sent : sent + (1 << 16)])
        except OSError:
            pass
        got = b""
        try:
            while piece := connection.recv(1 << 16):
                got += piece
        except OSError:
            pass
    return got, sent


def enveloped(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"x-api-key": "wrong"},
        {"Authorization": f"Basic {KEY}"},
        {"x-api-key": ""},
    ],
    ids=["none", "a wrong one", "a wrong header", "another scheme", "empty"],
)
def test_without_the_key_nobody_gets_in(locked: Remote, headers: dict[str, str]) -> None:
    headers = {name: value.encode().decode("latin-1") for name, value in headers.items()}
    answer = locked.post(PATH, {"model": "tiny"}, headers=headers)
    assert (answer.status, answer.error["type"], answer.error["code"]) == (
        401,
        "authentication_error",
        "invalid_api_key",
    )
    assert answer.headers["www-authenticate"] == "Bearer"
    assert locked.get("/metrics", headers=headers).status == 401


@pytest.mark.parametrize("name", ["Authorization", "x-api-key"])
def test_with_the_key_one_gets_in(locked: Remote, name: str) -> None:
    value = (f"Bearer {KEY}" if name == "Authorization" else KEY).encode().decode("latin-1")
    assert locked.post(PATH, {"model": "tiny", "labels": [1]}, headers={name: value}).status == 200


def test_another_sites_page_has_no_work_done_without_a_key(remote: Remote, locked: Remote) -> None:
    body, key = {"model": "tiny", "labels": [1]}, {"x-api-key": KEY.encode().decode("latin-1")}
    refused = remote.post(PATH, body, headers={"Sec-Fetch-Site": "cross-site"})
    assert (refused.status, refused.error["code"]) == (403, "cross_site")
    assert remote.post(PATH, body, headers={"Sec-Fetch-Site": "same-origin"}).status == 200
    assert remote.get("/health", headers={"Sec-Fetch-Site": "cross-site"}).status == 200
    assert locked.post(PATH, body, headers={"Sec-Fetch-Site": "cross-site", **key}).status == 200


def test_whether_it_is_alive_needs_no_key(locked: Remote) -> None:
    assert locked.get("/health").json == {"status": "alive"}
    assert locked.get("/ready").json == {"status": "ready"}
    assert not [
        path for path in (PATH, "/metrics", "/admin/lora", "/v1/models", "//health", "/healthy") if keyless(path)
    ]


def test_a_body_of_100_MB_is_refused_before_it_has_been_sent(remote: Remote) -> None:  # noqa: N802
    size = 100_000_000
    head = f"POST {PATH} HTTP/1.1\nHost: x\nContent-Type: application/json\nContent-Length: {size}"
    answer, sent = raw(remote, head, bytes(size))
    assert answer.startswith(b"HTTP/1.1 413")
    assert enveloped(answer)["code"] == "body_too_large"
    assert sent < size / 2
    assert remote.get("/ready").status == 200


def test_a_body_that_never_said_its_size_is_cut_off(remote: Remote) -> None:
    piece = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    head = f"POST {PATH} HTTP/1.1\nHost: x\nContent-Type: application/json\nTransfer-Encoding: chunked"
    answer, sent = raw(remote, head, piece * 800)
    assert answer.startswith(b"HTTP/1.1 413")
    assert sent < len(piece) * 400


def test_a_client_that_is_refused_may_ask_again(remote: Remote) -> None:
    answer = remote.post(PATH, bytes(LIMITS.body_bytes + 1))
    assert (answer.status, answer.error["type"]) == (413, "invalid_request_error")
    assert answer.headers["connection"] == "close"


def test_a_body_that_does_not_come_is_not_waited_for(remote: Remote) -> None:
    head = f"POST {PATH} HTTP/1.1\nHost: x\nContent-Type: application/json\nContent-Length: 100"
    answer, _ = raw(remote, head, b"{")
    assert answer.startswith(b"HTTP/1.1 408")
    assert enveloped(answer)["code"] == "body_timeout"


@pytest.mark.parametrize("length", ["-1", "1e3", "99999999999999999999999"])
def test_a_length_that_is_none_is_refused(remote: Remote, length: str) -> None:
    answer, _ = raw(remote, f"POST {PATH} HTTP/1.1\nHost: x\nConnection: close\nContent-Length: {length}")
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413"))
    assert set(enveloped(answer)) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000, b'{"a":' * 500, b'{"labels": ' + b"[" * 40 + b"]" * 40 + b"}", b"[]," * 200_000],
    ids=["brackets", "objects", "one field", "very many"],
)
def test_deep_json_is_refused(remote: Remote, body: bytes) -> None:
    answer = remote.post(PATH, body, headers={"Content-Type": "application/json"})
    assert (answer.status, answer.error["code"]) == (400, "json_too_deep")


def test_brackets_in_a_text_are_no_depth() -> None:
    assert json_depth(json.dumps({"prompt": "[" * 5000 + '\\"[{'}).encode(), 100) == 1
    assert json_depth(b'{"a": [1, {"b": []}]}', 100) == 4
    assert json_depth(b'"' + b"\\" * 100_001, 100) == 0
    started = time.perf_counter()
    json_depth(b'{"image": "' + b"A" * (16 << 20) + b'"}', 100)
    print(f"16 MiB of a picture: {1000 * (time.perf_counter() - started):.0f} ms")


@pytest.mark.parametrize("request_id", ["abc-123", "trace:1.2"])
def test_a_request_keeps_its_id(remote: Remote, request_id: str) -> None:
    assert remote.get("/health", headers={"x-request-id": request_id}).headers["x-request-id"] == request_id


@pytest.mark.parametrize("request_id", ["", "a b", "x" * 129, "<script>"])
def test_an_id_that_is_not_sane_is_replaced(remote: Remote, request_id: str) -> None:
    made = [remote.get("/health", headers={"x-request-id": request_id}).headers["x-request-id"] for _ in range(2)]
    assert all(each.startswith("req_") for each in made)
    assert made[0] != made[1]


def test_every_answer_has_the_headers_of_safety(remote: Remote) -> None:
    for answer in (remote.get("/health"), remote.get("/nowhere"), remote.post(PATH, b"{")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines = list[str]()
        self.setFormatter(JsonLines())

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    def ids(self) -> set[str]:
        return {json.loads(line)["request_id"] for line in self.lines}


@pytest.fixture
def told() -> Iterator[Kept]:
    """The log at level info, as it is written."""
    logger, kept = logging.getLogger("fewstep.serve"), Kept()
    logger.addHandler(kept)
    before = logger.level
    logger.setLevel(logging.INFO)
    try:
        yield kept
    finally:
        logger.removeHandler(kept)
        logger.setLevel(before)


def test_a_line_of_the_log_says_what_happened_and_not_what_it_was_about(remote: Remote, told: Kept) -> None:
    body = {"model": "tiny", "labels": [2], "n": 2, "num_inference_steps": 3}
    remote.post(f"{PATH}?q=secret", body, headers={"x-request-id": "one"})
    remote.post(PATH, {"model": "tiny", "prompt": "a secret wish"}, headers={"x-request-id": "two"})
    remote.post(PATH, b'{"prompt": "a secret wish', headers={"x-request-id": "three"})
    until(lambda: {"one", "two", "three"} <= told.ids())
    assert "secret" not in "".join(told.lines)
    (line,) = [json.loads(line) for line in told.lines if '"one"' in line]
    assert line["event"] == "request"
    names = ("method", "path", "status", "model", "n", "steps")
    assert [line[name] for name in names] == ["POST", PATH, 200, "tiny", 2, 3]
    assert line["ms"] >= line["run_ms"] >= 0
    assert line["queue_ms"] >= 0


def test_what_no_route_expected_is_an_envelope_and_a_line_without_its_text(told: Kept) -> None:
    with running_server() as remote:
        assert remote.batcher is not None

        def submit(*_: object) -> None:
            raise ZeroDivisionError("a secret wish")

        setattr(remote.batcher, "submit", submit)  # noqa: B010
        answer = remote.generate(model="tiny", labels=[1])
    assert (answer.status, answer.error["code"], answer.error["type"]) == (500, "internal_error", "server_error")
    assert "secret" not in "".join(told.lines) + answer.body.decode()
    assert any("ZeroDivisionError" in line for line in told.lines)


@pytest.mark.parametrize(
    "head", ["NOT HTTP", f"GET /health HTTP/1.1\nHost: x\nConnection: close\nX-Long: {'x' * 40_000}"]
)
def test_what_is_no_request_is_told_so_in_the_envelope(remote: Remote, head: str) -> None:
    answer, _ = raw(remote, head)
    assert answer.startswith(b"HTTP/1.1 4")
    assert enveloped(answer)["code"] in ("invalid_http", "headers_too_large")


def test_headers_that_do_not_come_are_not_waited_for() -> None:
    with running_server(settings=Settings(limits=Limits(header_seconds=0.2))) as remote:
        for sent in (b"", b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: "):
            with socket.create_connection((remote.host, remote.port), timeout=30) as connection:
                connection.sendall(sent)
                with suppress(ConnectionError):
                    assert connection.recv(1) == b""
        with socket.create_connection((remote.host, remote.port), timeout=30) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /hea")
            got = b""
            with suppress(ConnectionError):
                while piece := connection.recv(1 << 16):
                    got += piece
            assert got.count(b"HTTP/1.1 200") == 1


def test_more_connections_than_may_be_are_turned_away() -> None:
    with running_server(settings=Settings(limits=Limits(connections=2))) as remote:
        held = [remote.connection() for _ in range(2)]
        for each in held:
            each.request("GET", "/health")
            assert each.getresponse().read()
        answer = remote.get("/health")
        assert (answer.status, answer.error["code"]) == (503, "connections")
        held[0].close()
        until(lambda: remote.get("/health").status == 200)
        held[1].close()


def test_bodies_together_are_bounded() -> None:
    limits = replace(LIMITS, bodies_bytes=1000)
    with running_server(settings=Settings(limits=limits)) as remote:
        answer = remote.post(PATH, bytes(2000))
        assert (answer.status, answer.error["code"]) == (429, "full")
        assert answer.headers["retry-after"] == "1"
        assert remote.generate(model="tiny", labels=[1]).status == 200


def test_a_client_that_takes_nothing_is_hung_up_on() -> None:
    ended = threading.Event()

    async def pours(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(64):  # MiB, more than the buffers of a connection hold
            await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        ended.set()

    with serving(pours, Limits(stalled_seconds=0.2)) as (host, port), socket.create_connection((host, port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert ended.wait(60)
        client.settimeout(30)
        got = 0
        with suppress(ConnectionError):
            while piece := client.recv(1 << 20):
                got += len(piece)
        assert got < 64 << 20
