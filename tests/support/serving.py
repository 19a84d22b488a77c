"""A real server on loopback for the tests of one process, models small enough to be fast, and faults on order."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, MutableSequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import uvicorn
from torch import Tensor, nn

from fewstep import Classes, Engine, Model, schedules
from fewstep.serve import Batcher, Family
from fewstep.serve.family import Member
from fewstep.serve.http.app import build_app
from fewstep.serve.http.connection import uvicorn_config
from fewstep.serve.limits import Limits
from fewstep.serve.settings import Settings

PATIENCE = 120.0  # seconds that a test waits for what should come at once, on a machine with much else to do


@dataclass(eq=False)
class Knobs:
    """What a `FaultyNet` does beside its work; a test turns them while it runs.

    Attributes:
        seconds: that every call takes longer.
        error: called before every call with the number of lanes: what it returns is raised, unless that is None.
        nan_label: a class whose lanes answer NaN.
        gate: a call waits until it is set. `shut` shuts it and `open` opens it.
        entered: set when a call has come to the gate.
        calls: the shapes of x so far, as many as it holds.
    """

    seconds: float = 0.0
    error: Callable[[int], BaseException | None] | None = None
    nan_label: int | None = None
    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    calls: MutableSequence[tuple[int, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()

    def shut(self) -> None:
        """From the next call on, all wait."""
        self.entered.clear()
        self.gate.clear()

    def open(self) -> None:
        """Let them go on."""
        self.gate.set()

    def reset(self) -> None:
        """No faults any more."""
        self.seconds, self.error, self.nan_label = 0.0, None, None
        self.gate.set()
        self.calls.clear()


def out_of_memory_above(lanes: int) -> Callable[[int], BaseException | None]:
    """An error for `Knobs.error`: more lanes than so many do not fit."""
    return lambda asked: MemoryError(f"{asked} lanes") if asked > lanes else None


class FaultyNet(nn.Module):
    """A conv, a time and a label over [B, C, H, W], with faults on order."""

    def __init__(self, knobs: Knobs, channels: int = 3, classes: int = 10) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.embedding = nn.Embedding(classes + 1, channels)
        self.knobs = knobs

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        knobs = self.knobs
        knobs.calls.append(tuple(x.shape))
        knobs.entered.set()
        assert knobs.gate.wait(PATIENCE), "nobody opened the gate"
        if knobs.seconds:
            time.sleep(knobs.seconds)
        error = None if knobs.error is None else knobs.error(len(x))
        if error is not None:
            raise error
        h = self.conv(x) + t[:, None, None, None].to(x.dtype) / 1000
        h = torch.tanh(h if labels is None else h + self.embedding(labels)[:, :, None, None])
        if knobs.nan_label is not None and labels is not None:
            h = torch.where((labels == knobs.nan_label)[:, None, None, None], float("nan"), h)
        return h


def tiny_engine(knobs: Knobs | None = None, *, size: int = 8, channels: int = 3, **options: Any) -> Engine:
    """Of ten classes and a null one, [channels, size, size], float32 on the CPU; a step takes about a millisecond."""
    model = Model(
        FaultyNet(knobs or Knobs(), channels),
        schedule=schedules.linear(),
        shape=(channels, size, size),
        conditions=Classes(10, null=10),
        defaults={"sampler": "ddim", "steps": 4, "clip": 1.0},
    )
    return Engine(model, **({"device": "cpu", "backend": "torch"} | options))


def tiny_family(name: str = "tiny", knobs: Knobs | None = None, **options: Any) -> Family:
    """A family of one `tiny_engine`, which takes any number of steps."""
    return Family(name, [Member(name, tiny_engine(knobs, **options), ())])


@cache
def digits_family() -> Family:
    """The digits in the box, students and teacher, on torch: opened once in a process."""
    return Family.open("digits", "digits", device="cpu", backend="torch")


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]  # by lower-case names
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's envelope, which every failure has to have."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        return dict(error)


@dataclass(frozen=True)
class Heard:
    """One event of a stream."""

    event: str
    data: Any


class Remote:
    """A server, seen by who asks.

    Attributes:
        url: "http://127.0.0.1:PORT".
        batcher: behind it, where it runs in this process.
    """

    def __init__(self, host: str, port: int, batcher: Batcher | None = None) -> None:
        self.host, self.port, self.batcher = host, port, batcher
        self.url = f"http://{host}:{port}"

    def connection(self, timeout: float = PATIENCE) -> http.client.HTTPConnection:
        """One of the caller's own, which it closes."""
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout)

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, **options: Any
    ) -> Answer:
        """One request; a body that is not bytes goes as JSON."""
        connection = self.connection(**options)
        try:
            connection.request(method, path, *_packed(body, headers))
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **options: Any) -> Answer:
        return self.call("GET", path, **options)

    def post(self, path: str, body: Any, **options: Any) -> Answer:
        return self.call("POST", path, body, **options)

    def generate(self, **fields: Any) -> Answer:
        """POST /v1/images/generations."""
        return self.post("/v1/images/generations", fields)

    @contextmanager
    def stream(
        self, path: str, body: Any, headers: Mapping[str, str] | None = None, **options: Any
    ) -> Iterator[Iterator[Heard]]:
        """The events of a POST as they come; to leave is to hang up."""
        connection = self.connection(**options)
        try:
            connection.request("POST", path, *_packed(body, headers))
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            yield _events(answer)
        finally:
            connection.close()


