"""A server from its first moment to its last: the socket, the models, the signals, and how it ends."""

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import uvicorn

from fewstep.serve.address import Address
from fewstep.serve.asks import Ask, Ticket
from fewstep.serve.batching.batcher import Batcher
from fewstep.serve.events import Event, Failed, Finished
from fewstep.serve.family import Family
from fewstep.serve.http.app import build_app
from fewstep.serve.http.connection import uvicorn_config
from fewstep.serve.http.front import Front
from fewstep.serve.http.logs import LOGGER, JsonLines
from fewstep.serve.refusals import RefusedError
from fewstep.serve.settings import Settings

EXIT_OK, EXIT_DEVICE_LOST, EXIT_INTERRUPTED = 0, 3, 130
STOPPING_SECONDS: Final = 5.0  # that a step has to come to its end when nobody waits for it any more
Opener = Callable[[], Mapping[str, Family]]


def serve(
    opened: Opener,
    settings: Settings,
    address: Address,
    *,
    manifest: str | Path | None = None,
    ready: Callable[[str], None] = lambda url: None,
) -> int:
    """Serve until a signal or the loss of the device; the exit code of the process.

    The socket is there at once: /health answers while the models are opened, and /ready when they are warm. SIGTERM and
    SIGINT end it once what was let in is done, or `Limits.drain_seconds` have passed; a second SIGINT ends the process
    there and then. To be called on the main thread of a process that does nothing else.

    Args:
        opened: opens the models, by served name; called on a thread of its own.
        settings: of the server.
        address: where it listens.
        manifest: kinds of requests that every model is made ready for, as `Engine.manifest` wrote them.
        ready: called with the server's URL when it lets requests in.

    Returns:
        int: 0 after a signal, 3 where the device was lost, so that a supervisor starts it again.

    Raises:
        ArgumentError: an address where it cannot listen.
        FewstepError: a model that cannot be opened.
    """
    listener = address.listen()
    life = _Life(opened, settings, address, listener)
    life.manifest, life.ready = manifest, ready
    try:
        return asyncio.run(life.run())
    finally:
        address.leave(listener)
        life.leave()


@contextmanager
def logging_to_stderr(level: str) -> Iterator[None]:
    """Within it the server's log is lines of JSON on stderr, from a level such as "info" up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    loggers = [(logging.getLogger("fewstep"), level), (logging.getLogger("uvicorn.error"), "warning")]
    before = [(logger, logger.level, logger.propagate) for logger, _ in loggers]
    for logger, least in loggers:
        logger.addHandler(handler)
        logger.setLevel(least.upper())
        logger.propagate = False
    try:
        yield
    finally:
        for logger, was, propagated in before:
            logger.removeHandler(handler)
            logger.setLevel(was)
            logger.propagate = propagated


class _Uvicorn(uvicorn.Server):
    """Whose signals are ours."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Life:
    """Of one server."""

    manifest: str | Path | None = None
    ready: Callable[[str], None]

    def __init__(self, opened: Opener, settings: Settings, address: Address, listener: socket.socket) -> None:
        self._opened, self._settings, self._address, self._listener = opened, settings, address, listener
        app = build_app(None, settings)
        self._front: Front = app.state.batcher
        self._uvicorn = _Uvicorn(uvicorn_config(app, settings.limits))
        self._batcher: Batcher | None = None
        self._opening = threading.Thread(target=self._open, name="fewstep-opening", daemon=True)
        self._stopping = False
        self._lock = threading.Lock()  # of the moment at which a batcher comes to be, or is not to be any more
        self._code, self._failure = EXIT_OK, None

    async def run(self) -> int:
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._signalled, number)
        self._opening.start()
        tell("listening", url=self._address.url(self._listener))
        await self._uvicorn.serve(sockets=[self._listener])
        if self._failure is not None:
            raise self._failure
        tell("ended", code=self._code)
        return self._code

    def leave(self) -> None:
        """End the process where a thread of it still opens a model, which nothing can interrupt."""
        self._opening.join(0 if self._failure is None else STOPPING_SECONDS)
        if self._opening.is_alive():
            _flush()
            os._exit(self._code)

    _failure: BaseException | None

    def _open(self) -> None:
        """On a thread of its own: open the models, make them ready, and let requests in."""
        started = time.perf_counter()
        try:
            families = self._opened()
            tell("opened", models=list(families), seconds=round(time.perf_counter() - started, 2))
            if self.manifest is not None:
                for member in [member for family in families.values() for member in family.members]:
                    member.engine.warm_up(self.manifest)
            batcher = Batcher(families, self._settings.limits, died=self._died)
            with self._lock:
                if self._stopping:
                    return
                self._batcher = batcher
                batcher.start(warm=True)
            batcher.call(lambda: None).result()  # made when the models are ready and their steps measured
            warm(batcher)
            self._front.open(batcher)
            if not self._stopping:
                tell("ready", models=list(families), seconds=round(time.perf_counter() - started, 2))
                self.ready(self._address.url(self._listener))
        except RefusedError:  # a signal came, or the device went, while the models were made ready
            return
        except BaseException as error:  # said by whoever called `serve`
            self._failure = error
            self._loop.call_soon_threadsafe(self._end)

    def _signalled(self, number: signal.Signals) -> None:
        if self._stopping:
            if number == signal.SIGINT:
                tell("interrupted")
                self._address.leave(self._listener)
                _flush()
                os._exit(EXIT_INTERRUPTED)
            return
        with self._lock:
            self._stopping = True
        self._front.end("draining")
        tell("draining", signal=number.name, seconds=self._settings.limits.drain_seconds)
        if self._batcher is None:
            self._end()
        else:
            threading.Thread(target=self._drain, args=(self._batcher,), name="fewstep-draining", daemon=True).start()

    def _drain(self, batcher: Batcher) -> None:
        """On a thread of its own: wait for what was let in, and give up on what does not come to its end."""
        if not batcher.drain(self._settings.limits.drain_seconds):
            tell("drained too late", logging.WARNING, left=batcher.stats().get("running"))
        closing = threading.Thread(target=batcher.close, daemon=True)
        closing.start()
        closing.join(STOPPING_SECONDS)
        self._loop.call_soon_threadsafe(self._end)

    def _died(self, error: BaseException) -> None:
        """On the device's thread."""
        self._code = EXIT_DEVICE_LOST
        self._front.end("dead")
        tell("device lost", logging.ERROR, error=type(error).__name__)
        self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self._uvicorn.should_exit = True


def warm(batcher: Batcher) -> None:
    """Draw one image with every model of every family, one after another, so that what the first one makes is there.

    Raises:
        RefusedError: it is going down already.
    """
    for name, family in batcher.families.items():
        words = family.first.model.conditions.blank(1)
        beyond = max(family.trained_steps, default=0) + 1  # what a model that takes any number is asked for
        for steps in (next(iter(member.steps), beyond) for member in family.members):
            ended = threading.Event()

            def heard(ticket: Ticket, event: Event, ended: threading.Event = ended) -> None:
                if isinstance(event, Failed):
                    asked = {"model": ticket.ask.model, "steps": ticket.ask.steps}
                    tell("not warm", logging.WARNING, **asked, reason=event.reason, argument=event.argument)
                if isinstance(event, Finished | Failed):
                    ended.set()

            batcher.submit([Ask(name, 0, words, steps)], heard)
            ended.wait()


def tell(event: str, level: int = logging.INFO, **facts: Any) -> None:
    """A line of the log."""
    LOGGER.log(level, event, extra={"facts": facts})


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
