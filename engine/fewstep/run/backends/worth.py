"""Whether it pays to make a network ready for work that is known to end: seconds that it saves, and that it costs."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

READING: Final = 0.5  # seconds: OpenVINO imported, the weights' digest taken, a kept model read and compiled
CONVERTING: Final = 4.0  # seconds: torch.export, the conversion, and the check
PER_MILLION: Final = 0.1  # seconds more for each million parameters
SAVED: Final = 0.5  # of torch's time, as long as nothing has been measured
WARM: Final = 1.0  # seconds: a call that takes longer is timed once, since what only its first call does is little


def pays(
    calls: int,
    seconds: float,
    again: Callable[[], object],
    found: Callable[[], Mapping[str, Any] | None],
    parameters: int,
) -> bool:
    """Whether so many calls of a network save more time than making it ready for them costs.

    Args:
        calls: that are ahead, all in all.
        seconds: that torch took for the first.
        again: calls it once more, to be timed where the first was short.
        found: what an earlier process has measured, whose model is then kept too; it takes a digest of the weights.
        parameters: of the network.
    """
    if calls * seconds <= READING:
        return False
    if seconds < WARM:
        started = time.perf_counter()
        again()
        seconds = time.perf_counter() - started
    if calls * seconds <= READING:
        return False
    known = found()
    if known is None:
        return calls * seconds * SAVED > CONVERTING + PER_MILLION * parameters / 1e6
    return calls * seconds * (1 - float(known["milliseconds"]) / float(known["torch_milliseconds"])) > READING
