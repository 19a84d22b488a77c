"""A run: the server is looked at, its pictures are checked, then it is given the load."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from fewstep.errors import FewstepError
from fewstep.serve.load.client import Client, Outcome, check_picture
from fewstep.serve.load.metrics import Watch
from fewstep.serve.load.remote import Served, Target, look, session_of
from fewstep.serve.load.report import Report
from fewstep.serve.load.same import check_same
from fewstep.serve.load.traffic import Shot, Traffic, shots

IN_FLIGHT = 4096  # requests of an open loop that are under way at once, at most; later ones wait, and that counts
Advance = Callable[[int, int], None]


def run(
    target: Target,
    traffic: Traffic,
    subjects: Sequence[Mapping[str, Any]] | None = None,
    advance: Advance | None = None,
) -> Report:
    """Give a server a load, after its pictures have been found right.

    Args:
        target: the server, and which of its models.
        traffic: the load.
        subjects: what to draw, as fields of a request, in turn; else each class of the model once, or a prompt.
        advance: told of each request that has ended, how many have and how many there are.

    Raises:
        FewstepError: the server is not reached, one of its pictures is wrong, or not one request was answered.
    """
    return asyncio.run(_run(target, traffic, subjects, advance))


async def _run(
    target: Target, traffic: Traffic, subjects: Sequence[Mapping[str, Any]] | None, advance: Advance | None
) -> Report:
    async with session_of(target, traffic.timeout) as session:
        served = await look(session, target)
        subjects = [{"model": served.model, **each} for each in subjects or served.subjects]
        checked = await check_same(Client(session), traffic, subjects, served.size)
        planned = shots(traffic, subjects)
        async with Watch(session) as watch:
            load = _Load(Client(session, _Clock()), served, advance, len(planned))
            await (_open(planned, load.send) if traffic.open else _closed(planned, load.send, traffic))
            outcomes, seconds = load.ended()
    if outcomes and all(outcome.status == 0 for outcome in outcomes):
        raise FewstepError(f"{target.url}: no request was answered: {outcomes[0].error}")
    return Report(served.facts(target), traffic, checked, outcomes, seconds, watch.found())


class _Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def __call__(self) -> float:
        return time.perf_counter() - self._start


class _Load:
    """Sends shots, and has each picture decoded beside the load; the files are let go of one by one."""

    def __init__(self, client: Client, served: Served, advance: Advance | None, count: int) -> None:
        self._client, self._size, self._advance, self._count = client, served.size, advance, count
        self._thread, self._done = ThreadPoolExecutor(1), list[Future[Outcome]]()

    async def send(self, shot: Shot) -> None:
        """Send one and keep what came of it."""
        outcome = await self._client.send(shot)
        self._done.append(self._thread.submit(self._checked, outcome))
        if self._advance is not None:
            self._advance(len(self._done), self._count)

    def ended(self) -> tuple[list[Outcome], float]:
        """All of them in the order of sending, and how many seconds the load has taken."""
        with self._thread:
            outcomes = sorted((future.result() for future in self._done), key=lambda outcome: outcome.number)
        return outcomes, max((outcome.ended for outcome in outcomes), default=0.0)

    def _checked(self, outcome: Outcome) -> Outcome:
        error = outcome.error
        if outcome.picture is not None:
            try:
                check_picture(outcome.picture, self._size)
            except ValueError as wrong:
                error = str(wrong)
        return replace(outcome, error=error, picture=None)


async def _closed(planned: Sequence[Shot], send: Callable[[Shot], Awaitable[None]], traffic: Traffic) -> None:
    """So many at a time, each as soon as another has ended."""
    left, end = iter(planned), time.perf_counter() + traffic.seconds

    async def worker() -> None:
        for shot in left:
            if time.perf_counter() >= end:
                return
            await send(shot)

    await asyncio.gather(*(worker() for _ in range(min(traffic.concurrency, len(planned)))))


async def _open(planned: Sequence[Shot], send: Callable[[Shot], Awaitable[None]]) -> None:
    """Each at its time, whatever has ended."""
    room, clock = asyncio.Semaphore(IN_FLIGHT), _Clock()

    async def sent(shot: Shot) -> None:
        async with room:
            await send(shot)

    async with asyncio.TaskGroup() as tasks:
        for shot in planned:
            wait = (shot.at or 0.0) - clock()
            if wait > 0:
                await asyncio.sleep(wait)
            tasks.create_task(sent(shot))
