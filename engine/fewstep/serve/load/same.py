"""Before a load: each number of steps draws a picture that decodes, of the right size, and the same again."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fewstep.errors import FewstepError
from fewstep.serve.load.client import Client, alike, check_picture
from fewstep.serve.load.traffic import Shot, Traffic, body

# dB of PSNR. Where the server runs others as well, and not batch_invariant, a picture's rounding is of its company.
LEAST = 40.0


async def check_same(
    client: Client, traffic: Traffic, subjects: Sequence[Mapping[str, Any]], size: tuple[int, int] | None
) -> int:
    """Ask for one picture twice, with each number of steps of a load, without its deadline; how many were compared.

    Raises:
        FewstepError: there is no picture, or it is wrong, or the second is another.
    """
    alone = replace(traffic, deadline_ms=None)
    counts = list(dict.fromkeys(traffic.steps))
    for steps in counts:
        seen: list[bytes] = []
        for _ in range(2):
            outcome = await client.send(Shot(0, None, steps, body(alone, subjects, 0, steps)))
            asked = "its own steps" if steps is None else f"{steps} step{'s' * (steps != 1)}"
            if outcome.picture is None or outcome.error:
                raise FewstepError(f"no load was given: {asked}, status {outcome.status}: {outcome.error}")
            try:
                check_picture(outcome.picture, size)
            except ValueError as error:
                raise FewstepError(f"no load was given: {asked}: {error}") from error
            seen.append(outcome.picture)
        near = alike(*seen)
        if near < LEAST:
            raise FewstepError(f"no load was given: {asked}: one seed gave two pictures, {near:.1f} dB from each other")
    return len(counts)
