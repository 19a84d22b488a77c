"""Whether a backend or torch takes a kind of call: measured in turns, and kept for the next process."""

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, Final

from fewstep.run.backends.call import Call
from fewstep.run.backends.kept import Kept

ROUNDS: Final = 7
SETTLED: Final = 0.01  # seconds: for 6 ms after their work torch's threads wait busily, on cores that others then lack
ENOUGH: Final = 2.0  # seconds of measuring, after which the rounds so far do: a slow network is no close call


def known_choice(kept: Kept | None, call: Call) -> dict[str, Any] | None:
    """What an earlier process has measured of a kind of call; None where none has."""
    found = None if kept is None else kept.finding(call)
    return None if found is None or "milliseconds" not in found else {**found, "choice": "stored"}


def measured_choice(name: str, program: Callable[[], object], module: Callable[[], object]) -> dict[str, Any]:
    """Which of a backend's program and the module is faster, and how fast each is."""
    theirs, ours = race(program, module)
    taken = name if theirs < ours else "torch"
    return {"taken": taken, "choice": "measured", "milliseconds": 1e3 * theirs, "torch_milliseconds": 1e3 * ours}


def keep_choice(kept: Kept | None, call: Call, found: Mapping[str, object]) -> None:
    """Keep what was found out of a kind of call, unless as much is known."""
    if kept is None or found.get("choice") == "stored":
        return
    if "milliseconds" in found or kept.finding(call) is None:
        kept.keep_finding(call, {name: each for name, each in found.items() if isinstance(each, str | int | float)})


def race(one: Callable[[], object], other: Callable[[], object]) -> tuple[float, float]:
    """The median seconds of each of two calls, timed in turns.

    Each is called once before, for what only its first call does; and in every other round they change places, since
    what is called second finds the caches as the other left them.
    """
    calls = (one, other)
    for call in calls:
        call()
    found: tuple[list[float], list[float]] = ([], [])
    started = time.perf_counter()
    for number in range(ROUNDS):
        for place in (0, 1) if number % 2 == 0 else (1, 0):
            time.sleep(SETTLED)
            began = time.perf_counter()
            calls[place]()
            found[place].append(time.perf_counter() - began)
        if time.perf_counter() - started > ENOUGH:
            break
    return median(found[0]), median(found[1])
