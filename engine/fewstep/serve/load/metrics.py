"""What a server's /metrics say while a load runs: how many rows share a step, and how many wait."""

import asyncio
from contextlib import suppress
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import aiohttp

ROWS, QUEUE = "fewstep_batch_rows", "fewstep_queue_depth"  # gauges of the server
EVERY = 0.1  # seconds between two looks
MOST = 8 << 20  # bytes of an answer


class Watch:
    """Looks at /metrics again and again while something happens within it; a server without them is no error."""

    def __init__(self, session: "aiohttp.ClientSession") -> None:
        self._session, self._looks = session, list[tuple[float, float]]()

    async def __aenter__(self) -> "Watch":
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    def found(self) -> dict[str, Any]:
        """Looks that there were, and what they saw: rows on average and at most, the most that waited; None without."""
        rows, queued = [look[0] for look in self._looks], [look[1] for look in self._looks]
        return {
            "looks": len(rows),
            "rows_mean": fmean(rows) if rows else None,
            "rows_most": int(max(rows)) if rows else None,
            "queue_most": int(max(queued)) if queued else None,
        }

    async def _watch(self) -> None:
        import aiohttp

        while True:
            with suppress(aiohttp.ClientError, TimeoutError, ValueError):
                async with self._session.get("/metrics", allow_redirects=False) as answer:
                    found = sums((await answer.content.read(MOST)).decode()) if answer.status == 200 else {}
                if ROWS in found:
                    self._looks.append((found[ROWS], found.get(QUEUE, 0.0)))
            await asyncio.sleep(EVERY)


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
