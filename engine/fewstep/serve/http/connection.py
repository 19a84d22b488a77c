"""A connection that does not wait for ever: for a request's headers, or for a client that takes nothing."""

import asyncio
import json
from typing import Any, Final

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

from fewstep.serve.http.wire.errors import ProblemError
from fewstep.serve.limits import Limits

FULL: Final = json.dumps(
    ProblemError(503, "as many connections are open as may be", code="connections").envelope
).encode()
TURNED_AWAY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(FULL), FULL)
)
INVALID: Final = "the request is no HTTP/1.1, or its headers are larger than the server takes"


class Connection(H11Protocol):
    """uvicorn's, with the time-outs that it lacks, and its own refusals in OpenAI's envelope."""

    limits = Limits()

    def __init__(self, config: Config, *arguments: Any, **options: Any) -> None:
        super().__init__(config, *arguments, **options)
        self._headers_due: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        if len(self.connections) >= self.limits.connections:
            transport.write(TURNED_AWAY)
            transport.close()
            self.transport = transport
            return
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        """Something came; the clock of the headers runs from their first byte until they are whole."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._expect_headers()
        else:
            self._stop_waiting_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._stop_waiting_for_headers()
        self._stop_waiting_for_the_client()
        if self.flow is not None:
            super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """The next request may come; uvicorn ends a connection on which none begins."""
        super().on_response_complete()
        self._stop_waiting_for_headers()

    def pause_writing(self) -> None:
        """The client takes less than it is sent."""
        super().pause_writing()
        self._stalled = self._stalled or self.loop.call_later(self.limits.stalled_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        self._stop_waiting_for_the_client()

    def send_400_response(self, msg: str) -> None:
        """What came is no request."""
        body = json.dumps(ProblemError(400, INVALID, code="invalid_http").envelope).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _expect_headers(self) -> None:
        if self._headers_due is None:
            self._headers_due = self.loop.call_later(self.limits.header_seconds, self.transport.abort)

    def _stop_waiting_for_headers(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _stop_waiting_for_the_client(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None


def connection_class(limits: Limits) -> type[Connection]:
    """For uvicorn, which makes one for each connection."""
    return type("Connection", (Connection,), {"limits": limits})


def uvicorn_config(app: Any, limits: Limits) -> Config:
    """How uvicorn serves an application under some limits; logs are the caller's to set up."""
    return Config(
        app,
        http=connection_class(limits),
        ws="none",
        loop="asyncio",
        lifespan="off",
        h11_max_incomplete_event_size=limits.header_bytes,
        timeout_keep_alive=max(1, round(limits.header_seconds)),
        timeout_graceful_shutdown=5,
        server_header=False,
        proxy_headers=False,
        access_log=False,
        log_config=None,
    )