@contextmanager
def running_server(
    families: Mapping[str, Family] | Family | None = None,
    settings: Settings | None = None,
    *,
    batcher: Batcher | None = None,
    drain: float = PATIENCE,
    send_buffer: int | None = None,
) -> Iterator[Remote]:
    """A uvicorn in a thread, on a free port of 127.0.0.1.

    Args:
        families: what the batcher serves, or one family; `tiny_family()` unless given. The batcher is started here.
        settings: of the application; its limits are the batcher's.
        batcher: one of the caller's own, started or not, instead of families. It is closed at the end all the same.
        drain: seconds that what runs has at the end.
        send_buffer: bytes that a connection holds of what nobody has read, where that is not left to the system.
    """
    settings = settings or Settings()
    if batcher is None:
        families = tiny_family() if families is None else families
        families = {families.name: families} if isinstance(families, Family) else families
        batcher = Batcher(families, settings.limits)
    if not batcher.ready:
        batcher.start()
    with serving(build_app(batcher, settings), settings.limits, send_buffer) as (host, port):
        try:
            yield Remote(host, port, batcher)
        finally:
            batcher.drain(drain)
            batcher.close()


@contextmanager
def serving(app: Any, limits: Limits | None = None, send_buffer: int | None = None) -> Iterator[tuple[str, int]]:
    """Any application of ASGI under uvicorn in a thread, as `fewstep serve` sets it up; host and port.

    For `send_buffer` see `running_server`.
    """
    server = uvicorn.Server(uvicorn_config(app, limits or Limits()))
    listener = socket.create_server(("127.0.0.1", 0))
    if send_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)  # which its connections inherit
    thread = threading.Thread(target=server.run, args=([listener],), name="uvicorn", daemon=True)
    thread.start()
    until(lambda: server.started or not thread.is_alive())
    try:
        yield "127.0.0.1", listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(2.0)
        server.force_exit = True  # who still holds a connection open has lost it
        thread.join(PATIENCE)
        assert not thread.is_alive(), "uvicorn did not stop"


def until(holds: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until something holds; fails after so many seconds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"it did not come to hold in {seconds} s"
        time.sleep(0.005)


def _packed(body: Any, headers: Mapping[str, str] | None) -> tuple[bytes | None, dict[str, str]]:
    if body is None or isinstance(body, bytes):
        return body, dict(headers or {})
    return json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})}


def _events(answer: http.client.HTTPResponse) -> Iterator[Heard]:
    name, data = "message", list[str]()
    for raw in answer:
        line = raw.decode().rstrip("\r\n")
        if line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            data.append(line[5:].strip())
        elif not line and data:
            text = "\n".join(data)
            yield Heard(name, text if text == "[DONE]" else json.loads(text))
            name, data = "message", []
