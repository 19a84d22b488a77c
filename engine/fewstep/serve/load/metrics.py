"""What a server's /metrics say while a load runs: how many rows share a step, and how many wait."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import aiohttp

STEPS, STEP_ROWS = "fewstep_steps_total", "fewstep_step_rows_total"  # counters of the server
ROWS, QUEUE = "fewstep_batch_rows", "fewstep_queue_depth"  # its gauges
EVERY = 0.25  # seconds between two looks
MOST = 8 << 20  # bytes of an answer


class Watch:
    """Looks at /metrics again and again while something happens within it; a server without them is no error."""

    def __init__(self, session: "aiohttp.ClientSession") -> None:
        self._session, self._looks = session, list[Mapping[str, float]]()

    async def __aenter__(self) -> "Watch":
        await self._look()
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        await self._look()

    def found(self) -> dict[str, Any]:
        """Steps that were taken, rows of one on average, the most rows and the most waiting of all looks.

        None for what the server does not say.
        """
        steps, rows = self._gained(STEPS), self._gained(STEP_ROWS)
        return {
            "looks": len(self._looks),
            "steps": None if steps is None else int(steps),
            "rows_mean": rows / steps if steps and rows is not None else None,
            "rows_most": self._most(ROWS),
            "queue_most": self._most(QUEUE),
        }

    def _gained(self, name: str) -> float | None:
        seen = [look[name] for look in self._looks if name in look]
        return seen[-1] - seen[0] if len(seen) > 1 else None

    def _most(self, name: str) -> int | None:
        return max((int(look[name]) for look in self._looks if name in look), default=None)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            await self._look()

    async def _look(self) -> None:
        import aiohttp

        with suppress(aiohttp.ClientError, TimeoutError, ValueError):
            async with self._session.get("/metrics", allow_redirects=False) as answer:
                text = await answer.content.read(MOST)
                if answer.status == 200:
                    self._looks.append(sums(text.decode()))


def sums(text: str) -> dict[str, float]:
    """Each metric of Prometheus' text, summed over its labels.

    Raises:
        ValueError: it is not such a text.
    """
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found
